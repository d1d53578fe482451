"""Short trainings in one process, and the same in two that torchrun starts on this very file."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from retort.compute import PATIENCE, accelerator
from retort.config import Compute, Distil, ObjectiveSettings, Optimiser, StudentModel
from retort.distil.agreement import label_agreement
from retort.distil.curation import Curation, answer_bearing
from retort.distil.loop import train
from retort.distil.method import Method
from retort.losses import build
from retort.students.loading import load_student
from tiny import tiny_student, tiny_world

# what a row's loss reads of the rest of the batch, and of every kind of student's vectors
CASES = {
    "kl": {"objectives": [{"name": "kl"}]},
    "mass": {"objectives": [{"name": "kl"}, {"name": "candidate_mass"}], "candidates": 3},
    "info_nce": {"objectives": [{"name": "info_nce"}], "sample": "positive"},
    "ranks": {"objectives": [{"name": "ckl", "gamma": 2.0, "alpha": 1.0}], "sample": "positive", "ranks_every": 2},
    "sparse": {
        "objectives": [{"name": "kl"}, {"name": "flops", "side": "passage", "coefficient": 0.1}],
        "student": {"kind": "sparse"},
    },
    "late": {"objectives": [{"name": "kl"}, {"name": "candidate_mass"}], "student": {"kind": "late_interaction"}},
    "odd": {"objectives": [{"name": "info_nce"}], "batch": 3},
}  # fmt: skip


def trainings(model: Path, folder: Path) -> None:
    engine = accelerator(Compute(device="cpu", precision="float32"))
    for name, changes in CASES.items():
        training(model, folder / name, engine, changes)


def training(model: Path, folder: Path, engine, changes) -> None:
    corpus, queries, labels = tiny_world()
    lengths = {"query_tokens": 20, "passage_tokens": 48}
    settings = Distil(
        student=StudentModel(model=str(model), **lengths, **changes.get("student", {})),
        objectives=[ObjectiveSettings(**one) for one in changes["objectives"]],
        batch=changes.get("batch", 4),
        candidates=changes.get("candidates", 5),
        sample=changes.get("sample", "random"),
        ranks_every=changes.get("ranks_every"),
        steps=4,
        chunk_tokens=300,
        evaluate_every=2,
        checkpoint_every=2,
        optimiser=Optimiser(learning_rate=1e-3, warmup_steps=1),
    )
    method = Method(objectives=build(settings.objectives))
    curation = Curation(mark=answer_bearing(corpus) if "positive" in method.reads else None, ranking=labels)

    def agreement(student) -> float:
        return label_agreement(
            student, labels, corpus, queries, method=method, chunk_tokens=300, accelerator=engine, curation=curation
        )

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(masked-language-model head|projection)")
        student = load_student(settings.student)
    shared = {"method": method, "seed": 5, "folder": folder, "accelerator": engine, "validate": agreement}
    train(student, labels, corpus, queries, settings, curation=curation, **shared)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trainings")
    model = tiny_student(folder / "base", dropout=0.0)
    trainings(model, folder / "one")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [*launcher, __file__, str(model), str(folder / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_the_same_student_as_one(case, trained):
    folders = [trained / name / case for name in ("one", "two")]
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in folders]
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys()
        np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-4)
    files = sorted(path.relative_to(folders[0]) for path in folders[0].rglob("model/**/*.safetensors"))
    assert files
    for file in files:
        one, two = (load_file(folder / file) for folder in folders)
        for name in one:
            if not name.endswith("key.bias"):  # softmax cancels it: Adam makes whole steps of a zero gradient's rounding
                torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=0)


def test_who_waits_for_another_process_waits_for_days():
    """Until the main process has read or indexed a large corpus: torch's own patience is 10 to 30 minutes."""
    assert accelerator(Compute(device="cpu", precision="float32")).init_handler.timeout == PATIENCE


if __name__ == "__main__":
    trainings(Path(sys.argv[1]), Path(sys.argv[2]))
