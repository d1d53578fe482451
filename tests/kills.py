"""A program: runs a config to its end, and once more with a kill -9 at each of several points; every life is a process.

`python kills.py CONFIG WHOLE KILLED POINTS` makes the run WHOLE without a stop. KILLED is started again and again: its
first life ends at the first of POINTS, the next one at the second, and the last one at the end of the run. Prints a JSON
list of how each life ended. Retort is imported once and the lives are forks, so a life costs no import.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pyarrow import parquet

from retort.config import load
from retort.pipeline import run
from retort.plan import Step

# A point is (step, event, n): just before the n-th such event in that step of that life; ANY counts all events together,
# and the step's end as the last of them. Events: what puts bytes in their place, and the steps of an optimiser.
Point = tuple[str, str, int]
ANY = "any"
POINTS: list[Point] = [
    ("prepare", "table", 2),  # the corpus is there, the questions are half done
    ("round-0/encode", "replace", 4),  # between two parts
    ("round-0/index", "text", 2),
    ("round-0/retrieve", "table", 2),
    ("round-1/read", "train", 2),  # in the first phase, behind a checkpoint
    ("round-1/read", "rename", 3),  # while a checkpoint replaces the one before
    ("round-1/label", "replace", 4),  # between two parts
    ("round-1/label", "text", 2),  # half of a JSON file is written
    ("round-1/distil", "train", 2),  # before the first checkpoint
    ("round-1/distil", "train", 4),  # behind it
    ("round-1/distil", "replace", 3),  # while a model or a checkpoint is put in its place
    ("round-1/encode", "replace", 7),  # all parts are there, the manifest is about to be written
    ("round-1/encode", "replace", 4),  # it is written, and about to be put in its place
    ("round-1/evaluate", "table", 3),
    ("round-2/read", "train", 4),
    ("round-2/distil", ANY, 1000),  # the stage is done, the next one has not begun
    ("report", "text", 1),
]


def lives(config: Path, whole: Path, killed: Path, points: Sequence[Point]) -> list[str]:
    """How each life ended, "killed", "done" or "failed": that of `whole`, those of `killed` at each point, and its last."""
    command = [sys.executable, __file__, str(config), str(whole), str(killed), json.dumps(points)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = json.loads(done.stdout)
    assert "failed" not in ends, done.stderr[-3000:]
    return ends


class Death:
    """Kills this process at a point."""

    def __init__(self, step: str, event: str, number: int) -> None:
        self.step, self.event, self.number = step, event, number
        self.now, self.seen = "", Counter()

    def started(self, step: Step, state: str) -> None:
        if self.now == self.step and self.event == ANY:
            os.kill(os.getpid(), signal.SIGKILL)
        self.now = step.name

    def watch(self) -> None:
        for event, owner, name in (
            ("replace", os, "replace"),  # a temporary file becomes the real one
            ("rename", os, "rename"),  # a folder stands aside, or is about to be removed
            ("remove", shutil, "rmtree"),
            ("table", parquet, "write_table"),
            ("text", Path, "write_text"),
            ("train", torch.optim.AdamW, "step"),
        ):
            setattr(owner, name, self._watched(event, getattr(owner, name)))

    def _watched(self, event: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            if self.now == self.step and self.event in (event, ANY):
                self.seen[self.event] += 1
                if self.seen[self.event] == self.number:
                    if event == "text":  # half a file is there
                        arguments[0].write_bytes(arguments[1].encode()[: len(arguments[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return watched


def life(config: Path, root: Path, point: Point | None) -> str:
    """How a process that runs the config ended."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        return "killed" if os.WIFSIGNALED(status) else "failed" if os.WEXITSTATUS(status) else "done"
    try:
        death = Death(*(point or ("", "", 0)))
        death.watch()
        run(load(config), root, started=death.started)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> None:
    config, whole, killed = map(Path, sys.argv[1:4])
    torch.set_num_threads(1)
    ends = [life(config, whole, None)]
    ends += [life(config, killed, point) for point in [*json.loads(sys.argv[4]), None]]
    sys.stdout.write(json.dumps(ends))


if __name__ == "__main__":
    main()
