from contextlib import ExitStack
from pathlib import Path

import pytest
from accelerate import Accelerator

from retort.job import Job, by_step, no_bars
from retort.plan import plan
from tiny_run import config


def job(accelerator) -> Job:
    return Job(plan(config(Path("sources")), Path("run")), accelerator)


def test_a_stage_has_the_folder_of_its_round():
    assert job(Accelerator(cpu=True)).path(2, "distil") == Path("run/round-2/distil")


def test_what_is_prepared_is_read_from_its_folder():
    assert job(Accelerator(cpu=True)).prepared.folder == Path("run/prepare")


def test_one_process_makes_every_part():
    assert all(job(Accelerator(cpu=True)).mine(part) for part in range(5))


@pytest.mark.parametrize("count", [2, 3])
def test_each_part_is_made_by_exactly_one_of_several_processes(count, monkeypatch):
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "num_processes", count)
    makers = []
    for index in range(count):
        monkeypatch.setattr(Accelerator, "process_index", index)
        makers.append([part for part in range(10) if job(accelerator).mine(part)])
    assert sorted(part for parts in makers for part in parts) == list(range(10))


def test_a_training_that_goes_on_moves_its_bar_to_where_it_is():
    moves = []
    progress = by_step(lambda count=1, facts=None: moves.append((count, facts)))
    for step in (3, 4, 6):
        progress(step, {"loss": float(step)})
    assert moves == [(3, {"loss": 3.0}), (1, {"loss": 4.0}), (2, {"loss": 6.0})]


def test_progress_is_logged_with_its_step():
    logged = []
    by_step(lambda count=1, facts=None: None, lambda facts, step: logged.append((step, facts)))(5, {"loss": 0.5})
    assert logged == [(5, {"loss": 0.5})]


def test_without_bars_nothing_is_shown(capfd):
    with ExitStack() as stack:
        stack.enter_context(no_bars("work", 3))(2, {"loss": 1.0})
    assert capfd.readouterr() == ("", "")
