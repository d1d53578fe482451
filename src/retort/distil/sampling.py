"""Which K of a query's labelled candidates a step trains on. Pure functions of the labelled list and a generator.

Every sampler returns positions in the list, ascending, so that the candidates of a batch stay best first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from retort.records import Query


@dataclass(frozen=True)
class Labelled:
    """A training query with its labelled candidates, best first: corpus rows, raw teacher scores, known positives."""

    query: Query
    passages: Int32[np.ndarray, "n"]
    scores: Float32[np.ndarray, "n"]
    positive: Bool[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.passages)


Sampler = Callable[[Labelled, int, np.random.Generator], Int64[np.ndarray, "k"]]


def top(labelled: Labelled, count: int, rng: np.random.Generator) -> Int64[np.ndarray, "k"]:
    """The `count` candidates that the teacher likes best (FiD-KD trains on all 100 of them)."""
    return np.arange(min(count, len(labelled)))


def random(labelled: Labelled, count: int, rng: np.random.Generator) -> Int64[np.ndarray, "k"]:
    """`count` candidates, each as likely as any other."""
    return np.sort(rng.permutation(len(labelled))[:count])


def spread(labelled: Labelled, count: int, rng: np.random.Generator) -> Int64[np.ndarray, "k"]:
    """The teacher's best candidate and `count` - 1 of the others, at random: something to pull up in every list."""
    return np.concatenate([[0], np.sort(1 + rng.permutation(len(labelled) - 1)[: count - 1])]).astype(np.int64)


SAMPLERS: dict[str, Sampler] = {"top": top, "random": random, "spread": spread}
