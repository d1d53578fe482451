"""Pairwise objectives: what each ordered pair of candidates costs, as a pure function and as an objective.

Axes: B queries, K candidates; one sum a row, never reduced over rows. Masks are True where a candidate is real. Not here:
losses over the whole list (listwise.py).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from retort.losses.listwise import wide
from retort.tensors import Batch, Signals, Target


def max_margin(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None, *, margin: float
) -> Float[Tensor, "B"]:
    """What the pairs of each row lack: sum over p1 != p2 of max(0, margin - sign(G_p1 - G_p2) (S_p1 - S_p2)).

    FiD-KD, arXiv 2012.04584, section 3. All ordered pairs count, so each unordered pair counts twice; sign(0) = 0, so a tie
    of the teacher adds the margin itself. Pairs with a masked candidate add nothing and give it no gradient.

    >>> max_margin(torch.tensor([[0.2, 0.1, 0.4, -0.3]]), torch.tensor([[1.0, 2.0, 0.5, -1.0]]), margin=0.1)
    tensor([1.8000])
    """
    real = torch.ones_like(student, dtype=torch.bool) if mask is None else mask
    student, teacher = wide(student).masked_fill(~real, 0.0), wide(teacher).masked_fill(~real, 0.0)
    pairs = real[:, :, None] & real[:, None, :] & ~torch.eye(student.shape[1], dtype=torch.bool, device=student.device)
    order = (teacher[:, :, None] - teacher[:, None, :]).sign()
    lacking = (margin - order * (student[:, :, None] - student[:, None, :])).clamp(min=0.0)
    return lacking.masked_fill(~pairs, 0.0).sum((1, 2))


@dataclass(frozen=True)
class MaxMargin:
    """`max_margin` of the raw scores."""

    margin: float = 0.0
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        assert signals.scores is not None
        return max_margin(signals.scores, target.scores, batch.mask, margin=self.margin)
