import json
from collections import Counter

import msmarco_dl
import numpy as np
import pytest

from retort.store import read_json

TOPICS = ("red", "blue", "green", "white", "gold", "black", "snow", "fire", "water", "stone")  # six of DL19, four of DL20
BUDGET = ["--steps", "2", "--batch", "2", "--candidates", "4", "--choosing", "2", "--frozen-layers", "0"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An invented msmarco_dl: three passages a topic, which RepLLaMA ranks by grade; ada2 gives all passages one score."""
    rng, folder = np.random.default_rng(0), tmp_path / "data" / "msmarco_dl"
    for part in ("qrels", "runs"):
        (folder / part).mkdir(parents=True)
    words = ("house", "river", "child")
    passages = [{"_id": f"{topic}-{word}", "title": "", "text": f"the {topic} {word}"} for topic in TOPICS for word in words]
    tracks = {"dl19": ("dev", TOPICS[:6]), "dl20": ("test", TOPICS[6:])}
    questions = [{"_id": topic, "text": f"what is {topic}", "answers": [], "split": split}
                 for split, topics in tracks.values() for topic in topics]  # fmt: skip
    for file, rows in (("corpus", passages), ("queries", questions)):
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for track, (split, topics) in tracks.items():
        grades = "".join(
            f"{topic}\t{topic}-{word}\t{grade}\n" for topic in topics for word, grade in zip(words, (3, 2, 0), strict=True)
        )
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + grades)
        for system in msmarco_dl.SYSTEMS:
            lines = [line for topic in topics for line in _ranked(topic, passages, system, rng)]
            (folder / "runs" / f"{track}.{system}.tsv").write_text("".join(lines))
    monkeypatch.setenv("RETORT_DATA", str(tmp_path / "data"))
    return folder


def test_students_of_real_scores_stand_beside_their_teachers_and_a_second_start_repeats_the_line(
    data, options, tmp_path, capsys
):
    arguments = ["--out", str(tmp_path / "run"), "--teachers", "repllama", *BUDGET, *options]
    lines = [_line(arguments, capsys) for _ in range(2)]
    assert lines[0] == lines[1]
    line, students = lines[0], ["repllama/kl", "repllama/margin_mse"]
    assert list(line["systems"]) == [*msmarco_dl.SYSTEMS, "untouched", *students]
    assert line["systems"]["repllama"]["nDCG@10"] == [1.0, 1.0, 1.0]
    assert [one["baseline"] for one in line["tests"][:9:3]] == ["untouched", "bm25", "repllama"]
    for name in students:
        (objective,) = read_json(tmp_path / "run" / name / "config.json")["distil"]["objectives"]
        assert objective["teacher_temperature"] == line["audits"]["repllama"]["temperature"]
    assert (tmp_path / "run" / students[1] / "round-0" / "retrieve").is_symlink()  # the untouched student's, once


def test_audits_alone_need_no_model_and_refuse_scores_without_an_order(data, tmp_path, capsys):
    line = _line(["--out", str(tmp_path / "run"), "--teachers"], capsys)
    assert list(line["audits"]) == list(line["systems"]) == list(msmarco_dl.SYSTEMS)
    assert line["audits"]["ada2"]["verdict"] == "do not train"
    assert "stop: constant" in line["audits"]["ada2"]["reasons"]
    assert line["audits"]["repllama"]["verdict"] != "do not train"


def test_dl19_is_divided_into_train_and_dev_and_dl20_is_test(data, tmp_path):
    found = msmarco_dl.read_data(data, tmp_path)
    rows = [json.loads(line) for line in msmarco_dl.divided(found, tmp_path, 2).read_text().splitlines()]
    assert Counter(row["split"] for row in rows) == {"train": 4, "dev": 2, "test": 4}
    assert {row["_id"] for row in rows if row["split"] != "test"} == set(TOPICS[:6])


def _ranked(topic, passages, system, rng):
    """A system's lines for a topic, all passages: the right ones first, or at random, or with one score."""
    right = [row["_id"].startswith(f"{topic}-") * (3.0 - row["_id"].endswith("child")) for row in passages]
    right = [value - row["_id"].endswith("river") / 2 if value else 0.0 for value, row in zip(right, passages, strict=True)]
    noise = rng.normal(size=len(passages))
    scores = {"repllama": 0.7 + np.array(right) / 20 + noise / 1e4, "ada2": np.zeros(len(passages))}.get(system, noise)
    order = np.argsort(-scores, kind="stable")
    return [f"{topic}\t{passages[place]['_id']}\t{rank}\t{scores[place]:.6f}\n" for rank, place in enumerate(order, start=1)]


def _line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    msmarco_dl.main(arguments)
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)
