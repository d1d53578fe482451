"""A run at work: its steps, the processes that share it, and where progress goes. What every stage is handed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from accelerate import Accelerator

from retort.plan import Step
from retort.prepared import Prepared


@runtime_checkable  # asked for by the checks of the tests
class Bar(Protocol):
    """Shows that `count` more items are done, with facts such as the loss."""

    def __call__(self, count: int = 1, facts: Mapping[str, float] | None = None) -> None:
        """Move on."""
        ...


Bars = Callable[[str, int | None], AbstractContextManager[Bar]]


@contextmanager
def no_bars(name: str, total: int | None) -> Iterator[Bar]:
    """Progress that shows nothing."""
    yield lambda count=1, facts=None: None


def by_step(bar: Bar, log: Callable[..., None] = lambda facts, step: None) -> Callable[[int, Mapping[str, float]], None]:
    """What a training calls with its step and facts; the bar stands at that step, also where the training goes on.

    `log`, such as an accelerator's, gets the facts as a dict and the step.
    """
    done = 0

    def progress(step: int, facts: Mapping[str, float]) -> None:
        nonlocal done
        bar(step - done, facts)
        log(dict(facts), step=step)
        done = step

    return progress


@dataclass(frozen=True)
class Job:
    """A run at work: its steps, the processes that share it, and where progress goes."""

    steps: Mapping[str, Step]
    accelerator: Accelerator
    bars: Bars = no_bars
    say: Callable[[str], None] = lambda text: None  # what a user should know at once

    def precision(self) -> AbstractContextManager[None]:
        """The context in which models compute in the precision that was asked for."""
        return self.accelerator.autocast()

    @property
    def precision_name(self) -> str:
        """What that precision is called in a config."""
        return "bfloat16" if self.accelerator.mixed_precision == "bf16" else "float32"

    @property
    def root(self) -> Path:
        """The folder of the run."""
        return self.steps["prepare"].path.parent

    def path(self, round_number: int, stage: str) -> Path:
        """The folder of a stage of a round."""
        return self.steps[f"round-{round_number}/{stage}"].path

    @cached_property
    def prepared(self) -> Prepared:
        """What the prepare stage left, once it has."""
        return Prepared(self.steps["prepare"].path)

    def mine(self, part: int) -> bool:
        """Whether this process makes a part."""
        return part % self.accelerator.num_processes == self.accelerator.process_index
