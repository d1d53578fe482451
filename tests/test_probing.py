"""Every round's own models are tried, each once; memory is that of the work, and servers are not asked."""

import itertools
import time

import numpy as np
import pytest
import torch

from retort import probing
from retort.compute import accelerator
from retort.costs import PEAK_RESET
from retort.job import Job
from retort.pipeline import run
from retort.probing import probe, rate, tried
from retort.speeds import Weights
from retort.students.query_side import QuerySideStudent
from retort.teachers.remote.forms import Ranking
from tiny_run import config

SERVER = {"base_url": "http://localhost:1/v1", "key_variable": "A_KEY_THAT_IS_NOT_SET"}
FREE = {"teachers": [{"kind": "bm25"}]}


def probed(sources, folder, **changes):
    chosen = config(sources, **changes)
    steps = run(chosen, folder, only=["prepare"])
    return probe(Job(steps, accelerator(chosen.compute)), chosen, seconds=0.0)


def counted(monkeypatch, name):
    """How often the probe calls one of its functions."""
    calls, own = [], getattr(probing, name)
    monkeypatch.setattr(probing, name, lambda *given, **named: calls.append(given) or own(*given, **named))
    return calls


def test_a_rate_leaves_the_first_call_out(monkeypatch):
    ticks = itertools.count(step=2.0)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    calls = []
    assert rate(lambda: calls.append(1), 6, 1.0) == 6 / 4  # started at 0, asked at 2, done at 4
    assert len(calls) == 2


@pytest.mark.skipif(not PEAK_RESET.exists(), reason="only Linux sets the peak of a process back")
def test_the_memory_of_work_is_what_it_holds_beside_what_was_held_and_its_gradients():
    earlier = np.ones(30_000_000)  # 240 MB
    found = tried(lambda: np.ones(20_000_000).sum(), 10, 0.0, hand=4, gradients=40_000_000)
    assert found.bytes_each == pytest.approx((160e6 - 40e6) / 4, rel=0.1)
    assert len(earlier) == 30_000_000


def test_weights_are_counted_once_and_those_without_a_gradient_are_not_trained():
    tied = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    assert Weights.of(tied) == Weights(64, 64)
    whole = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2).requires_grad_(False))
    assert Weights.of(whole) == Weights(80 + 40, 80)


def test_a_reader_that_only_a_later_round_has_is_tried_for_that_round(sources, tmp_path):
    found = probed(sources, tmp_path, label=FREE, overrides={2: {"label": {"teachers": [{"kind": "fid"}]}}})
    assert found[1].reader is None
    assert found[2].reader is not None
    assert found[2].reader.read.per_second > 0


def test_what_rounds_have_alike_is_tried_once_and_another_model_anew(sources, tmp_path, monkeypatch):
    students, readers = counted(monkeypatch, "load_student"), counted(monkeypatch, "make_reader")
    later = {2: {"read": {"evaluate_every": 1}, "distil": {"steps": 2}}, 3: {"distil": {"student": {"passage_tokens": 20}}}}
    found = probed(sources, tmp_path, rounds=3, overrides=later)
    assert (len(students), len(readers)) == (2, 1)
    assert found[1] == found[2]
    assert found[3].student.passage_tokens < found[2].student.passage_tokens
    assert found[3].reader == found[2].reader


def test_the_query_side_is_trained_over_passages_that_are_made_already(sources, tmp_path, monkeypatch):
    trained = counted(monkeypatch, "_step")
    found = probed(sources, tmp_path, rounds=1, label=FREE, distil={"student": {"query_side": "full"}})
    assert {type(given[0]) for given in trained} == {QuerySideStudent}
    weights = found[1].student.weights
    assert weights.trained < weights.held / 1.9  # the queries' tower of two


def test_frozen_layers_are_no_weights_that_are_trained(sources, tmp_path):
    found = probed(sources, tmp_path, rounds=1, read={"frozen_layers": 1})
    assert found[1].reader.weights.trained < found[1].reader.weights.held


def test_no_server_is_asked_and_no_key_is_needed(sources, tmp_path):
    """The passages are counted whole, not as the student cuts them."""
    judge = {"kind": "judge", "model": "m", "judge": {"window": 4}, "server": SERVER}
    remote = {"kind": "remote", "model": "m", "server": SERVER}
    short = {"student": {"passage_tokens": 6}}
    found = probed(sources, tmp_path, rounds=1, label={"teachers": [judge, remote]}, distil=short)
    judged, likely = (teacher.words for teacher in found[1].teachers)
    assert isinstance(judged.form, Ranking)
    assert judged.form.window == 4
    assert found[1].student.passage_tokens <= 6 < 10 < likely.passage < judged.passage < 40
