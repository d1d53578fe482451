"""How much a row counts: a weighter gives one weight a row from the batch, both sides' signals and the rows' losses."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from retort.tensors import Batch, Signals, Target

Weighter = Callable[[Batch, Signals, Target, Mapping[str, Float[Tensor, "B"]]], Float[Tensor, "B"]]


def uniform(batch: Batch, signals: Signals, target: Target, losses: Mapping[str, Float[Tensor, "B"]]) -> Float[Tensor, "B"]:
    """Weight 1 for every row."""
    return torch.ones_like(target.weight)
