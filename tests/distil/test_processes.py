"""A short training in one process, and the same in two that torchrun starts on this very file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from retort.compute import accelerator
from retort.config import Compute, Distil, Optimiser, StudentModel
from retort.distil.agreement import label_agreement
from retort.distil.loop import train
from retort.distil.method import Method
from retort.losses.objectives import KL
from retort.students.loading import load_student
from retort.tensors import Term
from tiny import tiny_student, tiny_world


def training(model: Path, folder: Path) -> None:
    corpus, queries, labels = tiny_world()
    engine = accelerator(Compute(device="cpu", precision="float32"))
    settings = Distil(
        student=StudentModel(model=str(model), query_tokens=20, passage_tokens=48),
        batch=4,
        candidates=5,
        steps=4,
        chunk_tokens=300,
        evaluate_every=2,
        checkpoint_every=2,
        optimiser=Optimiser(learning_rate=1e-3, warmup_steps=1),
    )
    method = Method(objectives={"kl": Term(KL())})

    def agreement(student) -> float:
        return label_agreement(student, labels, corpus, queries, method=method, chunk_tokens=300, accelerator=engine)

    shared = {"method": method, "seed": 5, "folder": folder, "accelerator": engine, "validate": agreement}
    train(load_student(settings.student), labels, corpus, queries, settings, **shared)


def test_two_processes_train_the_same_student_as_one(tmp_path):
    model = tiny_student(tmp_path / "base", dropout=0.0)
    training(model, tmp_path / "one")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [*launcher, __file__, str(model), str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    logs = [[json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys()
        np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-4)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name in one:
        if not name.endswith("key.bias"):  # softmax cancels it: Adam makes whole steps of the rounding of a zero gradient
            torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=0)


if __name__ == "__main__":
    training(Path(sys.argv[1]), Path(sys.argv[2]))
