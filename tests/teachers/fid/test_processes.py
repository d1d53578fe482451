"""A short training of a reader in one process, and the same in two that torchrun starts on toy.py."""

import json
import os
import subprocess
import sys

import numpy as np
import torch
from safetensors.torch import load_file

import toy
from retort.teachers.fid.loading import save_reader


def test_two_processes_train_the_same_reader_as_one(readers, tmp_path):
    """Over two phases, of which the first takes two passes a step, with gradients recomputed; dev is shared out."""
    save_reader(readers["copying"], tmp_path / "start")
    toy.train_saved(tmp_path / "start", tmp_path / "one")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, toy.__file__, str(tmp_path / "start"), str(tmp_path / "two")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    logs = [[json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys()
        np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-4)
    for file in ("model.safetensors", "gate.safetensors"):
        one, two = (load_file(tmp_path / name / "model" / file) for name in ("one", "two"))
        for name in one:
            if not name.endswith(
                "key.bias"
            ):  # softmax cancels it: Adam makes whole steps of the rounding of a zero gradient
                torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=0)
