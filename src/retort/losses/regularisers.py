"""What keeps sparse vectors sparse: FLOPS and L1 penalties of the vectors of one side, as pure functions.

Axes: n texts of a side, V dimensions of the vocabulary. One value a text, never reduced: the mean is the published penalty.
"""

from jaxtyping import Float
from torch import Tensor

from retort.losses.listwise import wide


def flops(vectors: Float[Tensor, "n V"], *, threshold: int | None = None) -> Float[Tensor, "n"]:
    """Rows whose mean is sum_j (mean over texts of |w_j|)^2: what scoring with an inverted index costs (arXiv 2004.05665).

    A row's value is its share of that: sum_j |w_j| times the batch's mean of dimension j. `threshold`: texts with at most so
    many non-zero dimensions count as 0, since they are sparse enough (L0 mask, arXiv 2504.14839). The value depends on the
    batch: twice the texts of the same kind leave it as it is.

    >>> import torch
    >>> flops(torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])).mean()  # dimensions' means 2, 0, 1
    tensor(5.)
    """
    weights = wide(vectors).abs()
    if threshold is not None:
        weights = weights * ((weights > 0).sum(-1, keepdim=True) > threshold)
    return weights @ weights.mean(0)


def l1(vectors: Float[Tensor, "n V"]) -> Float[Tensor, "n"]:
    """The sum of the absolute weights of each text.

    >>> import torch
    >>> l1(torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])).mean()
    tensor(3.)
    """
    return wide(vectors).abs().sum(-1)
