"""Servers are billed for the requests that their form makes, in its own words, and never below what they charge."""

import math

import pytest

from retort.asking import REMINDER, TEMPLATE, Wording, asked, wording
from retort.config import TeacherSettings
from retort.records import Group, Passage, Query
from retort.teachers.remote.client import Client
from retort.teachers.remote.forms import Grades, Ranking
from retort.teachers.remote.judge import JudgeTeacher
from retort.teachers.remote.likelihood import RemoteLikelihoodTeacher
from retort.teachers.remote.server import Server

SERVER = {"base_url": "http://localhost:1/v1", "requests_per_minute": 30}
PRICED = {**SERVER, "price_per_million": {"prompt": 10.0, "completion": 100.0}}
UNASKED = Client(Server(base_url="http://localhost:1/v1", model="m"))
LONG = Passage("p", "The Snow", "white cold " * 200)
GROUPS = [Group(Query("q", "what is it", ("snow",)), (LONG, Passage("r", "", "rain")))]


def words(text: str) -> int:
    return len(text.split())


def judge(server=PRICED, **settings) -> TeacherSettings:
    chosen = {"repeats": 1, **settings}
    return TeacherSettings.model_validate({"kind": "judge", "model": "m", "server": server, "judge": chosen})


def test_a_ranking_is_asked_for_by_the_window_and_grades_by_the_passage():
    ranked = asked(judge(window=10, repeats=2), Wording(Ranking(window=10), 50.0, 30.0), 34, 25)
    graded = asked(judge(form="grades"), Wording(Grades(), 50.0, 30.0), 34, 25)
    assert ranked.requests == 34 * math.ceil(25 / 10) * 2
    assert graded.requests == 34 * 25


def test_the_time_is_what_the_bound_on_requests_leaves_at_least():
    found = asked(judge(window=5), Wording(Ranking(window=5), 50.0, 30.0), 34, 6)
    assert found.seconds == 60 * 68 / 30
    free = judge({"base_url": "http://localhost:1/v1"}, window=5)
    assert asked(free, Wording(Ranking(window=5), 50.0, 30.0), 34, 6).seconds == 0.0


def test_money_is_that_of_the_last_attempt_and_of_all_that_were_refused_before_it():
    """34 questions, 2 windows of 3: prompts of 50 + 3 x 30 tokens, replies of 3 x 8, three times, each behind the others."""
    found = asked(judge(window=3, attempts=3), Wording(Ranking(window=3), 50.0, 30.0), 34, 6)
    prompts, replies = 68 * (50 + 90), 68 * 24
    assert found.tokens == prompts + replies
    refused = 3 * 68 * (24 + REMINDER)  # one stands in the second prompt, two in the third
    assert found.money == pytest.approx((10 * (3 * prompts + refused) + 100 * 3 * replies) / 1e6)
    once = asked(judge(window=3, attempts=1), Wording(Ranking(window=3), 50.0, 30.0), 34, 6)
    assert once.money == pytest.approx((10 * prompts + 100 * replies) / 1e6)


def test_a_likelihood_is_one_request_a_passage_with_a_token_of_reply():
    teacher = TeacherSettings.model_validate({"kind": "remote", "model": "m", "server": PRICED})
    found = asked(teacher, Wording(None, 40.0, 30.0), 34, 6)
    assert (found.requests, found.tokens, found.seconds) == (204, 204 * 71, 408.0)
    assert found.money == pytest.approx(204 * (70 * 10 + 100) / 1e6)


def test_without_prices_there_is_no_money():
    assert asked(judge(SERVER), Wording(Ranking(), 50.0, 30.0), 34, 6).money == 0.0


@pytest.mark.parametrize("form", [Ranking(), Grades()])
def test_the_tokens_of_a_judges_request_are_those_of_its_own_words_around_uncut_passages(form):
    found = wording(JudgeTeacher(UNASKED, form, passage_format="{title} {text}"), GROUPS, words)
    shown = 1 if form == Grades() else 2
    texts = ["The Snow " + LONG.text, "rain"]
    request = words(form.asked("what is it", texts[:shown]))
    of_one = found.passage if shown == 2 else found.passage + (402 - 1) / 2  # of the first, not of the mean
    assert found.frame - TEMPLATE + shown * of_one == request
    assert found.passage > 200


def test_passages_are_counted_as_the_teacher_cuts_them():
    whole, cut = (
        wording(JudgeTeacher(UNASKED, Grades(), passage_format="{title} {text}", words=most), GROUPS, words)
        for most in (None, 7)
    )
    assert (whole.passage, cut.passage) == ((402 + 1) / 2, (9 + 1) / 2)
    assert whole.frame == cut.frame


def test_a_likelihoods_prompt_is_counted_with_what_is_scored():
    found = wording(RemoteLikelihoodTeacher(UNASKED), GROUPS, words)
    assert found.frame == TEMPLATE + words("Question: what is it\nAnswer: snow")
    assert found.form is None
