"""Losses that stand for a ranking measure: LambdaLoss, LambdaRank, ApproxNDCG, CL-DRD, as pure functions.

Axes: B queries, K candidates; one value a row, never reduced over rows. Masks are True where a candidate is real. `gains`
say what finding a candidate is worth, at least 0: 2^grade - 1 where there are grades, or a teacher's probabilities. Ranks
are the student's own at the moment, without a gradient; ties stand in the order of the list.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import softplus

from retort.losses.listwise import hidden, real_candidates, wide
from retort.losses.pairwise import gaps, pairs

Scheme = Literal["ndcg_loss2pp", "lambda_rank"]


def lambda_loss(
    student: Float[Tensor, "B K"],
    gains: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    scheme: Scheme = "ndcg_loss2pp",
    mu: float = 10.0,
) -> Float[Tensor, "B"]:
    """Sum over pairs with gain_i > gain_j of w_ij log2(1 + e^-(S_i - S_j)) (LambdaLoss, Wang et al., CIKM 2018).

    With G the gains divided by the ideal DCG, D_r = log2(1 + r) and ranks r of the student: lambda_rank weighs a pair by
    |G_i - G_j| |1/D_ri - 1/D_rj|, what swapping it would change of nDCG; ndcg_loss2pp by that plus `mu` times
    |G_i - G_j| |1/D_d - 1/D_(d+1)| with d = |r_i - r_j|. 0 in a row in which all gains are equal.

    >>> lambda_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), scheme="lambda_rank")  # 1 - 1/log2(3)
    tensor([0.3691])
    """
    ranks, share = _ranks(student, mask), _share(gains, mask)
    weight = gaps(_discount(ranks).to(share.dtype), None).abs()
    if scheme == "ndcg_loss2pp":
        apart = (ranks[:, :, None] - ranks[:, None, :]).abs()
        weight = weight + mu * (_discount(apart.clamp(min=1)) - _discount(apart + 1)).to(share.dtype)
    gap = gaps(share, mask)
    costs = gap * weight * softplus(-gaps(student, mask)) / math.log(2.0)
    return torch.where(pairs(student, mask) & (gap > 0), costs, 0.0).sum((1, 2))


def approx_ndcg(
    student: Float[Tensor, "B K"],
    gains: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "B"]:
    """1 - nDCG of smooth ranks: r_i = 1 + sum over j != i of sigmoid((S_j - S_i) / temperature) (Qin et al. 2010).

    In 0..1; nears 1 - nDCG as the temperature nears 0. 0 in a row without a gain.

    >>> approx_ndcg(torch.tensor([[9.0, 0.0]]), torch.tensor([[1.0, 0.0]]), temperature=0.1)
    tensor([0.])
    """
    above = torch.where(pairs(student, mask), (-gaps(student, mask) / temperature).sigmoid(), 0.0)
    ranks, share = 1.0 + above.sum(-1), _share(gains, mask)
    return torch.where(share.sum(-1) > 0, 1.0 - (share / (1.0 + ranks).log2()).sum(-1), 0.0)


def cl_drd(
    student: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """Sum over pairs with y_i > y_j of |1/r_i - 1/r_j| ln(1 + e^-(S_i - S_j)), r the student's ranks (arXiv 2204.13679).

    `labels` say how good a candidate is; `drd_labels` makes them of a teacher's order. 0 in a row of equal labels.

    >>> cl_drd(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]))  # half of ln 2
    tensor([0.3466])
    """
    weight = gaps(1.0 / _ranks(student, mask).to(wide(student).dtype), None).abs()
    ordered = pairs(student, mask) & (gaps(labels, mask) > 0)
    return torch.where(ordered, weight * softplus(-gaps(student, mask)), 0.0).sum((1, 2))


def drd_labels(
    teacher: Float[Tensor, "B K"],
    positive: Bool[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    head: int,
    tail: int,
) -> Float[Tensor, "B K"]:
    """CL-DRD's labels: 1/rank of positives and of the teacher's first `head`, 0 up to rank `tail`, -1 beyond.

    Ranks are the teacher's, from 1, among the row's candidates; its ties stand in the order of the list.

    >>> drd_labels(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.zeros(1, 4, dtype=torch.bool), head=2, tail=3).tolist()
    [[1.0, 0.5, 0.0, -1.0]]
    """
    ranks = _ranks(teacher, mask)
    rest = torch.where(ranks > tail, -1.0, 0.0).to(wide(teacher).dtype)
    return torch.where(positive | (ranks <= head), 1.0 / ranks, rest)


def _ranks(student: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None) -> Int64[Tensor, "B K"]:
    """Each candidate's rank by the scores, from 1; those not real come last."""
    scores = hidden(student.detach(), real_candidates(student, mask))
    return 1 + scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def _discount(ranks: Int64[Tensor, "..."]) -> Float64[Tensor, "..."]:
    """1 / log2(1 + rank)."""
    return 1.0 / (1.0 + ranks.double()).log2()


def _share(gains: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None) -> Float[Tensor, "B K"]:
    """The gains, 0 where not real, divided by the DCG of their ideal order; 0 in a row without a gain."""
    gains = wide(gains) if mask is None else wide(gains).masked_fill(~mask, 0.0)
    places = torch.arange(1, gains.shape[1] + 1, device=gains.device)
    ideal = (gains.sort(dim=-1, descending=True).values * _discount(places).to(gains.dtype)).sum(-1, keepdim=True)
    return torch.where(ideal > 0, gains / ideal.clamp(min=torch.finfo(gains.dtype).tiny), 0.0)
