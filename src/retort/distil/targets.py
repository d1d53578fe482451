"""What score a candidate deserves: a policy makes the Target of a batch from its raw labels, by a chain of pure functions.

A link of the chain maps scores [..., C] with a mask to scores [..., C]. Raw labels are never changed on disk; temperatures
belong to the objectives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from retort.distil.roster import Roster
from retort.tensors import Batch, Signals, Target

Link = Callable[[Float[Tensor, "..."], Bool[Tensor, "..."]], Float[Tensor, "..."]]


@runtime_checkable
class Policy(Protocol):
    """Makes the target of a batch; may look at the model states and at what the student gave."""

    @property
    def needs(self) -> frozenset[str]:
        """The names of the student's signals that it reads."""
        ...

    def __call__(self, batch: Batch, roster: Roster, signals: Signals) -> Target:
        """The teacher's side of the batch."""
        ...


@dataclass(frozen=True)
class FromLabels:
    """The batch's labels, passed through the links in order; without any, the teacher's raw scores.

    Every row weighs 1. A row is not valid where its drawn candidates cannot teach an order: fewer than 2, or all equal.
    """

    links: tuple[Link, ...] = ()
    needs: frozenset[str] = frozenset()

    def __call__(self, batch: Batch, roster: Roster, signals: Signals) -> Target:
        """The teacher's side of the batch."""
        assert batch.labels is not None
        scores = batch.labels
        for link in self.links:
            scores = link(scores, batch.mask)
        highest = scores.masked_fill(~batch.mask, -torch.inf).amax(-1)
        lowest = scores.masked_fill(~batch.mask, torch.inf).amin(-1)
        return Target(scores=scores, weight=torch.ones_like(highest), valid=highest > lowest)
