"""How a batch becomes a loss: the seams of one way to distil, put together. Tensors in, one value a row out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from retort.distil.roster import Roster
from retort.distil.targets import FromLabels, Policy
from retort.distil.views import View, identity
from retort.distil.weights import Weighter, uniform
from retort.tensors import Batch, Encoded, Student, Term


@dataclass(frozen=True)
class RowLosses:
    """What each row of a batch costs: by objective, and weighted and summed."""

    named: Mapping[str, Float[Tensor, "B"]]
    total: Float[Tensor, "B"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """The terms of the loss by name, the view, the target policy and the weighter. FiD-KD: KL, all else as it is."""

    objectives: Mapping[str, Term]
    view: View = identity
    policy: Policy = field(default_factory=FromLabels)
    weighter: Weighter = uniform

    @property
    def needs(self) -> frozenset[str]:
        """The names of the student's signals that the objectives and the policy read."""
        return self.policy.needs.union(*(term.objective.needs for term in self.objectives.values()))

    @property
    def reads(self) -> frozenset[str]:
        """The names of the batch's fields that the objectives read: "positive", "ranks"."""
        return frozenset().union(*(term.objective.reads for term in self.objectives.values()))

    def check(self, student: Student) -> None:
        """ValueError where the student cannot give what an objective or the policy reads."""
        wanted = {name: term.objective.needs for name, term in self.objectives.items()}
        for name, needs in {**wanted, "the target policy": self.policy.needs}.items():
            if missing := sorted(needs - student.gives):
                raise ValueError(
                    f"{name} needs the signals {missing}, but the student ({type(student).__name__}) gives only "
                    f"{sorted(student.gives)}: choose another objective, or a student that gives them"
                )

    def row_losses(self, batch: Batch, roster: Roster, queries: Encoded, passages: Encoded) -> RowLosses:
        """The losses of the rows: sum over objectives of coefficient x weight x loss, and 0 where a row is not valid."""
        signals = roster.student.score(queries, passages, batch, self.needs)
        target = self.policy(batch, roster, signals)
        named = {name: term.objective(signals, target, batch) for name, term in self.objectives.items()}
        weight = target.weight * self.weighter(batch, signals, target, named)
        coefficients = {name: term.coefficient_at(batch.step) for name, term in self.objectives.items()}
        total = torch.stack([coefficients[name] * weight * rows for name, rows in named.items()]).sum(0)
        return RowLosses(named, torch.where(target.valid, total, 0.0))
