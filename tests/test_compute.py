import errno
import hashlib
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from retort.compute import (
    accelerator,
    batch_rows,
    crowding,
    linear_schedule,
    load_checkpoint,
    mean_gradients,
    mine,
    model_path,
    of_all,
    of_main_process,
    save_checkpoint,
    seed_everything,
    share,
)
from retort.config import Compute
from retort.store import FullDiskError


@pytest.fixture
def engine():
    return Accelerator(cpu=True, step_scheduler_with_optimizer=False)


# ---- the engine


@pytest.mark.parametrize(("precision", "wanted"), [("float32", "no"), ("bfloat16", "bf16")])
def test_the_precision_asked_for_is_used(precision, wanted):
    AcceleratorState._reset_state()
    try:
        assert accelerator(Compute(device="cpu", precision=precision)).mixed_precision == wanted
    finally:
        AcceleratorState._reset_state()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what is missing on a machine without GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"compute\.device is 'cuda' and torch sees no GPU"):
        accelerator(Compute(device="cuda"))


def test_a_tracker_that_is_not_installed_is_refused_with_its_package(monkeypatch):
    monkeypatch.setattr("retort.compute.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(ImportError, match=r"\['mlflow'\].* pip install mlflow"):
        accelerator(Compute(device="cpu", trackers=["tensorboard", "mlflow"]))


def test_a_seed_sets_every_generator():
    drawn = []
    for _ in range(2):
        seed_everything(3)
        drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))  # noqa: NPY002 (the global one is meant)
    assert drawn[0] == drawn[1]


def test_what_one_process_gathers_is_its_own(engine):
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    mean_gradients([weight, torch.nn.Parameter(torch.ones(1))], engine)
    assert weight.grad.tolist() == [1.0, 2.0]
    assert of_main_process(0.1, engine) == 0.1
    assert mine(3, engine).tolist() == [0, 1, 2]
    rows = torch.rand(3, 2)
    assert of_all(rows, 3, engine) is rows


# ---- which data when


@pytest.mark.parametrize(("count", "batch"), [(8, 4), (7, 3), (5, 5), (3, 7), (1, 4)])
def test_every_epoch_takes_each_row_once(count, batch):
    rows = np.concatenate([batch_rows(count, batch, step, seed=1) for step in range(4 * count)])
    epochs = rows[: len(rows) // count * count].reshape(-1, count)
    assert len(epochs) >= 4
    assert (np.sort(epochs, axis=1) == np.arange(count)).all()


def test_every_epoch_has_an_order_of_its_own():
    epochs = [tuple(batch_rows(9, 9, step, seed=0).tolist()) for step in range(5)]
    assert len(set(epochs)) == 5


def test_the_data_of_a_step_depends_on_its_seed_and_nothing_before_it():
    later = batch_rows(50, 8, 11, seed=2).tolist()
    batch_rows(50, 8, 3, seed=2)
    assert batch_rows(50, 8, 11, seed=2).tolist() == later
    assert batch_rows(50, 8, 11, seed=3).tolist() != later


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_shares_of_all_processes_are_the_whole(engine, monkeypatch, processes):
    monkeypatch.setattr(Accelerator, "num_processes", processes)
    shares = []
    for process in range(processes):
        monkeypatch.setattr(Accelerator, "process_index", process)
        shares.append(share(range(8), engine))
    assert {len(one) for one in shares} == {8 // processes}
    assert sorted(item for one in shares for item in one) == list(range(8))


def test_a_batch_that_does_not_divide_is_refused(engine, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    with pytest.raises(ValueError, match="a batch of 8 does not divide over 3 processes: set the batch to a multiple"):
        share(range(8), engine)


@pytest.mark.parametrize(
    ("warmup", "steps", "factors"),
    [
        (2, 6, [1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
        (0, 4, [1.0, 0.75, 0.5, 0.25, 0.0]),
        (3, 2, [0.25, 0.5, 0.75, 0.0]),  # warm-up longer than the training
    ],
)
def test_the_learning_rate_goes_up_and_then_down_to_zero(warmup, steps, factors):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)
    schedule = linear_schedule(optimiser, warmup_steps=warmup, steps=steps)
    found = []
    for _ in factors:
        found.append(schedule.get_last_lr()[0] / 2.0)
        optimiser.step()
        schedule.step()
    assert found == pytest.approx(factors)


# ---- checkpoints


@pytest.fixture
def part(engine):
    """Makes a training of one linear layer: the layer, and a step of it on random numbers."""

    def make(seed):
        engine.free_memory()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layer = torch.nn.Linear(3, 2)
        optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
        schedule = linear_schedule(optimiser, warmup_steps=2, steps=9)
        layer, optimiser, schedule = engine.prepare(layer, optimiser, schedule)

        def step():
            layer(torch.rand(4, 3)).square().sum().backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()

        return layer, step

    return make


def test_a_checkpoint_brings_back_weights_optimiser_schedule_random_states_and_position(engine, part, tmp_path):
    torch.manual_seed(5)
    layer, step = part(0)
    step()
    save_checkpoint(engine, tmp_path / "checkpoint", {"step": 1, "best": {"EM": 0.5}})
    step()
    wanted = layer.weight.clone()
    layer, step = part(1)
    assert load_checkpoint(engine, tmp_path / "checkpoint") == {"step": 1, "best": {"EM": 0.5}}
    step()
    assert torch.equal(layer.weight, wanted)


def test_without_a_checkpoint_there_is_no_position(engine, part, tmp_path):
    layer, _ = part(0)
    before = layer.weight.clone()
    assert load_checkpoint(engine, tmp_path / "checkpoint") is None
    assert torch.equal(layer.weight, before)


def test_a_checkpoint_that_a_kill_left_aside_is_found(engine, part, tmp_path):
    part(0)
    save_checkpoint(engine, tmp_path / "checkpoint", {"step": 1})
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.old")  # between the two renames of a replacement
    assert load_checkpoint(engine, tmp_path / "checkpoint") == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_full_disk_keeps_the_last_checkpoint_and_leaves_nothing_half_written(engine, part, tmp_path, monkeypatch):
    part(0)
    save_checkpoint(engine, tmp_path / "checkpoint", {"step": 1})

    def fail(folder, **settings):
        save(folder, **settings)
        raise OSError(errno.ENOSPC, "No space left on device")

    save = engine.save_state
    monkeypatch.setattr(engine, "save_state", fail)
    with pytest.raises(FullDiskError, match=r"no space left to write .*/checkpoint"):
        save_checkpoint(engine, tmp_path / "checkpoint", {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert load_checkpoint(engine, tmp_path / "checkpoint") == {"step": 1}


# ---- models


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


PIN = hashlib.sha256(b"weights").hexdigest()


def test_a_folder_is_a_model_with_or_without_its_pin(model):
    assert model_path(str(model)) == model_path(str(model), PIN) == str(model)


def test_a_relative_folder_and_the_home_folder_are_found(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    monkeypatch.setenv("HOME", str(model.parent))
    assert model_path("model") == "model"
    assert model_path("./model") == "model"
    assert model_path("~/model") == str(model)


def test_a_sentence_transformers_folder_is_a_model(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    assert model_path(str(tmp_path)) == str(tmp_path)


def test_a_model_inside_an_installed_package_is_found(model, monkeypatch, tmp_path):
    package = tmp_path / "some_models"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('a package is found without being imported')")
    model.rename(package / "model")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert model_path("package:some_models/model", PIN) == str(package / "model")


def test_a_hub_id_is_passed_on():
    assert model_path("google-t5/t5-base") == "google-t5/t5-base"


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing-here"])
def test_a_folder_that_is_not_there_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"model '{name}': no config.json or modules.json there".replace(".", r"\.")):
        model_path(name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json or modules\.json there: give a model folder or a hub id"):
        model_path(str(tmp_path))


def test_a_package_that_is_not_installed_is_refused_with_its_pip_line():
    with pytest.raises(ValueError, match="package 'no_such_models' is not installed: pip install no-such-models"):
        model_path("package:no_such_models/model")


def test_another_model_than_the_pinned_one_is_refused(model):
    (model / "model.safetensors").write_bytes(b"other")
    with pytest.raises(
        ValueError, match=f"model.safetensors has sha256 [0-9a-f]{{64}}, expected {PIN}: it is not the pinned"
    ):
        model_path(str(model), PIN)


def test_a_pin_that_cannot_be_checked_is_refused(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is not there, so its pinned sha256 cannot be checked"):
        model_path(str(model), PIN)
    with pytest.raises(ValueError, match=r"'google-t5/t5-base' is no folder here, so its pinned sha256 cannot be checked"):
        model_path("google-t5/t5-base", PIN)


# ---- threads and cores


@pytest.mark.parametrize("fitting", [(1, 1, 1), (2, 1, 2), (2, 4, 8)])
def test_threads_that_fit_the_cores_are_no_trouble(fitting):
    assert crowding(*fitting) is None


def test_more_threads_than_cores_come_with_the_number_that_fits():
    assert "set OMP_NUM_THREADS=4" in str(crowding(2, 8, 8))
    assert "start 2 processes at most" in str(crowding(3, 1, 2))


def test_a_run_whose_processes_crowd_the_cores_says_so(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000000")
    with pytest.warns(UserWarning, match="1000000 processes with"):
        accelerator(Compute(device="cpu"))
