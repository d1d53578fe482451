"""Listwise objectives: the gap between two scorings of one candidate list, as pure functions and as objectives.

Axes: B queries, K candidates. Every function returns one sum a row, never reduced over rows: averaging over queries is the
loop's work, so that the learning rate does not depend on K (FiD's code divides by B K instead; methods 5.1 A7). Masks are
True where a candidate is real. Values are computed in float32 at least, also inside autocast. Not here: losses over pairs
of candidates (pairwise.py).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import log_softmax

from retort.tensors import Batch, Signals, Target


def kl(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """KL(softmax(teacher) || softmax(student)) of each row: sum_p Gt_p (log Gt_p - log St_p). FiD-KD, arXiv 2012.04584.

    0 where the two agree up to a constant, and in a row of fewer than 2 real candidates. The gradient with respect to the
    student's scores is St - Gt; that of a masked candidate is exactly 0.

    >>> kl(torch.tensor([[0.2, 0.1, 0.4, -0.3]]), torch.tensor([[1.0, 2.0, 0.5, -1.0]]))
    tensor([0.3517])
    """
    log_student, log_teacher = _log_softmax(student, mask), _log_softmax(teacher, mask)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1)


def mse(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """The summed squared difference of raw scores of each row: sum_p (S_p - G_p)^2. FiD-KD, arXiv 2012.04584, section 3.

    Both scores must live on one scale. A masked candidate adds nothing and gets no gradient.

    >>> mse(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 1.0]]))
    tensor([5.])
    """
    gap = wide(student) - wide(teacher)
    return (gap if mask is None else gap.masked_fill(~mask, 0.0)).square().sum(-1)


@dataclass(frozen=True)
class KL:
    """`kl` of the scores, each side divided by its own temperature (FiD-KD: 1 and 1). Never multiplied by T squared."""

    student_temperature: float = 1.0
    teacher_temperature: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        assert signals.scores is not None
        return kl(signals.scores / self.student_temperature, target.scores / self.teacher_temperature, batch.mask)


@dataclass(frozen=True)
class MSE:
    """`mse` of the raw scores."""

    needs: ClassVar[frozenset[str]] = frozenset({"scores"})

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        assert signals.scores is not None
        return mse(signals.scores, target.scores, batch.mask)


def wide(scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The scores in float32 where they are narrower: a softmax in half precision loses its tail."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _log_softmax(scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None) -> Float[Tensor, "B K"]:
    """Log-probabilities over the real candidates; about the lowest finite number at the others.

    Finite, because -inf - (-inf) would be NaN in the difference of two of them; exp of it is exactly 0 all the same.
    """
    scores = wide(scores)
    return log_softmax(scores if mask is None else scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1)
