"""Which rows are trained on: a view turns the batch of a step into the one that is trained on (the same, or with more rows).

A view is a function of the batch, the model states and a generator. Derived rows name their `view` and `parent`.
"""

from collections.abc import Callable

import numpy as np

from retort.distil.roster import Roster
from retort.tensors import Batch

View = Callable[[Batch, Roster, np.random.Generator], Batch]


def identity(batch: Batch, roster: Roster, rng: np.random.Generator) -> Batch:
    """The batch as it is."""
    return batch
