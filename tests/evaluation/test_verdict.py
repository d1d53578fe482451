"""The report's answer: better than whom, by how much, how surely, in words."""

import math

import pytest

from retort.evaluation.significance import Comparison
from retort.evaluation.verdict import RunRow, answer

ROWS = [
    RunRow("BM25", role="baseline", means={"R@5": 0.703}),
    RunRow("MiniLM", role="student", means={"R@5": 0.415}, round=0),
    RunRow("labels 1", role="teacher", means={"R@5": 0.9}, round=1),
    RunRow("round-1", role="round", means={"R@5": 0.621}, round=1, best=True),
    RunRow("round-2", role="round", means={"R@5": 0.6}, round=2),
]


def against(baseline, difference, adjusted_p, *, system="round-1", measure="R@5"):
    means = {row.name: row.means["R@5"] for row in ROWS}
    ends = {"low": difference - 0.02, "high": difference + 0.02}
    counts = {"wins": 3, "ties": 2, "losses": 1}
    values = {"mean": means[system], "baseline_mean": means[baseline], "difference": difference} | ends | counts
    return Comparison(system=system, baseline=baseline, measure=measure, p=adjusted_p / 2, adjusted_p=adjusted_p, **values)


def test_the_sentence_says_how_far_above_and_below_and_how_sure():
    found = answer(ROWS, [against("BM25", -0.082, 0.0002), against("MiniLM", 0.206, 0.012)], "R@5")
    assert found.question == "Is round-1 better than the untouched student and BM25?"
    assert f"{found.verdict} {found.text}".replace("\u2212", "-") == (
        "In part. R@5 of round-1 is 62.1: 20.6 points above the untouched student "
        "(41.5; 95% interval +18.6 to +22.6; p = 0.012) and 8.2 points below BM25 "
        "(70.3; 95% interval -10.2 to -6.2; p < 0.001)."
    )


def test_an_answer_from_the_questions_that_chose_the_round_says_so():
    cited = [against("BM25", 0.1, 0.01), against("MiniLM", 0.206, 0.012)]
    assert "These questions also chose the round" in answer(ROWS, cited, "R@5", chosen_here=True).text
    assert "chose" not in answer(ROWS, cited, "R@5").text


@pytest.mark.parametrize(
    ("student", "bm25", "kind"),
    [
        ((0.2, 0.01), (0.1, 0.05), "yes"),
        ((0.2, 0.01), (0.1, 0.051), "partly"),
        ((0.2, 0.01), (-0.1, 0.01), "partly"),
        ((0.2, 0.3), (0.1, math.nan), "no"),
        ((-0.2, 0.001), (-0.1, 0.001), "no"),
    ],
)
def test_the_verdict_counts_only_significant_gains(student, bm25, kind):
    assert answer(ROWS, [against("MiniLM", *student), against("BM25", *bm25)], "R@5").kind == kind


def test_a_gain_over_one_of_two_rivals_is_no_full_yes_where_the_other_was_not_compared():
    assert answer(ROWS, [against("MiniLM", 0.2, 0.001)], "R@5").kind == "partly"


def test_an_insignificant_difference_is_said_to_be_chance():
    assert "p = 0.410, which chance may explain" in answer(ROWS, [against("MiniLM", 0.2, 0.41)], "R@5").text


def test_no_difference_is_level():
    assert "is 62.1: level with BM25 (" in answer(ROWS, [against("BM25", 0.0002, 1.0)], "R@5").text


def test_comparisons_of_other_measures_and_other_rounds_do_not_answer():
    others = [against("BM25", 0.2, 0.001, measure="R@1"), against("BM25", 0.2, 0.001, system="round-2")]
    found = answer(ROWS, others, "R@5")
    assert found.kind == "untested"
    assert found.text == ("R@5 of round-1 is 62.1 (the untouched student 41.5, BM25 70.3); no significance test was given.")


def test_the_last_round_is_asked_about_where_none_is_marked():
    rows = [row for row in ROWS if not row.best]
    assert answer(rows, [], "R@5").question.startswith("Is round-2 better")


def test_keeping_the_untouched_student_is_said():
    rows = [RunRow("MiniLM", role="student", means={"R@5": 0.415}, best=True), ROWS[-1]]
    found = answer(rows, [against("MiniLM", -0.1, 0.01, system="round-2")], "R@5")
    assert found.text.endswith("Kept was the untouched student, not a round.")


def test_without_a_round_there_is_no_answer_yet():
    assert answer(ROWS[:2], [], "R@5").text == "No round has been distilled: the report holds no student."
