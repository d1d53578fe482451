"""The always-on training log: one JSON line a step, without times, so that a resumed run leaves the same bytes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retort.store import write_atomic


@dataclass(frozen=True)
class StepLog:
    """Lines of facts in a file; `active` in the one process that writes."""

    path: Path
    active: bool

    def truncate(self, step: int) -> None:
        """Drop what an interrupted run wrote after `step`, half a line included."""
        if not self.active or not self.path.exists():
            return
        kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
        with write_atomic(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))

    def add(self, step: int, facts: Mapping[str, float]) -> None:
        """Append the facts of `step`. ValueError on NaN, which JSON does not have."""
        if self.active:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **facts}, allow_nan=False) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
