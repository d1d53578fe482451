"""What the benchmarks share: where the data is, which machine this is, measures with intervals and tests, the printed line.

A benchmark prints one line of JSON; table.py turns such lines into a table. Nothing here trains or searches.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retort.config import Config, load, merged, parse
from retort.evaluation.metrics import PerQuery, evaluate
from retort.evaluation.significance import bootstrap_interval, compare
from retort.records import Corpus, Qrels, Query, Run

ROOT = Path(__file__).parents[1]
MEASURES = ("R@1", "R@5", "R@20", "R@100", "nDCG@10", "has_answer@20")
DIGITS = 4  # of a share: a hundredth of a point


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as it stands."""
    return argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def options(text: str, *, out: Path) -> argparse.ArgumentParser:
    """The options that every benchmark with a recipe takes."""
    parser = parser_of(text)
    parser.add_argument("--out", type=Path, default=out, help=f"the run's folder, to go on in too (default {out})")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "fairytaleqa_cpu.yaml", help="the settings")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="a change of them; may be repeated")
    return parser


def data_folder(name: str) -> Path | None:
    """The folder of a data set in RETORT_DATA; None, with the reason on stderr, where there is none."""
    root = os.environ.get("RETORT_DATA")
    if not root:
        print(f"skipped: RETORT_DATA is not set; set it to a folder that holds {name} in BEIR layout", file=sys.stderr)
        return None
    if not (Path(root) / name / "corpus.jsonl").is_file():
        print(f"skipped: {Path(root) / name} holds no corpus.jsonl; unpack {name} there", file=sys.stderr)
        return None
    return Path(root) / name


def config_on(folder: Path, recipe: Path, changes: Sequence[str], *, queries: Path | None = None) -> Config:
    """The recipe with `changes`, on the data in `folder`, which is in BEIR layout; `queries` may stand for its own.

    Its files are named one by one, and qrels/train.tsv is not among them: no stage can read it, not even to hash it.
    """
    questions, grades = str(queries or folder / "queries.jsonl"), folder / "qrels"
    sources = {
        "corpus": str(folder / "corpus.jsonl"),
        "queries": {split: questions for split in ("train", "dev", "test")},
        "qrels": {split: str(grades / f"{split}.tsv") for split in ("dev", "test")},
    }
    return parse(merged(load(recipe, changes).model_dump(), {"prepare": sources}))


def as_changes(values: Mapping[str, Any]) -> list[str]:
    """What --set would be given for `values`, section by section.

    >>> as_changes({"seed": 1, "distil": {"steps": 5, "student": {"scale": None}}})
    ['seed=1', 'distil={"steps": 5, "student": {"scale": null}}']
    """
    return [f"{section}={json.dumps(value)}" for section, value in values.items()]


def measured(run: Run, corpus: Corpus, queries: Sequence[Query], qrels: Qrels) -> PerQuery:
    """MEASURES of a Run for each query: the one evaluation that all systems of the table go through."""
    return evaluate(run, corpus, queries=queries, measures=MEASURES, qrels=qrels)


def row(result: PerQuery) -> dict[str, list[float]]:
    """Each measure as its mean and the ends of its 95% bootstrap interval over queries, in 0..1.

    >>> row(PerQuery("demo", ("q1", "q2"), {"R@5": np.array([0.5, 0.5])}))
    {'R@5': [0.5, 0.5, 0.5]}
    """
    rng = np.random.default_rng(0)
    return {
        name: [round(value, DIGITS) for value in (float(values.mean()), *bootstrap_interval(values, rng=rng))]
        for name, values in result.measures.items()
    }


def mean_of(name: str, results: Sequence[PerQuery]) -> PerQuery:
    """The mean of several results for each query, such as those of several seeds.

    >>> one, two = (PerQuery("demo", ("q",), {"R@5": np.array([value])}) for value in (0.0, 1.0))
    >>> mean_of("both", [one, two]).measures["R@5"].tolist()
    [0.5]
    """
    ids = results[0].query_ids
    values = [result.select(ids).measures for result in results]
    return PerQuery(name, ids, {measure: np.mean([one[measure] for one in values], axis=0) for measure in values[0]})


def compared(systems: Mapping[str, PerQuery], pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The paired randomisation test of each pair in every measure, with Holm's correction over all that is given back."""
    named = {name: replace(one, name=name) for name, one in systems.items()}
    measures = list(dict.fromkeys(name for system, _ in pairs for name in systems[system].measures))
    rivals = [(named[one], named[other]) for one, other in pairs]
    found = map(asdict, compare(rivals, measures=measures, rng=np.random.default_rng(0)))
    return [
        {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in one.items()} for one in found
    ]


def print_line(benchmark: str, facts: Mapping[str, Any], *, argv: Sequence[str]) -> None:
    """The one JSON line of a benchmark on stdout: commit, date, machine, the command, and its facts."""
    head = {
        "benchmark": benchmark,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "command": shlex.join([f"benchmarks/{benchmark}.py", *argv]),
    }
    print(json.dumps({**head, **facts}, allow_nan=False), flush=True)


def commit() -> str:
    """The commit of this checkout, with a + where tracked files differ from it; "unknown" outside of a repository."""
    try:
        found = _git("rev-parse", "--short=10", "HEAD")
        return found + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> dict[str, str | int | None]:
    """What the numbers hang on: the CPU's model, the threads of torch, the vector instructions it uses, the GPU or None."""
    return {
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_model() -> str:
    """The model as Linux names it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
