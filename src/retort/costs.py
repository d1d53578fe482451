"""What a stage costs: seconds, items and its peak of memory, added up over the attempts that were interrupted."""

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from retort.store import COST, read_json, write_json

PROCESS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux; man 5 proc


@dataclass
class Meter:
    """Counts the items of a stage while it runs; `measured` turns it into cost.json."""

    unit: str = "items"
    items: int = 0
    started: float = field(default_factory=time.perf_counter)


@contextmanager
def measured(folder: Path, unit: str, *, write: bool = True) -> Iterator[Meter]:
    """A meter whose seconds, items and own peak memory join the costs of earlier, interrupted attempts in `folder`.

    What a stage itself has written there, such as what its servers were asked, stays.
    With `write` False (a process that is not the main one) nothing is written.
    """
    meter = Meter(unit)
    forget_peak()
    try:
        yield meter
    finally:
        if write:
            _add_cost(folder, meter)


def _add_cost(folder: Path, meter: Meter) -> None:
    kept = read_json(folder / COST) if (folder / COST).exists() else {}
    before = {"seconds": 0.0, "items": 0, "peak_mb": 0.0, **kept}
    cost = {
        **before,
        "seconds": before["seconds"] + time.perf_counter() - meter.started,
        "items": before["items"] + meter.items,
        "unit": meter.unit,
        "peak_mb": max(before["peak_mb"], peak_megabytes()),
    }
    write_json(folder / COST, cost)


def forget_peak() -> None:
    """`peak_megabytes` counts from here, on a GPU and on Linux; elsewhere a process's peak cannot be set back."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or a sandbox that forbids it
        PEAK_RESET.write_text("5")


def peak_megabytes() -> float:
    """The most memory that this process has held since `forget_peak`, in MB; of the GPU where one is used."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    if PROCESS.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", PROCESS.read_text())):  # not in every sandbox
        return float(peak[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)  # bytes on a Mac
