"""What a server is told of the form of a reply, and what is taken for a reply in JSON."""

import pytest

from retort.teachers.remote.forms import GRADE_JSON, RANKING_JSON, Grades, Reply
from retort.teachers.remote.grammar import MalformedError, constraint, unwrapped


def test_without_a_grammar_a_request_has_no_field_more():
    assert constraint("none", "grade", {"type": "integer"}, "(0|1)") == {}


@pytest.mark.parametrize("text", ['{"grade": 2}', ' {\n "grade":2}\n'])
def test_a_value_is_taken_out_of_its_object(text):
    assert unwrapped(text, GRADE_JSON) == [2]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("2", GRADE_JSON), ("", GRADE_JSON), ("{}", GRADE_JSON), ('{"grade": "2"}', GRADE_JSON),
        ('{"grade": 2.0}', GRADE_JSON), ('{"grade": true}', GRADE_JSON), ('{"grade": [2]}', GRADE_JSON),
        ('{"grade": 2, "why": 1}', GRADE_JSON), ('Sure: {"grade": 2}', GRADE_JSON),
        ('{"ranking": 2}', RANKING_JSON), ('{"ranking": [2, "1"]}', RANKING_JSON), ("[" * 100_000, RANKING_JSON),
    ],
)  # fmt: skip
def test_anything_else_is_refused(text, form):
    with pytest.raises(MalformedError, match="it is not of the form"):
        unwrapped(text, form)


@pytest.mark.parametrize(("value", "reason"), [(4, "4 is more than 3"), (-1, "no whole number")])
def test_a_grade_in_json_is_one_of_the_scale(value, reason):
    with pytest.raises(MalformedError, match=reason):
        Grades(grammar="json_schema").points(Reply(f'{{"grade": {value}}}'), 1, 9)


def test_an_expected_grade_is_found_in_json():
    tops = [{"token": token, "logprob": -0.1, "top_logprobs": []} for token in ('{"', "grade", '":', " 2", "}")]
    form = Grades(expected=True, grammar="json_schema")
    assert form.points(Reply('{"grade": 2}', tops), 1, 9).tolist() == [2]
