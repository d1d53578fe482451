import json
from pathlib import Path

import gold_baseline
import pytest
import rows
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformerTrainer

from retort.evaluation.metrics import PerQuery
from retort.indexes.bm25 import BM25Index
from retort.students.loading import load_student


def test_without_data_nothing_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RETORT_DATA", raising=False)
    gold_baseline.main(["--out", str(tmp_path / "gold")])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("skipped: ")
    assert not (tmp_path / "gold").exists()


def test_a_triplet_is_a_question_its_gold_passage_and_the_best_other_one_of_bm25(data, options):
    config = rows.config_on(data, Path(options[1]), options[3::2])
    gold = gold_baseline.read_data(config, data / "qrels" / "train.tsv", None)
    bm25 = BM25Index.build(gold.corpus)
    found = gold_baseline.triplets(load_student(config.distil.student), gold, "train", bm25)
    first = gold.queries["train"][0]
    best = [gold.corpus[row] for row in bm25.search([first], 5, name="bm25").passages.tolist()]
    other = next(passage for passage in best if passage.id != "p0")
    assert found[0] == {
        "anchor": first.text,
        "positive": f"{gold.corpus[0].title} {gold.corpus[0].text}",
        "negative": f"{other.title} {other.text}",
    }
    assert len(found) == len(gold.queries["train"]) == 12


def test_the_baseline_trains_on_grades_of_train_and_prints_one_line_of_the_loop_s_shape(data, options, tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "gold"), "--steps", "3", "--batch", "4", *options]
    lines = [_line(arguments, capsys) for _ in range(2)]
    assert lines[0] == lines[1]  # the second start finds the student trained
    assert list(lines[0]["runs"]) == ["gold"]
    assert list(lines[0]["runs"]["gold"]) == list(rows.MEASURES)
    assert lines[0]["seconds"]["train"] > 0
    kept = PerQuery.read(tmp_path / "gold" / "test.gold.parquet")
    assert kept.means()["R@5"] == pytest.approx(lines[0]["runs"]["gold"]["R@5"][0], abs=1e-4)


def test_training_brings_questions_closer_to_their_gold_passages(data, options, tmp_path, capsys):
    few, many = (
        _line(
            ["--out", str(tmp_path / steps), "--steps", steps, "--batch", "4", "--learning-rate", "1e-3", *options], capsys
        )
        for steps in ("1", "15")
    )
    assert many["runs"]["gold"]["nDCG@10"][0] > few["runs"]["gold"]["nDCG@10"][0]


def test_a_training_that_was_stopped_goes_on_at_its_last_epoch_and_ends_with_the_same_weights(
    data, options, tmp_path, monkeypatch, capsys
):
    stopped, whole = (["--out", str(tmp_path / name), "--batch", "4", *options] for name in ("stopped", "whole"))
    evaluate, epochs = SentenceTransformerTrainer.evaluate, []

    def stops_in_the_third_epoch(trainer, *arguments, **settings):
        epochs.append(trainer.state.epoch)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return evaluate(trainer, *arguments, **settings)

    monkeypatch.setattr(SentenceTransformerTrainer, "evaluate", stops_in_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        gold_baseline.main(stopped)
    lines = [_line(arguments, capsys) for arguments in (stopped, whole)]
    assert epochs == [1, 2, 3, 3, 1, 2, 3]
    assert lines[0]["runs"] == lines[1]["runs"]
    weights = [load_file(tmp_path / name / "train" / "model" / "model.safetensors") for name in ("stopped", "whole")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def _line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    gold_baseline.main(arguments)
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)
