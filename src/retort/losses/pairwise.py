"""Pairwise losses: what each ordered pair of candidates costs, as pure functions.

Axes: B queries, K candidates; one value a row, never reduced over rows: the mean over the row's pairs, where nothing else is
said, so that the learning rate does not depend on K. Masks are True where a candidate is real. Not here: losses over the
whole list (listwise.py).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from retort.losses.listwise import real_candidates, wide


def max_margin(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None, *, margin: float
) -> Float[Tensor, "B"]:
    """What the pairs of each row lack: sum over p1 != p2 of max(0, margin - sign(G_p1 - G_p2) (S_p1 - S_p2)).

    FiD-KD, arXiv 2012.04584, section 3. All ordered pairs count, so each unordered pair counts twice; sign(0) = 0, so a tie
    of the teacher adds the margin itself. Pairs with a masked candidate add nothing and give it no gradient.

    >>> max_margin(torch.tensor([[0.2, 0.1, 0.4, -0.3]]), torch.tensor([[1.0, 2.0, 0.5, -1.0]]), margin=0.1)
    tensor([1.8000])
    """
    order = gaps(teacher, mask).sign()
    lacking = (margin - order * gaps(student, mask)).clamp(min=0.0)
    return torch.where(pairs(student, mask), lacking, 0.0).sum((1, 2))


def ranknet(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """ln(1 + e^-(S_i - S_j)), mean over the pairs with G_i > G_j (RankNet, Burges et al. 2005).

    0 in a row in which the teacher orders no pair.

    >>> ranknet(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[3.0, 1.0, 1.0]]))
    tensor([0.6931])
    """
    ordered = pairs(teacher, mask) & (gaps(teacher, mask) > 0)
    return _mean(softplus(-gaps(student, mask)), ordered)


def margin_mse(
    student: Float[Tensor, "B K"],
    teacher: Float[Tensor, "B K"],
    positive: Bool[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
) -> Float[Tensor, "B"]:
    """((S_p - S_n) - (G_p - G_n))^2, mean over pairs of a positive p and a negative n (MarginMSE, arXiv 2010.02666).

    0 in a row without a positive or without a negative. Both scores must live on one scale.

    >>> margin_mse(torch.tensor([[2.0, 1.0]]), torch.tensor([[5.0, 1.0]]), torch.tensor([[True, False]]))
    tensor([9.])
    """
    contrasts = pairs(student, mask) & positive[:, :, None] & ~positive[:, None, :]
    return _mean((gaps(student, mask) - gaps(teacher, mask)).square(), contrasts)


def margin_mse_all(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """((S_i - S_j) - (G_i - G_j))^2, mean over all pairs of different candidates: no positive needs to be known.

    0 in a row of fewer than 2 real candidates. naver/splade divides by K^2 instead of K (K - 1).

    >>> margin_mse_all(torch.tensor([[2.0, 1.0]]), torch.tensor([[5.0, 1.0]]))
    tensor([9.])
    """
    return _mean((gaps(student, mask) - gaps(teacher, mask)).square(), pairs(student, mask))


def gaps(scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None) -> Float[Tensor, "B K K"]:
    """S_i - S_j of each pair, in float32 at least; what stands at a masked place counts as 0."""
    scores = wide(scores) if mask is None else wide(scores).masked_fill(~mask, 0.0)
    return scores[:, :, None] - scores[:, None, :]


def pairs(scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None) -> Bool[Tensor, "B K K"]:
    """True at each ordered pair of two different real candidates."""
    real = real_candidates(scores, mask)
    return real[:, :, None] & real[:, None, :] & ~torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)


def _mean(costs: Float[Tensor, "B K K"], counted: Bool[Tensor, "B K K"]) -> Float[Tensor, "B"]:
    return torch.where(counted, costs, 0.0).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)
