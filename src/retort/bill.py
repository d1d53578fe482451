"""The bill of a run before it starts: what each step will cost on this machine, and what a budget chooses by it.

`probe` measures how fast the config's own models work on some of the user's own texts, estimates.py multiplies. Here: the
whole, as it is printed and kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retort.compute import accelerator
from retort.config import Budget, Config
from retort.estimates import Line, bill, refreshes
from retort.evaluation.markup import duration
from retort.job import Job
from retort.pipeline import run
from retort.plan import Step
from retort.probing import probe
from retort.speeds import Speeds
from retort.store import BILL, write_json

COLUMNS = ("step", "work", "tokens", "time", "memory (MB)", "disk (MB)", "money")


def depth_within(
    budget: Budget, steps: Mapping[str, Step], questions: Mapping[str, int], passages: int, speeds: Mapping[int, Speeds]
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
    then they are of the run with 2. `own_seconds` are those of the config's own depth. `speeds` are by round.
    """

    lines: Sequence[Line]
    speeds: Mapping[int, Speeds]
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

    @property
    def disk(self) -> int:
        """Bytes that all steps leave."""
        return sum(line.disk for line in self.lines)

    def plain(self) -> dict[str, Any]:
        """The bill as JSON, which the report compares with what was spent."""
        facts = asdict(self)
        steps = {line.pop("step"): line for line in facts.pop("lines")}
        return {"steps": steps, "seconds": self.seconds, "money": self.money, **facts}

    def rows(self) -> list[list[str]]:
        """The table to be printed, in `COLUMNS`: a row for each step and one for all."""
        tokens, memory = sum(line.tokens for line in self.lines), max((line.memory for line in self.lines), default=0)
        whole = Line("all", 0, "", tokens, self.seconds, disk=self.disk, memory=memory, money=self.money)
        return [
            [line.step, f"{line.items:,} {line.unit}" if line.unit else "", f"{line.tokens:,}", duration(line.seconds),
             f"{line.memory / 1e6:,.0f}", f"{line.disk / 1e6:,.1f}", f"{line.money:,.2f}"]
            for line in (*self.lines, whole)
        ]  # fmt: skip

    def notes(self) -> list[str]:
        """What the table does not say: the disk that is needed, what servers leave open, refresh policies, the budget."""
        fresh = "; ".join(f"{policy}: {seconds / 60:.1f} min" for policy, seconds in self.refresh_seconds.items())
        scratch = max((line.scratch for line in self.lines), default=0) / 1e6
        said = [
            f"disk while it runs: {self.disk / 1e6 + scratch:,.0f} MB at most, of which {scratch:,.0f} MB of checkpoints go",
            f"keeping a search fresh, each time: {fresh}",
        ]
        if any(line.requests for line in self.lines):
            said.append("of servers: the least time that requests_per_minute allows, and the most money")
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
        precision = f"estimated in {self.precision} ({self.because})"
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
    last = config.rounds
    found = Bill(
        bill(*about, deepest=depth or (2 if config.budget else None)),
        speeds,
        refreshes(config.of_round(last), questions, len(job.prepared.corpus), speeds[last]),
        *_precision(config, job.precision_name),
        budget=config.budget and config.budget.model_dump(),
        depth=depth,
        own_seconds=sum(line.seconds for line in bill(*about)),
    )
    if job.accelerator.is_main_process:
        write_json(root / BILL, found.plain())
    return found


def _precision(config: Config, name: str) -> tuple[str, str]:
    """The precision of the run, and why it is that one."""
    native = "multiplies bfloat16 natively" if name == "bfloat16" else "does not multiply bfloat16 natively"
    return name, f"this machine {native}" if config.compute.precision == "auto" else "compute.precision says so"


def _check_prices(config: Config) -> None:
    for number in range(1, config.rounds + 1) if config.budget and config.budget.money else ():
        for teacher in config.of_round(number).label.teachers:
            if teacher.server is not None and teacher.server.price_per_million is None:
                raise ValueError(
                    f"budget.money is set, and teacher {teacher.model!r} of round {number} has no prices: give "
                    "server.price_per_million (0 for your own server)"
                )
