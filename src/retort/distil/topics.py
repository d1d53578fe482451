"""Batches of questions on one topic, whose passages are hard in-batch negatives for each other.

TAS-Balanced (Hofstaetter et al., SIGIR 2021, arXiv 2104.06967) clusters questions by their own vectors. Here a question
stands where the passage stands that its labels put first, so that one which names no topic ("What happened in the end?")
has one too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import faiss
import numpy as np
from jaxtyping import Float32, Int32, Int64

Place = Callable[[Int32[np.ndarray, "n"]], Float32[np.ndarray, "n D"]]  # where passages stand, by corpus row
BATCHES = 6  # of one topic, on average: TAS-B has 2,000 topics for 400,000 questions and batches of 32
ITERATIONS = 20  # of k-means


def clustered(vectors: Float32[np.ndarray, "n D"], count: int, seed: int) -> Int64[np.ndarray, "n"]:
    """The topic of each vector, from 0, by k-means with the inner product of vectors of length 1; at most `count` topics.

    >>> found = clustered(np.array([[1, 0], [0, 3], [5, 0.1], [0.1, 1]], np.float32), 2, seed=0)
    >>> [bool(one) for one in found == found[0]]
    [True, False, True, False]
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    options = {"niter": ITERATIONS, "seed": seed, "spherical": True, "min_points_per_centroid": 1}
    means = faiss.Kmeans(vectors.shape[1], max(1, min(count, len(vectors))), **options)
    means.train(unit)
    return means.index.search(unit, 1)[1][:, 0]


@dataclass(frozen=True, eq=False)  # equal where it is the same one, so that epochs can be kept
class Topics:
    """The topic of each question that is trained on."""

    of_rows: Int64[np.ndarray, "n"]

    def rows(self, batch: int, step: int, seed: int) -> Int64[np.ndarray, "batch"]:
        """The questions of optimiser step `step` (from 0), a pure function of its arguments.

        Every epoch draws the topics' batches anew; what is left over of topics is put together, and less than a batch of it
        is left out. ValueError: fewer questions than a batch takes.

        >>> topics = Topics(np.array([0, 1, 0, 1, 0, 1]))
        >>> sorted(tuple(sorted(topics.rows(2, step, seed=0).tolist())) for step in range(3))[-1] in [(1, 3), (1, 5), (3, 5)]
        True
        """
        if len(self.of_rows) < batch:
            raise ValueError(
                f"distil.batches is 'topics': found {len(self.of_rows)} questions, expected a batch of {batch}; lower it"
            )
        epoch, place = divmod(step, len(self.of_rows) // batch)
        return _epoch(self, batch, epoch, seed)[place]


@lru_cache(maxsize=2)
def _epoch(topics: Topics, batch: int, epoch: int, seed: int) -> Int64[np.ndarray, "b batch"]:
    """The batches of an epoch."""
    rng = np.random.default_rng([seed, epoch])
    drawn = rng.permutation(len(topics.of_rows))
    drawn = drawn[np.argsort(topics.of_rows[drawn], kind="stable")]  # by topic, in a new order within each
    groups = np.split(drawn, np.flatnonzero(np.diff(topics.of_rows[drawn])) + 1)
    whole = [group[: len(group) // batch * batch] for group in groups]
    rest = np.concatenate([group[len(one) :] for group, one in zip(groups, whole, strict=True)])
    rest = np.roll(rest, rng.integers(len(rest) + 1))[: len(rest) // batch * batch]
    return rng.permutation(np.concatenate([*whole, rest]).reshape(-1, batch))
