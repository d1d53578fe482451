import json
from pathlib import Path

import fairytaleqa
import pytest

RUNS = ["bm25", "untouched", "teacher-1", "round-1", "teacher-2", "round-2"]


def test_without_data_nothing_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RETORT_DATA", raising=False)
    fairytaleqa.main(["--out", str(tmp_path / "run")])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("skipped: ")
    assert not (tmp_path / "run").exists()


def test_the_loop_runs_without_grades_of_train_and_prints_one_line_which_a_second_start_repeats(
    data, options, tmp_path, capsys
):
    (data / "qrels" / "train.tsv").unlink()
    arguments = ["--out", str(tmp_path / "run"), *options]
    lines = [_line(arguments, capsys) for _ in range(2)]
    assert list(lines[0]["runs"]) == RUNS
    assert list(lines[0]["runs"]["round-2"]) == ["R@1", "R@5", "R@20", "R@100", "nDCG@10", "has_answer@20"]
    assert lines[0]["runs"]["bm25"]["R@5"] == [1.0, 1.0, 1.0]  # four test questions that name what their passage is about
    assert {"prepare", "round-1/read", "round-2/distil", "report"} <= lines[0]["seconds"].keys()
    assert lines[0] == lines[1]  # nothing was done again


def _line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    fairytaleqa.main(arguments)
    (line,) = capsys.readouterr().out.splitlines()
    assert Path(arguments[1]).is_dir()
    return json.loads(line)
