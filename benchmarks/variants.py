"""Several runs of one benchmark that differ in a few settings: what they have in common is made once, by any of them."""

import sys
from pathlib import Path
from typing import Any

from retort import pipeline
from retort.config import Config
from retort.evaluation.metrics import PerQuery
from retort.evidence import RESULTS
from retort.plan import Step, plan
from retort.store import COST, MANIFEST, read_json, remove


def run_until(last: str, config: Config, folder: Path, around: Path) -> dict[str, Step]:
    """The steps of the run in `folder`, done up to `last` and linked where a run below `around` has done the same."""
    link_done(config, folder, around)
    names = list(plan(config, folder))
    print(f"{folder}, up to {last}", file=sys.stderr, flush=True)
    return pipeline.run(config, folder, only=names[: names.index(last) + 1], started=_tell)


def link_done(config: Config, folder: Path, around: Path) -> None:
    """Put links where the run in `folder` lacks steps, or has stale ones, that a run below `around` has done.

    A key stands for the settings of a stage and of all before it, so that equal keys have equal content.
    """
    done = {read_json(manifest)["key"]: manifest.parent for manifest in around.rglob(MANIFEST)}
    for step in plan(config, folder).values():
        if step.folder.key in done and step.folder.state() in ("missing", "stale"):
            remove(step.path)  # what is stale, or a link whose target is gone
            step.path.parent.mkdir(parents=True, exist_ok=True)
            step.path.symlink_to(done[step.folder.key].resolve())


def training(steps: int, batch: int, candidates: int, learning_rate: float) -> dict[str, Any]:
    """The distil settings of a budget; only the student before the first and after the last step are looked at."""
    return {
        "steps": steps, "batch": batch, "candidates": candidates, "selection": "labels",
        "evaluate_every": steps, "checkpoint_every": 50,
        "optimiser": {"learning_rate": learning_rate, "warmup_steps": steps // 10},
    }  # fmt: skip


def result(steps: dict[str, Step], number: int, name: str, split: str = "test") -> PerQuery:
    """What a round's evaluation found of a Run: bm25, untouched, teacher-1, round-1."""
    return PerQuery.read(steps[f"round-{number}/evaluate"].path / RESULTS / f"{split}.{name}.parquet")


def seconds(folder: Path) -> float:
    """What a stage took."""
    return round(read_json(folder / COST)["seconds"], 1)


def _tell(step: Step, state: str) -> None:
    print(f"  {step.name}: {state}", file=sys.stderr, flush=True)
