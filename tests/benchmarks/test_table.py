import json
from pathlib import Path

import pytest
import table
from speed import Target

HEAD = {
    "commit": "0123456789",
    "date": "2026-11-21",
    "machine": {"cpu": "AMD EPYC", "threads": 2, "capability": "AVX512", "gpu": None},
    "command": "benchmarks/demo.py --set 'a=b|c'",
}
VALUES = {measure: [0.5, 0.25, 0.75] for measure in table.MEASURES}
SECONDS = {
    "prepare": 5, "round-0/encode": 50, "round-1/read": 60, "round-1/label": 30, "round-1/distil": 120,
    "round-2/read": 60, "round-2/distil": 60,
}  # fmt: skip
LOOP = {"benchmark": "fairytaleqa", **HEAD, "seconds": SECONDS, "runs": dict.fromkeys(["bm25", "round-2"], VALUES)}
GOLD = {"benchmark": "gold_baseline", **HEAD, "seconds": {"train": 90}, "runs": {"gold": VALUES}}
TEST = {
    "system": "ckl", "baseline": "kl", "measure": "RR@10", "difference": 0.02, "low": -0.01, "high": 0.05, "p": 0.04,
    "adjusted_p": 0.12, "wins": 7, "ties": 2, "losses": 1,
}  # fmt: skip
MEANS = {"ckl": {"RR@10": [0.5, 0.25, 0.75]}}
STUDY = {"benchmark": "refinement", **HEAD, "systems": MEANS, "tests": [TEST]}
STUDY |= {"hard": {"questions": 9, "systems": MEANS, "tests": [TEST]}}
LABEL = {"benchmark": "label_pass", **HEAD, "targets": [Target("label pass", "FiD", at_least=5).found(3.25)]}


def test_both_systems_stand_in_one_table_and_speed_in_another(tmp_path, capsys):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    files[0].write_text(json.dumps(LOOP) + "\n" + json.dumps(LABEL) + "\n")
    files[1].write_text(json.dumps(GOLD) + "\n")
    table.main(map(str, files))
    quality, speed = capsys.readouterr().out.split("\n\n")
    assert [row.split(" | ")[0].strip("| ") for row in quality.splitlines()[2:]] == ["bm25", "round-2", "gold"]
    assert "| label pass | FiD | >= 5 x | 3.25 | falls short |" in speed


def test_a_cell_is_points_with_their_interval_and_a_bar_in_it_is_escaped():
    cells = table.tables([GOLD]).splitlines()[2].replace("\\|", "/").strip("| ").split(" | ")
    assert cells[1] == "50.0 (25.0 to 75.0)"
    assert cells[-4:-1] == ["0123456789", "2026-11-21", "AMD EPYC, 2 threads, AVX512"]
    assert cells[-1] == "`benchmarks/demo.py --set 'a=b/c'`"


def test_a_study_has_a_table_of_its_systems_and_one_of_its_tests_and_names_its_hard_questions():
    systems, tests = table.tables([STUDY, {**STUDY, "hard": {"questions": 0}}]).split("\n\n")
    assert systems.startswith("| system | RR@10 | commit |")
    assert [row.split(" | ")[0].strip("| ") for row in systems.splitlines()[2:]] == ["ckl", "ckl, 9 hard questions", "ckl"]
    cells = tests.splitlines()[3].strip("| ").split(" | ")
    assert cells[:7] == ["ckl, 9 hard questions", "kl", "RR@10", "2.0 (-1.0 to 5.0)", "0.0400", "0.1200", "7, 2, 1"]


@pytest.mark.parametrize(
    ("name", "seconds", "expected"),
    [
        ("bm25", SECONDS, ""),
        ("untouched", SECONDS, ""),
        ("teacher-1", SECONDS, "1.5 min"),  # its reader and its own pass, not the student that learns from it
        ("round-1", SECONDS, "3.5 min"),
        ("teacher-2", SECONDS, "4.5 min"),
        ("round-2", SECONDS, "5.5 min"),
        ("gold", {"train": 90}, "1.5 min"),
    ],
)
def test_training_counts_all_stages_behind_a_run(name, seconds, expected):
    assert table.trained_for(name, seconds) == expected


def test_the_recorded_tables_have_the_columns_that_are_printed():
    results = (Path(__file__).parents[2] / "benchmarks" / "RESULTS.md").read_text()
    for columns in (table.QUALITY, table.SPEED):
        assert "| " + " | ".join(columns) + " |\n" in results


def test_a_file_that_is_not_there_is_a_reason_on_stderr(tmp_path, capsys):
    table.main([str(tmp_path / "none.jsonl")])
    printed = capsys.readouterr()
    assert "none.jsonl is not there" in printed.err
    assert printed.out == ""
