"""The audit of a run's labels and of files of scores; what is proven of it on sabotaged teachers is in tests/evaluation."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from retort.auditing import AUDIT, audit_file, audits, heed
from retort.cli import app
from retort.config import load
from retort.pipeline import run
from retort.store import read_json
from tiny_run import PASSAGES, SPLITS, config


def scores(path, sign: float = 1.0):
    """A TREC run that puts the passage with the answer first, or last."""
    rng = np.random.default_rng(0)
    pairs = [(i, j) for numbers in SPLITS.values() for i in numbers for j in {i, *rng.permutation(PASSAGES)[:9].tolist()}]
    lines = [f"q{i} Q0 p{j} 1 {sign * (6.0 * (i == j) + rng.random()):.6f} teacher\n" for i, j in pairs]
    path.write_text("".join(lines))
    return path


def questions(sources, folder):
    text = "".join((sources / f"{split}.jsonl").read_text() for split in SPLITS)
    (folder / "all.jsonl").write_text(text)
    return str(folder / "all.jsonl")


def test_every_round_of_a_run_is_audited_beside_bm25_and_the_student_before(finished):
    one, two = audits(finished, None, None, [])
    assert (one.name, two.name) == ("teacher-1", "teacher-2")
    assert [other.name for other in one.agreements] == ["bm25", "student before"]
    assert read_json(finished / "round-1" / "distil" / AUDIT)["verdict"] == one.verdict


def test_the_report_shows_the_audit_of_the_best_round(finished):
    assert "Audit of teacher-" in (finished / "report" / "index.html").read_text()


def test_a_good_file_of_scores_is_told_from_one_with_the_wrong_sign(sources, tmp_path):
    asked, corpus = questions(sources, tmp_path), str(sources / "corpus.jsonl")
    good = audit_file(str(scores(tmp_path / "good.trec")), corpus, asked)
    flipped = audit_file(str(scores(tmp_path / "flipped.trec", sign=-1.0)), corpus, asked)
    assert good.verdict != "do not train"
    assert flipped.verdict == "do not train"
    assert any("sign" in reason.name or "sign" in reason.text for reason in flipped.reasons)
    said = []
    heed(replace(good, verdict="train"), refuse=True, say=said.append)
    assert not said
    heed(flipped, refuse=False, say=said.append)
    assert said[0].startswith("the audit of flipped says: do not train, because ")
    with pytest.raises(ValueError, match="the audit of flipped says: do not train, because"):
        heed(flipped, refuse=True, say=said.append)


def test_a_run_that_refuses_such_labels_stops_before_its_student_is_trained(sources, tmp_path):
    same = "".join(f"q{i} Q0 p{j} 1 2.0 teacher\n" for i in range(26) for j in range(5))
    (tmp_path / "same.trec").write_text(same)
    teacher = [{"kind": "run", "scores": str(tmp_path / "same.trec")}]
    chosen = config(sources, rounds=1, label={"teachers": teacher, "depth": 10}, distil={"audit": "refuse"})
    with pytest.raises(ValueError, match=r"do not train.*or set distil.audit to 'warn'"):
        run(chosen, tmp_path / "run")
    assert not (tmp_path / "run" / "round-1" / "distil" / "log.jsonl").exists()
    assert load(tmp_path / "run" / "config.json").distil.audit == "refuse"


def test_the_command_prints_verdict_reasons_and_numbers(sources, finished, tmp_path):
    result = CliRunner().invoke(app, ["audit", str(finished)])
    assert result.exit_code == 0
    assert result.stdout.startswith("teacher-1: ")
    file = ["audit", str(scores(tmp_path / "a.trec")), "--corpus", str(sources / "corpus.jsonl")]
    found = CliRunner().invoke(app, [*file, "--queries", questions(sources, tmp_path), "--json"])
    assert json.loads(found.stdout)["name"] == "a"


def test_a_file_without_its_corpus_and_a_folder_without_labels_are_refused(tmp_path, sources):
    with pytest.raises(ValueError, match="give --corpus and --queries"):
        audits(scores(tmp_path / "a.trec"), None, None, [])
    (tmp_path / "config.json").write_text(config(sources).model_dump_json())
    with pytest.raises(ValueError, match="holds no labels yet"):
        audits(tmp_path, None, None, [])
