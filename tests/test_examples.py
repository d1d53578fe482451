"""Every example runs as a user runs it, and prints what it promises."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_fits_on_a_screen(path):
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_has_a_test_of_what_it_prints(path):
    assert f'_printed("{path.stem}", capsys)' in Path(__file__).read_text()


def test_labels_are_one_raw_score_for_each_passage_and_shares_that_sum_to_one(capsys):
    lines = _printed("label_passages", capsys)
    assert [line.split()[0] for line in lines] == ["River", "Moon", "Bread"]
    assert sum(_numbers(line)[-1] for line in lines) == pytest.approx(1.0, abs=2e-3)


def test_the_loss_and_its_gradient_are_those_of_the_paper(capsys):
    lines = _printed("kl_of_runs", capsys)
    teachers, students = [[2.0, 1.0, -1.0], [0.5, 3.0, 0.0]], [[1.9, 1.1, -1.0], [3.0, 0.0, 0.5]]
    for line, teacher, student in zip(lines, teachers, students, strict=True):
        gold, own = (np.exp(scores) / np.exp(scores).sum() for scores in (teacher, student))
        loss, *gradient = _numbers(line.partition(":")[2])
        assert loss == pytest.approx((gold * np.log(gold / own)).sum(), abs=1e-4)
        assert gradient == pytest.approx((own - gold) / len(lines), abs=1e-3)


def test_bm25_finds_every_fact_and_chance_does_not(capsys):
    lines = _printed("evaluate_a_run", capsys)
    assert lines[:3] == [f"bm25 {name:12} 1.000 (95% 1.000 to 1.000)" for name in ("RR@10", "R@1", "has_answer@1")]
    assert all(re.fullmatch(r"bm25 - .* \+(0\.[5-9]\d\d|1\.000), p 0\.0[0-4]\d", line) for line in lines[3:])


def test_ckl_in_a_stock_trainer_puts_the_positives_before_the_hard_negatives(capsys):
    lines = [line for line in _printed("ckl_in_sentence_transformers", capsys) if "hard negative" in line]
    before, after = map(_numbers, lines)
    assert max(before) < 0 < min(after)


def test_a_cross_encoder_trained_on_bm25s_negatives_ranks_where_bm25_cannot(capsys):
    lines = [line for line in _printed("train_cross_encoder", capsys) if "teacher:" in line]
    parts = [re.fullmatch(r"(\w+) .* BM25: (.*?) +teacher: (.*?) +[-+]\d+\.\d\d", line).groups() for line in lines]
    kinds = {"what": "food", "where": "home", "how": "age"}
    assert len(parts) == 12
    assert all(teacher.split()[1] == kinds[asked] for asked, _, teacher in parts)
    assert sum(bm25 == teacher for _, bm25, teacher in parts) == 4  # one of three by chance: the ties of equal passages


def _printed(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out.splitlines()


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)]
