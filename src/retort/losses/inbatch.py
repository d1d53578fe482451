"""Losses over all passages of a batch, as pure functions: what a row's own candidates are worth among those of the others.

Axes: B queries, K candidates of each, M distinct passages of the batch. One value a row, never reduced over
rows. Masks are True where a candidate is real. Not here: losses over a row's own candidates (listwise.py, pairwise.py).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retort.losses.listwise import hidden, wide


def candidate_mass(
    inbatch: Float[Tensor, "B M"],
    candidates: Int[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    left_out: Bool[Tensor, "B M"] | None = None,
) -> Float[Tensor, "B"]:
    """-log of the share of softmax(inbatch) that a row's own candidates have together; `candidates` are columns of it.

    Added to `kl` over the own candidates it is the KL over the whole batch from a teacher that gives other rows' passages
    nothing (chain rule of the KL): a reader judges the candidates of one question, and is silent about the rest of the
    corpus. With one candidate, the positive, it is InfoNCE with in-batch negatives (arXiv 1807.03748, eq. 4). At least 0; 0
    in a row whose candidates are the whole batch, or that has none. A passage of two rows counts as each one's own. What is
    `left_out` of a row is as if it were not in the batch.

    >>> candidate_mass(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([[0, 2]]))
    tensor([0.6931])
    """
    scores = _without(inbatch, left_out)
    real = torch.ones_like(candidates, dtype=torch.bool) if mask is None else mask
    own = _columns(scores, candidates, real)
    return torch.where(real.any(-1), scores.logsumexp(-1) - hidden(scores, own).logsumexp(-1), 0.0)


def info_nce(
    inbatch: Float[Tensor, "B M"],
    candidates: Int[Tensor, "B K"],
    positive: Bool[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    left_out: Bool[Tensor, "B M"] | None = None,
) -> Float[Tensor, "B"]:
    """Cross-entropy of each positive against all passages of the batch that are not positives of its row, mean over them.

    InfoNCE with in-batch negatives (van den Oord et al., arXiv 1807.03748, eq. 4); the row's own negatives are among them.
    0 in a row without a positive, and in one whose positives are the whole batch. What is `left_out` of a row, none of its
    candidates, is as if it were not in the batch.

    >>> info_nce(torch.zeros(1, 4), torch.tensor([[0, 2]]), torch.tensor([[True, True]]))  # each against two others
    tensor([1.0986])
    """
    scores = _without(inbatch, left_out)
    chosen = positive if mask is None else positive & mask
    negatives = hidden(scores, ~_columns(scores, candidates, chosen)).logsumexp(-1, keepdim=True)
    own = scores.gather(1, candidates)
    rows = torch.where(chosen, torch.logaddexp(own, negatives) - own, 0.0)
    return rows.sum(-1) / chosen.sum(-1).clamp(min=1)


def _without(inbatch: Float[Tensor, "B M"], left_out: Bool[Tensor, "B M"] | None) -> Float[Tensor, "B M"]:
    """The scores in float32 at least, the lowest finite number where a row leaves a column out."""
    return wide(inbatch) if left_out is None else hidden(inbatch, ~left_out)


def _columns(
    scores: Float[Tensor, "B M"], candidates: Int[Tensor, "B K"], chosen: Bool[Tensor, "B K"]
) -> Bool[Tensor, "B M"]:
    """True at the columns of each row's chosen candidates."""
    columns = torch.zeros_like(scores, dtype=torch.bool)
    columns[chosen.nonzero()[:, 0], candidates[chosen]] = True
    return columns
