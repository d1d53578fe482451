"""The grammar of judgements: what is read, what is refused and why, and the points that come of it."""

import math

import numpy as np
import pytest

from retort.teachers.remote.forms import (
    Grades,
    MalformedError,
    Ranking,
    Reply,
    expected_grade,
    parse_grade,
    parse_ranking,
)


@pytest.mark.parametrize(("text", "grade"), [("0", 0), ("3", 3), ("  2\n", 2), ("02", 2)])
def test_a_grade_is_a_whole_number_and_nothing_else(text, grade):
    assert parse_grade(text, 3) == grade


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no whole number"), ("garbage", "no whole number"), ("Grade: 2", "no whole number"), ("2.", "no whole number"),
        ("2.5", "no whole number"), ("-1", "no whole number"), ("1 2", "no whole number"), ("two", "no whole number"),
        ("2/3", "no whole number"), ("\u0662", "no whole number"), ("<think></think>2", "no whole number"),
        ("4", "4 is more than 3"), ("10", "10 is more than 3"),
    ],
)  # fmt: skip
def test_another_grade_is_refused_with_the_reason(text, reason):
    with pytest.raises(MalformedError, match=reason):
        parse_grade(text, 3)


@pytest.mark.parametrize("text", ["[2] > [1] > [3]", "[2]>[1]>[3]", " [2] >\n[1] > [3]\n"])
def test_a_ranking_is_all_numbers_in_brackets_by_greater_signs(text):
    assert parse_ranking(text, 3) == (2, 1, 3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not of the form"), ("garbage", "not of the form"), ("2 > 1 > 3", "not of the form"),
        ("[2], [1], [3]", "not of the form"), ("[2] > [1] > [3].", "not of the form"), ("[2] > [1] >", "not of the form"),
        ("Ranking: [2] > [1] > [3]", "not of the form"), ("[2] > [1] > [3] as the second tells it", "not of the form"),
        ("[2] > [1] = [3]", "not of the form"), ("[2] > [1]", r"\[3\] is missing"), ("[2] > [1] > [2]", "twice"),
        ("[2] > [1] > [3] > [1]", r"\[1\] stands there twice"), ("[2] > [1] > [4]", r"\[4\] is no passage"),
        ("[0] > [1] > [2]", r"\[0\] is no passage"),
    ],
)  # fmt: skip
def test_another_ranking_is_refused_with_the_reason(text, reason):
    with pytest.raises(MalformedError, match=reason):
        parse_ranking(text, 3)


def test_points_of_a_ranking_are_the_passages_beaten():
    assert Ranking().points(Reply("[2] > [3] > [1]"), 3, 3).tolist() == [0, 2, 1]


def test_points_of_a_window_stand_for_all_candidates():
    assert Ranking().points(Reply("[2] > [3] > [1]"), 3, 21).tolist() == [0, 20, 10]


@pytest.mark.parametrize("window", [3, 4, 10])
def test_windows_hold_every_passage_once_and_none_alone(window):
    rng = np.random.default_rng(0)
    for count in range(2, 60):
        shares = Ranking(window=window).shares(count, rng)
        assert sorted(np.concatenate(shares)) == list(range(count))
        assert all(2 <= len(share) <= window for share in shares)


def test_a_single_candidate_is_not_ranked_but_graded():
    rng = np.random.default_rng(0)
    assert Ranking().shares(1, rng) == []
    assert [share.tolist() for share in Grades().shares(1, rng)] == [[0]]


def test_passages_are_numbered_in_the_order_shown():
    assert "[1] rain\n\n[2] snow" in Ranking().asked("what falls?", ["rain", "snow"])


def test_braces_in_a_passage_stay():
    assert "{x} {question}" in Grades().asked("why {y}?", ["{x} {question}"])


def likely(**probabilities):
    return [{"token": token, "logprob": math.log(p)} for token, p in probabilities.items()]


def test_an_expected_grade_is_the_mean_of_likely_grades():
    tops = [
        {"token": " ", "logprob": -0.1, "top_logprobs": []},
        {
            "token": "3",
            "logprob": math.log(0.5),
            "top_logprobs": likely(**{"3": 0.5, "1": 0.2, " 2": 0.1, "7": 0.1, "x": 0.1}),
        },
    ]
    assert expected_grade(tops, 3, 3) == pytest.approx((3 * 0.5 + 1 * 0.2 + 2 * 0.1) / 0.8)
    assert Grades(expected=True).points(Reply(" 3", tops), 1, 9)[0] == pytest.approx(1.9 / 0.8)


def test_an_expected_grade_without_its_token_is_refused():
    with pytest.raises(MalformedError, match="no token of it is 3 alone"):
        expected_grade([{"token": "03", "logprob": -1.0, "top_logprobs": likely(**{"3": 0.5})}], 3, 3)


def test_grades_that_are_all_too_unlikely_for_a_number_have_a_mean():
    tops = [{"token": token, "logprob": -9999.0} for token in ("1", "3")]  # what vLLM writes for minus infinity
    assert expected_grade([{**tops[0], "top_logprobs": tops}], 1, 3) == 2


def test_a_grade_without_any_probability_is_refused():
    with pytest.raises(MalformedError, match="its grade has no probability"):
        expected_grade([{"token": "1", "logprob": -math.inf, "top_logprobs": []}], 1, 3)


def test_an_answer_without_probabilities_is_refused_where_they_are_wanted():
    answer = {"choices": [{"message": {"content": "2"}, "logprobs": None}]}
    assert Grades().read(answer) == Reply("2")
    with pytest.raises(ValueError, match="set expected: false"):
        Grades(expected=True).read(answer)


def test_a_message_without_content_is_an_empty_reply():
    assert Ranking().read({"choices": [{"message": {"content": None, "refusal": "no"}}]}) == Reply("")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: Grades(scale=0), "expected 1 to 100"),
        (lambda: Grades(scale=10, expected=True), "expected 1 to 9"),
        (lambda: Grades(prompt="{question}"), "expected the fields"),
        (lambda: Ranking(window=2), "expected 3 or more"),
        (lambda: Ranking(prompt="{passages}"), "expected the fields"),
    ],
)
def test_settings_that_ask_for_nothing_sensible_are_refused(build, reason):
    with pytest.raises(ValueError, match=reason):
        build()
