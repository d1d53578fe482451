"""The client against a real server: what is tried again, what is not, what is kept, counted, spaced out and held secret."""

import logging
import time
import traceback
from itertools import pairwise

import pytest

from retort.teachers.remote.cache import AnswerCache
from retort.teachers.remote.client import Client, Request, ServerError
from retort.teachers.remote.cost import Cost, Ledger
from retort.teachers.remote.server import Server


def text_of(answer):
    return answer["choices"][0]["text"]


def asking(*prompts, read=text_of):
    return [Request("completions", {"prompt": prompt}, read) for prompt in prompts]


def answer(text):
    return f'{{"choices": [{{"text": "{text}"}}], "usage": {{"prompt_tokens": 3, "completion_tokens": 2}}}}'


def test_answers_come_in_the_order_of_the_requests(server, connect):
    prompts = [f"no {i}" for i in range(9)]
    found = connect(server).ask(asking(*prompts))
    assert found == prompts


def test_equal_requests_are_made_once_and_everything_is_counted(server, connect):
    server.failures.extend([answer("a"), (500, ""), answer("b")])
    client = connect(server, in_flight=1)
    assert client.ask(asking("x", "y", "x")) == ["a", "b", "a"]
    assert client.ask(asking("y")) == ["b"]
    cost = client.cost
    assert (cost.requests, cost.retries, cost.cache_hits, cost.prompt_tokens, cost.completion_tokens) == (3, 1, 2, 6, 4)
    assert 0.5 <= cost.seconds <= 1  # the one wait


def test_a_client_counts_on_from_its_ledger(server, connect, tmp_path):
    connect(server, ledger=Ledger(tmp_path / "asked.json")).ask(asking("x", "y"))
    client = connect(server, ledger=Ledger(tmp_path / "asked.json"))
    client.ask(asking("z"))
    assert (client.cost.requests, client.cost.prompt_tokens, client.cost.completion_tokens) == (3, 9, 6)
    assert Cost.read(tmp_path / "asked.json") == client.cost


def test_no_request_makes_no_connection(server, connect):
    server.stop()
    assert connect(server).ask([]) == []


@pytest.mark.parametrize("failure", [(429, "slowly"), (500, ""), (503, "loading"), (408, ""), "close", "slow"], ids=str)
def test_what_may_pass_is_tried_again(failure, server, connect):
    server.failures.append(failure)
    client = connect(server, timeout_seconds=0.1 if failure == "slow" else 5.0)
    assert client.ask(asking("here")) == ["here"]
    assert (client.cost.requests, client.cost.retries) == (2, 1)


def test_an_answer_that_trickles_in_is_late_as_one_that_does_not_come(server, connect):
    server.failures.append("trickle")  # 31 bytes, each in time for a read
    client = connect(server, timeout_seconds=0.3)
    assert client.ask(asking("here")) == ["here"]
    assert (client.cost.requests, client.cost.retries) == (2, 1)


def test_waits_double_and_lose_up_to_a_half_by_chance(server, connect, clock):
    server.failures.extend([(500, "")] * 5)
    connect(server, first_wait_seconds=1.0, longest_wait_seconds=6.0).ask(asking("here"))
    assert len(clock.naps) == 5
    assert all(most / 2 <= nap <= most for nap, most in zip(clock.naps, (1, 2, 4, 6, 6), strict=True))


def test_a_request_waits_as_long_as_the_server_asks(server, connect, clock):
    server.failures.append((429, "", [("Retry-After", "7")]))
    connect(server).ask(asking("here"))
    assert clock.now == pytest.approx(7)


def test_a_server_that_asks_for_an_hour_is_given_up(server, connect, clock):
    server.failures.append((429, "quota", [("Retry-After", "3600")]))
    with pytest.raises(ServerError, match=r"status 429 \(quota\), which asks to wait for 3600 s; run again after"):
        connect(server).ask(asking("here"))
    assert clock.naps == []


def test_requests_are_spaced_out_by_their_rate_retries_too(server, connect, clock):
    server.failures.append((500, ""))
    connect(server, requests_per_minute=30.0, first_wait_seconds=0.0, in_flight=1).ask(asking("a", "b", "c"))
    assert clock.now == pytest.approx(3 * 2.0)


def test_too_many_requests_hold_back_those_that_had_their_turn_already(server):
    arrived = []
    server.complete = lambda body: arrived.append(time.monotonic()) or {"text": body["prompt"]}
    server.failures.append((429, "slowly"))  # and no word for how long
    where = Server(base_url=server.url, model="tiny", in_flight=3, requests_per_minute=200.0, first_wait_seconds=0.8)
    started = time.monotonic()
    Client(where).ask(asking("a", "b", "c"))  # turns 0.3 s apart, and at 0 the server wants none for 0.4 s at least
    assert arrived[0] - started >= 0.4
    assert all(later - earlier > 0.1 for earlier, later in pairwise(arrived))  # no rush afterwards


def test_no_more_requests_are_under_way_than_allowed(server, connect):
    server.pause_seconds = 0.02
    connect(server, in_flight=3).ask(asking(*"abcdefgh"))
    assert server.busiest == 3


def test_retries_end(server, connect):
    server.failures.extend([(500, "sick")] * 3)
    with pytest.raises(ServerError, match=r"completions: tried 3 times, at last status 500 \(sick\); start the server"):
        connect(server, retries=2).ask(asking("here"))


@pytest.mark.parametrize(
    ("status", "advice"),
    [(400, "`words` cuts passages"), (401, "key_variable"), (404, "base_url"), (501, "another server"), (302, "base_url")],
)
def test_what_cannot_pass_is_not_tried_again(status, advice, server, connect):
    server.failures.append((status, "because"))
    with pytest.raises(ServerError, match=rf"POST {server.url}/completions: status {status} \(because\).*{advice}"):
        connect(server, in_flight=1).ask(asking(*"abcdefgh"))
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "text", ["{nothing", "[]", '"choices"', '{"choices": []}', '{"choices": ["x"]}', '{"error": "x"}', ""]
)
def test_an_answer_without_choices_is_an_error(text, server, connect):
    server.failures.append(text)
    with pytest.raises(ServerError, match="expected JSON with choices"):
        connect(server).ask(asking("here"))


def test_an_answer_that_lacks_something_is_an_error_and_is_not_kept(server, connect):
    def read(answer):
        raise ValueError("it lacks a tail")

    client = connect(server)
    with pytest.raises(ServerError, match="completions: it lacks a tail"):
        client.ask(asking("here", read=read))
    assert client.cost.prompt_tokens == 3  # it was paid for
    client.ask(asking("here"))
    assert (client.cost.requests, client.cost.cache_hits) == (2, 0)


def test_an_answer_of_another_shape_is_an_error_that_shows_what_is_missing(server, connect):
    server.failures.append('{"choices": [{"message": "x"}]}')
    with pytest.raises(ServerError, match=r"an answer of an unknown shape \(KeyError\('text'\)\)"):
        connect(server).ask(asking("here"))


@pytest.mark.parametrize("usage", ['"none"', "[1]", "3", "null", '{"prompt_tokens": "3"}', '{"prompt_tokens": -3}'])
def test_an_answer_with_an_odd_account_is_kept_and_counts_no_tokens(usage, server, connect):
    server.failures.append(f'{{"choices": [{{"text": "a"}}], "usage": {usage}}}')
    client = connect(server)
    assert client.ask(asking("x")) == client.ask(asking("x")) == ["a"]
    assert (client.cost.requests, client.cost.prompt_tokens, client.cost.completion_tokens) == (1, 0, 0)


def test_an_answer_in_the_cache_that_cannot_be_read_is_asked_for_again(server, connect):
    cache = {}
    connect(server, cache=cache).ask(asking("x"))
    [key] = cache
    cache[key] = {"choices": [{"message": "of an earlier version"}]}
    client = connect(server, cache=cache)
    assert client.ask(asking("x")) == ["x"]
    assert (client.cost.requests, client.cost.cache_hits) == (1, 0)


def test_a_server_that_dies_half_way_loses_nothing(server, another, connect, tmp_path):
    prompts = "abcdefgh"
    server.lives = 5
    cache = AnswerCache(tmp_path)
    with pytest.raises(ServerError, match=r"tried 3 times.*Of 8 requests 5 were answered and are in the cache"):
        connect(server, cache=cache, in_flight=1, retries=2).ask(asking(*prompts))
    cache.close()
    client = connect(another, cache=AnswerCache(tmp_path))
    assert client.ask(asking(*prompts)) == list(prompts)
    assert (client.cost.requests, client.cost.cache_hits) == (3, 5)


def test_a_server_that_is_not_there_is_named(server, connect):
    server.stop()
    with pytest.raises(ServerError, match=rf"POST {server.url}/completions: tried 1 times, at last ConnectError"):
        connect(server, retries=0).ask(asking("here"))


def test_extra_fields_come_over_our_own_and_none_leaves_one_out(server, connect):
    extra = {"top_k": 4, "max_tokens": None, "model": "other"}
    connect(server, extra=extra).ask([Request("completions", {"prompt": "a", "max_tokens": 1}, text_of)])
    assert server.seen[0][2] == {"model": "other", "prompt": "a", "top_k": 4}


def test_the_key_goes_to_the_server_and_nowhere_else(server, connect, tmp_path, monkeypatch, caplog):
    secret = "sk-Secret0123456789"
    monkeypatch.setenv("TINY_KEY", secret)
    caplog.set_level(logging.DEBUG)
    client = connect(server, cache=AnswerCache(tmp_path), key_variable="TINY_KEY")
    client.ask(asking("here"))
    assert server.seen[0][1]["Authorization"] == f"Bearer {secret}"
    server.failures.append((401, f"no such key: {secret}"))
    with pytest.raises(ServerError, match=r"no such key: \*\*\*") as caught:
        client.ask(asking("there"))
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    shown = [*traceback.format_exception(caught.value), caplog.text, repr(client), repr(client.server), repr(vars(client))]
    assert b"here" in written
    assert not any(secret in text for text in [*shown, written.decode()])
