"""What a run will cost before it starts: items, tokens, hours and disk of each step, from a short probe on this machine.

`probe` measures how fast the config's own models work on some of the user's own texts; `bill` multiplies. Not estimated, as
they are short beside the rest: reading the sources, building an index other than BM25's, measuring, the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retort.compute import accelerator
from retort.config import Budget, Config, TeacherSettings
from retort.evaluation.markup import duration
from retort.job import Job
from retort.pipeline import run
from retort.plan import Step, refresh_of, rerank_depth
from retort.probing import Speeds, probe
from retort.store import BILL, write_json
from retort.teachers.remote.forms import TOKENS

COLUMNS = ("step", "work", "tokens", "time", "disk (MB)", "money")
AROUND = 60  # tokens of instruction and question around a passage, in the prompts to servers


@dataclass(frozen=True)
class Line:
    """The cost of a step: items of a unit, how many tokens they come to, seconds, bytes on disk, and what servers charge."""

    step: str
    items: int
    unit: str
    tokens: int
    seconds: float
    disk: int = 0
    money: float = 0.0


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
            lines.append(_encoding(step, questions, passages, speeds))
        if step.stage == "read":
            lines.append(_reading(step, questions["dev"], speeds))
        if step.stage == "label":
            lines.append(_labelling(step, every * depth, speeds))
        if step.stage == "distil":
            lines.append(_distilling(step, min(passages, questions["dev"] * depth), speeds))
    return lines


def _encoding(step: Step, questions: Mapping[str, int], passages: int, speeds: Speeds) -> Line:
    """What is encoded by the round's way of refreshing, at most: found passages as if no two questions shared one."""
    refresh, every = refresh_of(step.config, step.round), sum(questions.values())
    probed, found = _probed(step.config, questions, passages), _found(step.config, questions, passages)
    items = {"full": passages, "keep": 0, "rerank": found, "auto": probed + passages}[refresh]
    seconds, disk, unit = _over(items, speeds.encoded), passages * speeds.vector_bytes, "passages"
    if refresh in ("rerank", "auto"):
        seconds += _over(every * passages * speeds.dimension, speeds.searched)
        disk, unit = disk + found * speeds.vector_bytes, "passages at most"
    return Line(step.name, items, unit, round(items * speeds.passage_tokens), seconds, round(disk))


def _found(config: Config, questions: Mapping[str, int], passages: int) -> int:
    """The passages that stored vectors find for all questions, at most."""
    return min(passages, sum(questions.values()) * rerank_depth(config))


def _probed(config: Config, questions: Mapping[str, int], passages: int) -> int:
    """The passages that the probe of staleness encodes, at most."""
    return min(passages, min(questions["dev"], config.encode.probe_questions) * rerank_depth(config))


def _reading(step: Step, dev: int, speeds: Speeds) -> Line:
    read = step.config.read
    items = sum(phase.steps * phase.batch * phase.passages for phase in read.phases)
    times = sum(phase.steps for phase in read.phases) // read.evaluate_every
    seen = times * dev * (read.evaluate_passages or read.phases[-1].passages)
    seconds = _over(items, speeds.read) + _over(seen, 3 * speeds.read)  # a step costs three forward passes
    return Line(step.name, items, "passages read", round(items * speeds.string_tokens), seconds)


def _labelling(step: Step, pairs: int, speeds: Speeds) -> Line:
    """`pairs` of question and passage are seen by every teacher; the time of servers is not known."""
    teachers, calls = step.config.label.teachers, pairs * len(speeds.labelled)
    seconds = sum((_over(pairs, one) for one in speeds.labelled), 0.0)
    money = sum(_money(teacher, pairs, speeds.string_tokens) for teacher in teachers)
    disk = 8 * pairs * max(1, len(teachers))
    return Line(step.name, calls, "teacher calls", round(calls * speeds.string_tokens), seconds, disk, money)


def _money(teacher: TeacherSettings, pairs: int, passage_tokens: float) -> float:
    """What a teacher's server charges for the passages of so many pairs, at most: every reply is as long as it may be."""
    if teacher.server is None:
        return 0.0
    times, reply = (teacher.judge.repeats, TOKENS) if teacher.kind == "judge" else (1, 1)
    return teacher.server.money(times * pairs * (passage_tokens + AROUND), times * pairs * reply) or 0.0


def _distilling(step: Step, dev: int, speeds: Speeds) -> Line:
    """`dev` passages are encoded at every evaluation."""
    distil = step.config.distil
    items, times = distil.steps * distil.batch * distil.candidates, distil.steps // distil.evaluate_every + 1
    seconds = _over(items, speeds.distilled) + _over(times * dev, speeds.encoded)
    return Line(step.name, items, "candidates", round(items * speeds.passage_tokens), seconds)


def refreshes(config: Config, questions: Mapping[str, int], passages: int, speeds: Speeds) -> dict[str, float]:
    """Seconds of bringing a search up to date with a changed student, by policy (Atlas, section 2.4).

    Encoding the corpus anew; encoding only the first L that the stored vectors find for each question, at most; asking first
    which of the two it has to be; and, where the query side alone is trained (`student.query_side`), nothing.
    """
    found = _found(config, questions, passages)
    return {
        "full (the corpus anew)": _over(passages, speeds.encoded),
        f"rerank (the first {rerank_depth(config)} of a question)": _over(found, speeds.encoded),
        "auto (a probe, before one of these)": _over(_probed(config, questions, passages), speeds.encoded),
        "query_side": 0.0,
    }


def depth_within(
    budget: Budget, steps: Mapping[str, Step], questions: Mapping[str, int], passages: int, speeds: Speeds
) -> int | None:
    """The greatest label depth, up to the config's own, with which the whole run stays within; None: not even 2 does."""
    for depth in range(max(step.config.label.depth for step in steps.values()), 1, -1):
        lines = bill(steps, questions, passages, speeds, deepest=depth)
        hours, money = sum(line.seconds for line in lines) / 3600, sum(line.money for line in lines)
        if hours <= (budget.hours or hours) and money <= (budget.money or money):
            return depth
    return None


@dataclass(frozen=True)
class Bill:
    """What a run will cost, and what keeping its search fresh would; with a budget, what that chooses.

    `lines` are of the run with the chosen `depth` of labels; `depth` is None without a budget, and where not even 2 fits it:
    then they are of the run with 2. `own_seconds` are those of the config's own depth.
    """

    lines: Sequence[Line]
    speeds: Speeds
    refresh_seconds: Mapping[str, float]
    precision: str
    because: str
    budget: Mapping[str, float | None] | None = None
    depth: int | None = None
    own_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum((line.seconds for line in self.lines), 0.0)

    @property
    def money(self) -> float:
        """Of all steps."""
        return sum((line.money for line in self.lines), 0.0)

    def plain(self) -> dict[str, Any]:
        """The bill as JSON, which the report compares with what was spent."""
        facts = asdict(self)
        steps = {line.pop("step"): line for line in facts.pop("lines")}
        return {"steps": steps, "seconds": self.seconds, "money": self.money, **facts}

    def rows(self) -> list[list[str]]:
        """The table to be printed, in `COLUMNS`: a row for each step and one for all."""
        whole = Line("all", 0, "", sum(line.tokens for line in self.lines), self.seconds, money=self.money)
        return [
            [line.step, f"{line.items:,} {line.unit}" if line.unit else "", f"{line.tokens:,}", duration(line.seconds),
             f"{line.disk / 1e6:,.1f}" if line.unit else "", f"{line.money:,.2f}"]
            for line in (*self.lines, whole)
        ]  # fmt: skip

    def notes(self) -> list[str]:
        """What the table does not say: memory, refresh policies, and what the budget chooses."""
        fresh = "; ".join(f"{policy}: {seconds / 60:.1f} min" for policy, seconds in self.refresh_seconds.items())
        said = [
            f"memory while trying the models: {self.speeds.peak_mb:,.0f} MB",
            f"keeping a search fresh, each time: {fresh}",
        ]
        return said if self.budget is None else [*said, self.chosen()]

    def chosen(self) -> str:
        """What the budget chooses and why, or why nothing fits it."""
        bounds = " and ".join(f"{value:g} {name}" for name, value in (self.budget or {}).items() if value is not None)
        costs = f"{self.seconds / 3600:.2g} hours" + (f" and {self.money:.2g} money" if self.money else "")
        if self.depth is None:
            longest = max(self.lines, key=lambda line: line.seconds)
            return (
                f"within {bounds}: no label depth, since with 2 the run takes {costs}, of which {longest.step} alone takes "
                f"{longest.seconds / 3600:.2g} hours: train for fewer steps or rounds, or raise the budget"
            )
        whole = f"{self.own_seconds / 3600:.2g} hours with the config's own"
        precision = f"precision {self.precision} ({self.because})"
        return f"within {bounds}: label.depth {self.depth}, which takes {costs} ({whole}); {precision}"


def planned(config: Config, root: Path) -> Bill:
    """The bill of a run in `root`, which is also left there as bill.json; the prepare stage is done for it, and is kept.

    ValueError where the budget bounds money and a server has no prices.
    """
    _check_prices(config)
    steps = run(config.model_copy(update={"budget": None}), root, only=["prepare"])
    job = Job(steps, accelerator(config.compute))
    speeds = probe(job, config)
    questions = {split: len(queries) for split, queries in job.prepared.splits.items()}
    about = (steps, questions, len(job.prepared.corpus), speeds)
    depth = depth_within(config.budget, *about) if config.budget else None
    found = Bill(
        bill(*about, deepest=depth or (2 if config.budget else None)),
        speeds,
        refreshes(config, questions, len(job.prepared.corpus), speeds),
        *_precision(config, job.accelerator.mixed_precision == "bf16"),
        budget=config.budget and config.budget.model_dump(),
        depth=depth,
        own_seconds=sum(line.seconds for line in bill(*about)),
    )
    if job.accelerator.is_main_process:
        write_json(root / BILL, found.plain())
    return found


def _precision(config: Config, bfloat16: bool) -> tuple[str, str]:
    """The precision of the run, and why it is that one."""
    native = "multiplies bfloat16 natively" if bfloat16 else "does not multiply bfloat16 natively"
    because = f"this machine {native}" if config.compute.precision == "auto" else "compute.precision says so"
    return "bfloat16" if bfloat16 else "float32", because


def _check_prices(config: Config) -> None:
    for number in range(1, config.rounds + 1) if config.budget and config.budget.money else ():
        for teacher in config.of_round(number).label.teachers:
            if teacher.server is not None and teacher.server.price_per_million is None:
                raise ValueError(
                    f"budget.money is set, and teacher {teacher.model!r} of round {number} has no prices: give "
                    "server.price_per_million (0 for your own server)"
                )


def _over(items: float | int, per_second: float) -> float:
    return items / per_second if per_second else 0.0
