"""Whether other programs are at work on the cores that this one counts on."""

import os
import time
from pathlib import Path

import numpy as np
import torch

from retort.compute import usable_cores

CPU_TIMES = Path("/proc/stat")  # Linux; man 5 proc


def others_at_work(seconds: float = 0.2) -> str | None:
    """What is wrong where other programs keep busy the cores that this one counts on, in a sentence, or None.

    Threads that wait for each other at every step wait for the slowest: on two cores two trainings took five times as long.
    Looked at for so many seconds, on Linux.
    """
    if not CPU_TIMES.exists():
        return None
    before = np.array(_cpu_times())
    time.sleep(seconds)
    passed, idle = _cpu_times() - before
    free, wanted = (os.cpu_count() or 1) * idle / max(1, passed), min(torch.get_num_threads(), usable_cores())
    if free > wanted - 0.5:
        return None
    return f"other programs leave {free:.1f} cores free, and this wants {wanted}: it may be several times slower beside them"


def _cpu_times() -> tuple[int, int]:
    """What all cores have spent together since the start, and how much of it idle or waiting for a disk, in one unit."""
    spent = list(map(int, CPU_TIMES.read_text().split()[1:9]))
    return sum(spent), spent[3] + spent[4]
