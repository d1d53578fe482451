"""The whole run in two processes, as `torchrun` starts them, against the same run in one."""

import os
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
from retort.records import Run
from retort.store import read_json
from tiny_run import write_config

pytestmark = pytest.mark.slow  # 40 s: two processes import everything


@pytest.fixture(scope="module")
def roots(sources, tmp_path_factory) -> tuple[Path, Path]:
    """One config, without dropout, whose draws differ between processes: run in this process, and in two."""
    folder = tmp_path_factory.mktemp("processes")
    still = {"read": {"dropout": 0.0}, "distil": {"student": {"dropout": 0.0}}}
    config = write_config(folder / "tiny.yaml", sources, **still)
    one, two = folder / "one" / "run", folder / "two" / "run"
    run(load(config), one)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(Path(sys.executable).with_name("retort")), "run", str(config), "--out", str(two)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1  # one process speaks
    return one, two


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
