"""The judge: its orders, what it is asked again, what fails, and that nothing becomes a 0 by failing."""

import json
import re

import numpy as np
import pytest

from retort.records import Group, Passage, Query
from retort.teachers.remote.cache import AnswerCache
from retort.teachers.remote.client import ServerError
from retort.teachers.remote.forms import Grades, Ranking
from retort.teachers.remote.judge import JudgeTeacher


def group(name, *texts):
    return Group(Query(name, f"what is {name}?"), tuple(Passage(f"p{i}", "", text) for i, text in enumerate(texts)))


def numbered(body):
    """The passages that a judge is shown, in order."""
    return re.findall(r"\[\d+\] (\w+)\n", body["messages"][0]["content"])


def by_length(body):
    """A just judge: the longest passage is the best."""
    passages = numbered(body)
    order = sorted(range(len(passages)), key=lambda place: -len(passages[place]))
    return " > ".join(f"[{place + 1}]" for place in order)


def first_first(body):
    """A lazy judge: the passages are best in the order in which they come."""
    return " > ".join(f"[{place + 1}]" for place in range(len(numbered(body))))


def grade(body):
    return str(len(re.search(r"Passage: (\w+)", body["messages"][0]["content"])[1]))


THREE = group("three", "xx", "xxxx", "x")


def test_grades_are_the_scores(server, connect):
    server.judge = grade
    found = JudgeTeacher(connect(server), Grades(scale=5)).score([THREE, group("one", "xxxxx"), group("none")])
    assert [scores.tolist() for scores in found] == [[2, 4, 1], [5], []]
    assert [scores.dtype for scores in found] == [np.float32] * 3


def test_grades_are_expected_ones_where_asked_for(server, connect):
    tops = [{"token": "1", "logprob": np.log(0.5)}, {"token": "3", "logprob": np.log(0.5)}]
    server.judge = lambda body: {
        "message": {"content": "1"},
        "logprobs": {"content": [{**tops[0], "top_logprobs": tops}]},
    }
    found = JudgeTeacher(connect(server), Grades(expected=True)).score([THREE])
    np.testing.assert_allclose(found[0], 2.0, rtol=1e-6)
    assert server.seen[0][2]["top_logprobs"] == 20


def test_a_just_judge_gives_the_same_points_in_every_order(server, connect):
    server.judge = by_length
    found = JudgeTeacher(connect(server), Ranking(), repeats=6).score([THREE])
    assert found[0].tolist() == [1, 2, 0]
    assert len({tuple(numbered(body)) for _, _, body in server.seen}) > 2


def test_places_are_averaged_out(server, connect):
    server.judge = first_first
    client = connect(server)
    assert sorted(JudgeTeacher(client, Ranking(), repeats=1).score([THREE])[0]) == [0, 1, 2]
    assert JudgeTeacher(client, Ranking()).score([THREE])[0].tolist() == [1, 1, 1]  # by two repeats


def test_a_question_gets_the_same_orders_whatever_else_is_asked(server, connect):
    server.judge = first_first
    other = group("other", "x", "xx", "xxx", "xxxx", "xxxxx")
    teacher = JudgeTeacher(connect(server), Ranking(window=3), repeats=3)
    alone, beside = teacher.score([other])[0], teacher.score([THREE, other])[1]
    assert alone.tolist() == beside.tolist()
    assert JudgeTeacher(connect(server), Ranking(window=3), repeats=3, seed=1).score([other])[0].tolist() != alone.tolist()


def test_many_candidates_are_ranked_by_windows(server, connect):
    server.judge = by_length
    texts = ["x" * (1 + place) for place in range(25)]
    found = JudgeTeacher(connect(server), Ranking(window=5), repeats=8).score([group("many", *texts)])[0]
    assert max(len(numbered(body)) for _, _, body in server.seen) == 5
    assert len(server.seen) == 5 * 8
    assert (found[0], found[-1]) == (0, 24)  # the worst beats none in any window, the best all
    assert np.corrcoef(found, np.arange(25))[0, 1] > 0.9


def test_a_single_candidate_is_not_asked_about(server, connect):
    assert JudgeTeacher(connect(server), Ranking()).score([group("one", "x")])[0].tolist() == [0]
    assert server.seen == []


def test_a_malformed_reply_is_asked_for_again_with_the_reason(server, connect):
    server.judge = lambda body: by_length(body) if len(body["messages"]) > 1 else "[1] > [2]"
    teacher = JudgeTeacher(connect(server), Ranking(), repeats=1)
    assert teacher.score([THREE])[0].tolist() == [1, 2, 0]
    assert teacher.counts == {"malformed": 1, "read": 1, "failed": 0}
    said = server.seen[1][2]["messages"][1:]
    assert said[0] == {"role": "assistant", "content": "[1] > [2]"}
    assert said[1]["content"].startswith("This answer is refused: [3] is missing. Write nothing but all numbers once")


def test_a_reply_that_stays_malformed_raises_and_names_the_question(server, connect):
    server.judge = lambda body: "I cannot say."
    teacher = JudgeTeacher(connect(server), Grades(), attempts=2)
    with pytest.raises(
        ValueError, match=r"question 'three': after 2 attempts the judge says 'I cannot say.': it is no whole"
    ):
        teacher.score([THREE])
    assert teacher.counts == {"malformed": 6, "read": 0, "failed": 3}


def test_a_passage_without_a_reply_is_skipped_and_never_a_zero(server, connect):
    server.judge = lambda body: grade(body) if "xxxx" not in body["messages"][0]["content"] else "?"
    teacher = JudgeTeacher(connect(server), Grades(), attempts=2, failed="skip")
    assert str(teacher.score([THREE])[0].tolist()) == "[2.0, nan, 1.0]"
    assert teacher.counts["failed"] == 1


def test_a_repeat_that_fails_leaves_the_others(server, connect):
    server.judge = lambda body: by_length(body) if numbered(body)[0] != "x" else "?"
    teacher = JudgeTeacher(connect(server), Ranking(), repeats=12, attempts=1, failed="skip")
    assert teacher.score([THREE])[0].tolist() == [1, 2, 0]
    assert 0 < teacher.counts["failed"] < 12


def test_repeats_at_a_temperature_are_requests_of_their_own(server, connect):
    server.judge = grade
    JudgeTeacher(connect(server), Grades(scale=5), repeats=2, temperature=0.7).score([group("one", "x")])
    assert sorted((body["seed"], body["temperature"]) for _, _, body in server.seen) == [(0, 0.7), (1, 0.7)]


def test_repeats_of_a_grade_without_temperature_are_refused(server, connect):
    with pytest.raises(ValueError, match="set a temperature, or one repeat"):
        JudgeTeacher(connect(server), Grades(), repeats=2)


def test_a_second_pass_costs_nothing_even_where_replies_were_malformed(server, connect, tmp_path):
    server.judge = lambda body: by_length(body) if len(body["messages"]) > 1 else "?"
    cache = AnswerCache(tmp_path)
    first = JudgeTeacher(connect(server, cache=cache), Ranking(), repeats=1).score([THREE])
    cache.close()
    client = connect(server, cache=AnswerCache(tmp_path))
    assert JudgeTeacher(client, Ranking(), repeats=1).score([THREE])[0].tolist() == first[0].tolist()
    assert (client.cost.requests, client.cost.cache_hits) == (0, 2)


@pytest.mark.parametrize("content", [[{"type": "text", "text": "2"}], 2, {"grade": 2}])
def test_a_reply_that_is_no_text_is_an_error_and_is_not_kept(content, server, connect):
    server.judge = lambda body: {"message": {"content": content}}
    cache = {}
    with pytest.raises(ServerError, match=r"the content of the answer is .* expected a text: look whether the server"):
        JudgeTeacher(connect(server, cache=cache), Grades()).score([THREE])
    assert not cache
    server.judge = grade  # mended
    assert JudgeTeacher(connect(server, cache=cache), Grades(scale=4)).score([THREE])[0].tolist() == [2, 4, 1]


@pytest.mark.parametrize(
    "place",
    [
        {"token": "2", "logprob": -0.1},
        {"tok": "2", "logprob": -0.1, "top_logprobs": []},
        {"token": "2", "logprob": None, "top_logprobs": []},
        {"token": "2", "logprob": float("nan"), "top_logprobs": []},
        {"token": "2", "logprob": -0.1, "top_logprobs": [{"token": "1"}]},
        "2",
    ],
    ids=str,
)
def test_probabilities_that_lack_something_are_an_error_and_are_not_kept(place, server, connect):
    server.judge = lambda body: {"message": {"content": "2"}, "logprobs": {"content": [place]}}
    cache = {}
    with pytest.raises(ServerError, match="expected token, logprob and top_logprobs"):
        JudgeTeacher(connect(server, cache=cache), Grades(expected=True)).score([THREE])
    assert not cache
    assert JudgeTeacher(connect(server), Grades()).score([THREE])[0].tolist() == [2, 2, 2]  # which does not look at them


def test_answers_that_were_paid_for_before_there_were_grammars_are_found(server, connect):
    server.judge = lambda body: by_length(body) if "Rank" in body["messages"][0]["content"] else "2"
    cache = {}
    JudgeTeacher(connect(server, cache=cache), Grades()).score([group("three", "xx")])
    JudgeTeacher(connect(server, cache=cache), Ranking(), repeats=1).score([THREE])
    assert list(cache) == [
        "343f07b8953b281392c6b73a0a97475bf4e8eb01b6162b461fadc8c9fe4a1116",
        "8d3231510e52d41bd8e681c4e857048f02b5fe4e6e8f1f842c3b424f460d3a0c",
    ]


def test_a_grade_is_held_to_json_where_the_server_takes_a_schema(server, connect):
    server.judge = lambda body: json.dumps({"grade": int(grade(body))})
    found = JudgeTeacher(connect(server), Grades(scale=5, grammar="json_schema")).score([THREE])
    assert found[0].tolist() == [2, 4, 1]
    body = server.seen[0][2]
    wanted = body["response_format"]["json_schema"]["schema"]
    assert wanted["properties"] == {"grade": {"type": "integer", "enum": [0, 1, 2, 3, 4, 5]}}
    assert (wanted["required"], wanted["additionalProperties"]) == (["grade"], False)
    assert 'as {"grade": 2}, without any other word' in body["messages"][0]["content"]


def test_a_ranking_is_held_to_json_where_the_server_takes_a_schema(server, connect):
    server.judge = lambda body: json.dumps({"ranking": [int(number) for number in re.findall(r"\d+", by_length(body))]})
    found = JudgeTeacher(connect(server), Ranking(grammar="json_schema")).score([THREE])
    assert found[0].tolist() == [1, 2, 0]
    wanted = server.seen[0][2]["response_format"]["json_schema"]["schema"]
    numbers = {"type": "integer", "enum": [1, 2, 3]}
    assert wanted["properties"] == {"ranking": {"type": "array", "items": numbers, "minItems": 3, "maxItems": 3}}


@pytest.mark.parametrize(
    ("form", "judge"), [(Grades(scale=5, grammar="regex"), grade), (Ranking(grammar="regex"), by_length)]
)
def test_a_pattern_is_sent_that_right_replies_match(form, judge, server, connect):
    server.judge = judge
    JudgeTeacher(connect(server), form).score([THREE])
    for _, _, body in server.seen:
        assert body["structured_outputs"] == {"regex": body["regex"]}
        assert re.fullmatch(body["regex"], judge(body))
        assert not re.fullmatch(body["regex"], judge(body) + ".")


def test_what_comes_in_spite_of_a_grammar_is_read_as_strictly(server, connect):
    server.judge = lambda body: '{"ranking": [1, 2, 2]}' if len(body["messages"]) > 1 else by_length(body)
    teacher = JudgeTeacher(connect(server), Ranking(grammar="json_schema"), attempts=2)
    with pytest.raises(ValueError, match=r"\[2\] stands there twice; expected all numbers once.* in the form {\"ranking\""):
        teacher.score([THREE])
