"""Every line of a bill is what its step does over its speed, with the settings of its own round."""

import math
from dataclasses import replace

import pytest

from retort.asking import Wording
from retort.estimates import bill, refreshes
from retort.plan import plan
from retort.speeds import TeacherTried, Tried
from retort.teachers.remote.forms import Ranking
from tiny_run import config
from tiny_speeds import QUESTIONS, SPEEDS, STUDENT, speeds

SERVER, PRICE = {"base_url": "http://localhost:1/v1"}, {"prompt": 10.0, "completion": 100.0}


def lines(sources, folder, found=None, *, passages=40, **changes):
    found = bill(plan(config(sources, **changes), folder), QUESTIONS, passages, found or speeds())
    return {line.step: line for line in found}


def test_every_line_is_what_its_step_does_over_its_speed(sources, tmp_path):
    """The tiny config's numbers (tiny_run.py), multiplied by hand."""
    found = lines(sources, tmp_path)
    assert list(found)[:3] == ["round-0/encode", "round-0/index", "round-0/retrieve"]
    encode = found["round-0/encode"]
    assert (encode.items, encode.tokens, encode.seconds, encode.disk) == (40, 600, 4.0, 1920)
    index, later = found["round-0/index"], found["round-1/index"]  # in round 0 BM25's too
    assert (index.seconds, index.disk, later.seconds, later.disk) == (2.0, 40 * 50, 0.0, 0)
    assert found["round-0/retrieve"].seconds == 34 * 40 * 24 / 1000
    read = found["round-1/read"]  # 2 steps of 4 x 2 passages and 2 of 4 x 3; twice 6 dev questions with 3 passages, forward
    assert (read.items, read.seconds) == (40, 40 / 4 + 2 * 6 * 3 / 12)
    assert (read.disk, read.scratch) == (5000, 2 * (5000 + 2 * 4000))
    label = found["round-1/label"]  # 34 questions x 6 passages
    assert (label.items, label.tokens, label.seconds, label.disk) == (204, 204 * 30, 204 / 5, 8 * 204)
    distil = found["round-2/distil"]  # 4 steps of 4 x 4; dev before, at 2 and at 4: 36 candidates at most
    assert (distil.items, distil.seconds) == (64, 64 / 2 + 3 * 36 / 10)
    assert (distil.disk, distil.scratch) == (1000, 2 * (1000 + 2 * 800))
    assert all(line.memory > 10_000 for line in found.values())


def test_each_teacher_that_works_sees_every_pair(sources, tmp_path):
    teachers = [{"kind": "fid"}, {"kind": "bm25"}, {"kind": "cross_encoder", "model": "m"}]
    label = lines(sources, tmp_path, speeds(TeacherTried(10.0)), label={"teachers": teachers})["round-1/label"]
    assert (label.items, label.seconds) == (408, 204 / 5 + 204 / 10)
    assert label.disk == 8 * 204 * 4  # of each, and of all fused


def test_a_later_rounds_settings_are_the_later_rounds(sources, tmp_path):
    found = lines(sources, tmp_path, overrides={2: {"label": {"depth": 3}}})
    assert found["round-2/label"].seconds == found["round-1/label"].seconds / 2


def test_a_later_rounds_models_have_speeds_of_their_own(sources, tmp_path):
    slow = replace(SPEEDS, student=replace(STUDENT, encoded=Tried(1.0)))
    found = lines(sources, tmp_path, {**speeds(), 2: slow})
    assert (found["round-1/encode"].seconds, found["round-2/encode"].seconds) == (4.0, 40.0)


def test_every_round_has_the_files_of_its_index(sources, tmp_path):
    found = lines(sources, tmp_path, index={"kind": "hnsw", "hnsw_links": 4})
    size = 40 * (2 * 24 + 8 * 4 + 16)
    assert [found[f"round-{number}/index"].disk for number in (0, 1, 2)] == [2000 + size, size, size]


def test_a_round_that_keeps_its_passages_encodes_none(sources, tmp_path):
    found = lines(sources, tmp_path, distil={"student": {"query_side": "full"}})
    assert (found["round-1/encode"].items, found["round-1/encode"].seconds, found["round-1/encode"].disk) == (0, 0.0, 1920)
    assert found["round-0/encode"].seconds == 4.0


def test_training_the_query_side_is_billed_by_the_question_and_encodes_no_passage(sources, tmp_path):
    """4 steps of 4 questions, and dev passages that are stored."""
    distil = lines(sources, tmp_path, distil={"student": {"query_side": "linear"}})["round-1/distil"]
    assert (distil.items, distil.unit, distil.tokens, distil.seconds) == (16, "questions", 80, 8.0)


def test_keeping_a_search_fresh_costs_by_its_policy(sources):
    """A corpus of 2000 by 10 a second; 34 questions that find 20 passages each; 6 dev questions of a probe; nothing."""
    assert list(refreshes(config(sources), QUESTIONS, 2000, SPEEDS).values()) == [200.0, 68.0, 12.0, 0.0]
    assert list(refreshes(config(sources), QUESTIONS, 40, SPEEDS).values()) == [4.0, 4.0, 4.0, 0.0]  # never more than all


def test_policies_cost_what_atlas_says_against_the_training_of_the_reader(sources, tmp_path):
    """Methods, section 3.4: a passage is 110 M to encode, and 4 x 3 B to train the reader on; a step has 64 x 20 of them."""
    encoded, read = Tried(1e6 / 110), Tried(1e6 / (4 * 3000))
    atlas = replace(
        SPEEDS, student=replace(STUDENT, encoded=encoded), reader=replace(SPEEDS.reader, read=read)
    )  # fmt: skip
    phases = [{"passages": 20, "steps": 1000, "batch": 64}]
    chosen = config(sources, rounds=1, read={"phases": phases}, encode={"refresh": "rerank", "rerank_depth": 200})
    questions = {"train": 64 * 1000, "dev": 0, "test": 0}  # each is read once between two refreshes
    found = refreshes(chosen, questions, 37_000_000, atlas)
    steps = plan(chosen, tmp_path)
    trained = next(line for line in bill(steps, questions, 37_000_000, {0: atlas, 1: atlas}) if line.step == "round-1/read")
    full, rerank, _, query_side = (seconds / trained.seconds for seconds in found.values())
    assert full == pytest.approx(0.265, abs=0.0005)
    assert rerank == pytest.approx(10 * 110 / (4 * 3000))  # about 9 %
    assert query_side == 0.0


@pytest.mark.parametrize(("refresh", "items"), [("full", 2000), ("rerank", 680), ("auto", 2120)])
def test_a_round_is_billed_by_its_policy(sources, tmp_path, refresh, items):
    found = lines(sources, tmp_path, passages=2000, encode={"refresh": refresh})
    first, later = found["round-0/encode"], found["round-1/encode"]
    assert (first.items, first.unit) == (2000, "passages")
    search = 0.0 if refresh == "full" else 34 * 2000 * 24 / 1000
    assert (later.items, later.seconds) == (items, items / 10 + search)
    assert later.disk == (2000 + (0 if refresh == "full" else 680)) * 48


def test_servers_are_billed_by_their_requests_beside_what_runs_here(sources, tmp_path):
    """34 questions: two windows of 3 of 6 passages, then a likelihood of each; 30 requests a minute for the judge."""
    judge = {
        "kind": "judge", "model": "m", "judge": {"window": 3, "repeats": 1, "attempts": 1},
        "server": {**SERVER, "requests_per_minute": 30, "price_per_million": PRICE},
    }  # fmt: skip
    remote = {"kind": "remote", "model": "m", "server": {**SERVER, "price_per_million": PRICE}}
    free = {"kind": "remote", "model": "free", "server": SERVER}
    words = TeacherTried(words=Wording(Ranking(window=3), 60.0, 30.0)), TeacherTried(words=Wording(None, 60.0, 30.0))
    found = lines(
        sources, tmp_path, speeds(*words, words[1]), label={"teachers": [{"kind": "fid"}, judge, remote, free]}
    )  # fmt: skip
    label, asked = found["round-1/label"], 34 * math.ceil(6 / 3)
    assert (label.requests, label.items) == (asked + 204 + 204, 204 + asked + 204 + 204)
    assert label.request_tokens == asked * (60 + 3 * 30 + 3 * 8) + 2 * 204 * (90 + 1)
    assert label.tokens == 204 * 30 + label.request_tokens
    assert label.seconds == 204 / 5 + 2 * asked
    assert label.money == pytest.approx((asked * (150 * 10 + 24 * 100) + 204 * (90 * 10 + 100)) / 1e6)
    assert found["round-1/distil"].money == 0.0
