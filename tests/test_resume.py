"""A run that is killed goes on, loses nothing, and ends with the bytes of one that was never stopped."""

import json
import random
from pathlib import Path

import pytest

from kills import ANY, POINTS, lives
from retort import pipeline
from retort.config import load
from retort.pipeline import STAGES, run
from retort.plan import plan
from retort.store import StageFolder, remove
from retort.teachers.fid.teacher import FidTeacher
from tiny_run import config, tree


class KilledError(Exception):
    pass


def dying(*arguments, **named):
    raise KilledError


def report_without_costs(root: Path) -> dict:
    report = json.loads((root / "report" / "report.json").read_text())
    return {name: value for name, value in report.items() if name != "costs"}


def test_the_kills_hit_at_least_one_point_of_every_stage(runs):
    assert runs.ends == ["done"] + ["killed"] * len(POINTS) + ["done"]
    assert {step.rpartition("/")[2] for step, _, _ in POINTS} == set(STAGES)


def test_a_run_killed_many_times_ends_with_the_bytes_of_one_that_was_never_stopped(runs):
    whole, killed = tree(runs.whole), tree(runs.killed)
    assert killed.keys() == whole.keys()
    assert [name for name in whole if killed[name] != whole[name]] == []


def test_a_run_killed_many_times_reports_the_same(runs):
    assert report_without_costs(runs.killed) == report_without_costs(runs.whole)


def test_the_costs_of_a_killed_stage_add_up_without_counting_its_items_twice(runs):
    whole, killed = (json.loads((root / "round-1" / "read" / "cost.json").read_text()) for root in (runs.whole, runs.killed))
    assert whole["items"] == killed["items"] == 16


def test_a_resumed_label_stage_scores_only_the_parts_that_are_missing(copied, sources, monkeypatch):
    remove(copied / "round-2" / "label")
    signals, seen = FidTeacher.signals, []

    def dying_second(self, groups):
        seen.append(len(groups))
        return signals(self, groups) if len(seen) != 2 else dying()

    monkeypatch.setattr(FidTeacher, "signals", dying_second)
    with pytest.raises(KilledError):
        run(config(sources), copied, only=["round-2/label"])
    run(config(sources), copied, only=["round-2/label"])
    assert seen == [12, 12, 12, 10]  # of 34 questions; the first part is not scored again


@pytest.mark.parametrize(("stage", "training"), [("read", "train_reader"), ("distil", "train")])
def test_a_kill_before_the_manifest_does_not_cost_a_finished_training(stage, training, copied, sources, monkeypatch):
    remove(copied / "round-2" / stage)
    with monkeypatch.context() as patched:
        patched.setattr(StageFolder, "finish", dying)
        with pytest.raises(KilledError):
            run(config(sources), copied, only=[f"round-2/{stage}"])
    train, steps = getattr(pipeline, training), []

    def counting(*arguments, **named):
        return train(*arguments, **{**named, "progress": lambda step, facts: steps.append(step)})

    monkeypatch.setattr(pipeline, training, counting)
    run(config(sources), copied, only=[f"round-2/{stage}"])
    assert len(steps) <= 1  # of 4; the reader makes no checkpoint after its last step


def test_what_a_kill_behind_the_manifest_left_goes_with_the_next_run(copied, sources):
    checkpoint = copied / "round-1" / "read" / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "position.json").write_text("{}")
    run(config(sources), copied)
    assert not checkpoint.exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_twice_in_every_step_ends_with_the_same_bytes(seed, runs, tmp_path):
    rng = random.Random(seed)
    points = [(step, ANY, rng.randint(1, 30)) for step in plan(load(runs.config), tmp_path) for _ in range(2)]
    points.pop()  # after the report there is no step whose start could be a kill
    ends = lives(runs.config, tmp_path / "whole" / "run", tmp_path / "killed" / "run", points)
    assert ends == ["done"] + ["killed"] * len(points) + ["done"]
    assert tree(tmp_path / "killed" / "run") == tree(runs.whole)
