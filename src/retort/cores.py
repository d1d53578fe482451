"""The cores that a process may use, and whether other programs are at work on them."""

import os
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

CPU_TIMES = Path("/proc/stat")  # Linux; man 5 proc


def usable() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def others_at_work(seconds: float = 0.2) -> str | None:
    """What is wrong where other programs keep busy the cores that this one counts on, in a sentence, or None.

    Threads that wait for each other at every step wait for the slowest: on two cores two trainings took five times as long.
    Looked at for so many seconds, on Linux.
    """
    if not CPU_TIMES.exists():
        return None
    before = _cpu_times()
    time.sleep(seconds)
    passed, idle = _cpu_times() - before
    if not passed:  # a sandbox that does not tell
        return None
    free, wanted = usable() * idle / passed, min(torch.get_num_threads(), usable())
    if free > wanted - 0.5:
        return None
    return f"other programs leave {free:.1f} cores free, and this wants {wanted}: it may be several times slower beside them"


def _cpu_times() -> Int64[np.ndarray, "2"]:
    """What the usable cores have spent since the start, and how much of it idle or waiting for a disk, in one unit."""
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = [line.split() for line in CPU_TIMES.read_text().splitlines() if line.partition(" ")[0] in mine]
    spent = np.array([[int(ticks) for ticks in line[1:9]] for line in lines]).sum(axis=0)
    return np.array([spent.sum(), spent[3] + spent[4]])
