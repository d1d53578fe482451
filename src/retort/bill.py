"""What a run will cost before it starts: items, tokens, hours and disk of each step, from a short probe on this machine.

`probe` measures how fast the config's own models work on some of the user's own texts; `bill` multiplies. Not estimated, as
they are short beside the rest: reading the sources, building an index other than BM25's, measuring, the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retort.compute import accelerator
from retort.config import Config
from retort.job import Job
from retort.pipeline import run
from retort.plan import Step
from retort.probing import Speeds, probe
from retort.store import BILL, write_json


@dataclass(frozen=True)
class Line:
    """The cost of a step: items of a unit, how many tokens they come to, seconds, and bytes on disk."""

    step: str
    items: int
    unit: str
    tokens: int
    seconds: float
    disk: int = 0


def bill(
    steps: Mapping[str, Step], questions: Mapping[str, int], passages: int, speeds: Speeds, *, deepest: int | None = None
) -> list[Line]:
    """A line for each step that takes long, in the order of the run; labels of no more than the `deepest` candidates.

    `questions` are those of each split.
    """
    lines = []
    for step in steps.values():
        config, every = step.config, sum(questions.values())
        depth = min(config.label.depth, deepest or config.label.depth)
        if step.stage == "index" and step.round == 0:
            lines.append(Line(step.name, passages, "passages (BM25)", 0, _over(passages, speeds.indexed)))
        if step.stage == "retrieve":
            work = every * passages * speeds.dimension
            lines.append(
                Line(step.name, every, "questions", 0, _over(work, speeds.searched), 16 * every * config.retrieve.depth)
            )
        if step.stage == "encode":
            lines.append(_encoding(step, passages, speeds))
        if step.stage == "read":
            lines.append(_reading(step, questions["dev"], speeds))
        if step.stage == "label":
            pairs, teachers = every * depth, max(1, len(config.label.teachers))
            seconds, calls = sum((_over(pairs, one) for one in speeds.labelled), 0.0), pairs * len(speeds.labelled)
            lines.append(
                Line(step.name, calls, "teacher calls", round(calls * speeds.string_tokens), seconds, 8 * pairs * teachers)
            )
        if step.stage == "distil":
            lines.append(_distilling(step, min(passages, questions["dev"] * depth), speeds))
    return lines


def _encoding(step: Step, passages: int, speeds: Speeds) -> Line:
    items, disk = 0 if step.keeps_passages else passages, round(passages * speeds.vector_bytes)
    return Line(step.name, items, "passages", round(items * speeds.passage_tokens), _over(items, speeds.encoded), disk)


def _reading(step: Step, dev: int, speeds: Speeds) -> Line:
    read = step.config.read
    items = sum(phase.steps * phase.batch * phase.passages for phase in read.phases)
    times = sum(phase.steps for phase in read.phases) // read.evaluate_every
    seen = times * dev * (read.evaluate_passages or read.phases[-1].passages)
    seconds = _over(items, speeds.read) + _over(seen, 3 * speeds.read)  # a step costs three forward passes
    return Line(step.name, items, "passages read", round(items * speeds.string_tokens), seconds)


def _distilling(step: Step, dev: int, speeds: Speeds) -> Line:
    """`dev` passages are encoded at every evaluation."""
    distil = step.config.distil
    items, times = distil.steps * distil.batch * distil.candidates, distil.steps // distil.evaluate_every + 1
    seconds = _over(items, speeds.distilled) + _over(times * dev, speeds.encoded)
    return Line(step.name, items, "candidates", round(items * speeds.passage_tokens), seconds)


def refreshes(config: Config, questions: int, passages: int, speeds: Speeds) -> dict[str, float]:
    """Seconds of bringing a search up to date with a changed student, by policy (Atlas, section 2.4).

    Encoding the corpus anew; encoding only the first `retrieve.depth` of each train question anew; and, where the query side
    alone is trained (`student.query_side`), nothing.
    """
    return {
        "encode the corpus anew": _over(passages, speeds.encoded),
        f"re-rank the first {config.retrieve.depth}": _over(questions * config.retrieve.depth, speeds.encoded),
        "train the query side alone": 0.0,
    }


def depth_within(
    hours: float, steps: Mapping[str, Step], questions: Mapping[str, int], passages: int, speeds: Speeds
) -> int | None:
    """The greatest label depth, up to the config's own, with which the whole run takes no longer; None: not even 2 does."""
    for depth in range(max(step.config.label.depth for step in steps.values()), 1, -1):
        if sum(line.seconds for line in bill(steps, questions, passages, speeds, deepest=depth)) <= 3600 * hours:
            return depth
    return None


@dataclass(frozen=True)
class Bill:
    """What a run will cost, what keeping its search fresh would, and the label depth that fits the hours, if asked."""

    lines: Sequence[Line]
    speeds: Speeds
    refresh_seconds: Mapping[str, float]
    hours: float | None = None
    depth: int | None = None

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(line.seconds for line in self.lines)

    def plain(self) -> dict[str, Any]:
        """The bill as JSON, which the report compares with what was spent."""
        facts = asdict(self)
        return {"steps": {line.pop("step"): line for line in facts.pop("lines")}, "seconds": self.seconds, **facts}

    def notes(self) -> list[str]:
        """What the table does not say: memory, refresh policies, and what fits."""
        fresh = "; ".join(f"{policy}: {seconds / 60:.1f} min" for policy, seconds in self.refresh_seconds.items())
        said = [
            f"memory while trying the models: {self.speeds.peak_mb:,.0f} MB",
            f"keeping a search fresh, each time: {fresh}",
        ]
        if self.hours is not None:
            fits = f"--set label.depth={self.depth}" if self.depth else "no label depth does: train for fewer steps as well"
            said.append(f"within {self.hours:g} h: {fits}")
        return said


def planned(config: Config, root: Path, hours: float | None = None) -> Bill:
    """The bill of a run in `root`, which is also left there as bill.json; the prepare stage is done for it, and is kept."""
    steps = run(config, root, only=["prepare"])
    job = Job(steps, accelerator(config.compute))
    speeds = probe(job, config)
    questions = {split: len(queries) for split, queries in job.prepared.splits.items()}
    passages = len(job.prepared.corpus)
    found = Bill(
        bill(steps, questions, passages, speeds), speeds, refreshes(config, questions["train"], passages, speeds), hours,
        depth_within(hours, steps, questions, passages, speeds) if hours is not None else None,
    )  # fmt: skip
    write_json(root / BILL, found.plain())
    return found


def _over(items: float | int, per_second: float) -> float:
    return items / per_second if per_second else 0.0
