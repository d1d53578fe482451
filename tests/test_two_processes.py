"""The run in two processes, as `torchrun` starts them, or begun in two and ended in one, against the same run in one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from retort.config import load
from retort.indexes.vectors import VectorParts
from retort.pipeline import run
from retort.plan import plan
from retort.records import Run
from retort.store import COST, read_json
from tiny_run import write_config

RETORT = str(Path(sys.executable).with_name("retort"))
pytestmark = pytest.mark.slow  # 40 s: two processes import everything


DYING = """
import sys
from pathlib import Path
from kills import Death
from retort.config import load
from retort.pipeline import run
from retort.plan import plan
config, root, step, event, number = sys.argv[1:]
death = Death(step, event, int(number))
death.watch()
run(load(Path(config)), Path(root), started=death.started)
"""
KILLS = (("round-1/read", "train", "4"), ("round-1/distil", "train", "4"), ("round-2/label", "replace", "2"))


@pytest.fixture(scope="module")
def still(sources, tmp_path_factory) -> tuple[Path, Path]:
    """A config without dropout, whose draws differ between processes, and the same run in this process."""
    folder = tmp_path_factory.mktemp("processes")
    settings = {"read": {"dropout": 0.0}, "distil": {"student": {"dropout": 0.0}}}
    config = write_config(folder / "tiny.yaml", sources, **settings)
    run(load(config), folder / "one" / "run")
    return config, folder / "one" / "run"


def in_two(*command: str) -> subprocess.CompletedProcess:
    """What two processes of torchrun that run a program have come to."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run([*launcher, *command], env=settings, capture_output=True, text=True)


@pytest.fixture(scope="module", params=["two", "two, then one"])
def roots(request, still, tmp_path_factory) -> tuple[Path, Path]:
    """The run in this process, and in two; or in two that are killed again and again, before this one ends it."""
    config, one = still
    two = tmp_path_factory.mktemp("two") / "run"
    if request.param == "two":
        done = in_two(RETORT, "run", str(config), "--out", str(two))
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("report: ") == 1  # one process speaks
        return one, two
    program = two.parent / "dying.py"
    program.write_text(DYING)
    for step, event, number in KILLS:
        died = in_two(str(program), str(config), str(two), step, event, number)
        assert died.returncode != 0
        states = {name: found.folder.state() for name, found in plan(load(config), two).items()}
        assert states[step] == "partial", died.stderr[-3000:]
    run(load(config), two)
    return one, two


def test_two_processes_label_and_encode_the_same_bytes_with_the_same_models(still, tmp_path):
    config, one = still
    two = Path(shutil.copytree(one, tmp_path / "run"))
    stages = ("round-1/label", "round-1/encode")
    for stage in stages:
        shutil.rmtree(two / stage)
    done = in_two(RETORT, "run", str(config), "--out", str(two))
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in stages:
        files = [path.relative_to(one) for path in (one / stage).rglob("*") if path.is_file() and path.name != COST]
        assert len(files) > 2
        assert [name for name in files if (one / name).read_bytes() != (two / name).read_bytes()] == []


@pytest.mark.parametrize("number", [1, 2])
def test_two_processes_label_as_one_does(number, roots):
    one, two = (Run.read(root / f"round-{number}/label/labels.parquet") for root in roots)
    assert one.query_ids == two.query_ids
    for query, rows, scores in one:
        found = dict(zip(*(values.tolist() for values in two.of(query)), strict=True))
        assert scores.tolist() == pytest.approx([found[row] for row in rows.tolist()], abs=1e-3)


@pytest.mark.parametrize("stage", ["read", "distil"])
def test_two_processes_train_the_weights_that_one_does(stage, roots):
    one, two = (load_file(root / f"round-2/{stage}/model/model.safetensors") for root in roots)
    for name in one:
        if not name.endswith("key.bias"):  # softmax cancels it: Adam makes whole steps of the rounding of a zero gradient
            torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=0)


def test_two_processes_encode_as_one_does(roots):
    one, two = (VectorParts.open(root / "round-2/encode/parts").take(np.arange(40)) for root in roots)
    np.testing.assert_allclose(one, two, atol=5e-3)


def test_two_processes_measure_as_one_does(roots):
    one, two = (read_json(root / "round-2/evaluate/summary.json")["test"] for root in roots)
    for name in one:
        assert two[name]["means"] == pytest.approx(one[name]["means"], abs=0.05)


def test_two_processes_leave_the_same_files_as_one(roots):
    one, two = ({str(path.relative_to(root)) for path in root.rglob("*")} for root in roots)
    assert one == two
