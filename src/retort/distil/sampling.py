"""Which K of a query's labelled candidates a step trains on. Pure functions of the labelled list and a generator.

Every sampler returns positions in the list, ascending, so that the candidates of a batch stay best first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from retort.records import Query


@dataclass(frozen=True)
class Labelled:
    """A training query with its labelled candidates, best first: corpus rows, raw teacher scores, known positives.

    `ranks`: where they stand in the student's own ranking, from 1, where that is known. `others`: the query's labelled
    candidates that are not among them any more.
    """

    query: Query
    passages: Int32[np.ndarray, "n"]
    scores: Float32[np.ndarray, "n"]
    positive: Bool[np.ndarray, "n"]
    ranks: Int32[np.ndarray, "n"] | None = None
    others: Int32[np.ndarray, "_"] = field(default_factory=lambda: np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.passages)

    def take(self, places: Int64[np.ndarray, "k"]) -> "Labelled":
        """The same query with some of its candidates."""
        ranks = None if self.ranks is None else self.ranks[places]
        others = np.append(self.others, np.delete(self.passages, places))
        return Labelled(self.query, self.passages[places], self.scores[places], self.positive[places], ranks, others)


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


def positive(labelled: Labelled, count: int, rng: np.random.Generator) -> Int64[np.ndarray, "k"]:
    """One of the positives, and `count` - 1 negatives, at random (CKL: 5 negatives); without a positive, negatives only."""
    positives, negatives = np.flatnonzero(labelled.positive), np.flatnonzero(~labelled.positive)
    one = rng.permutation(positives)[:1]
    return np.sort(np.concatenate([one, rng.permutation(negatives)[: count - len(one)]]))


def stratified(labelled: Labelled, count: int, rng: np.random.Generator) -> Int64[np.ndarray, "k"]:
    """One candidate out of each of `count` equal shares of the teacher's probability mass, drawn by that mass.

    A candidate that holds several shares is taken once; the places that are left go to others at random.
    """
    mass = np.exp(labelled.scores - labelled.scores.max(), dtype=np.float64).cumsum()
    shares = (np.arange(count) + rng.random(count)) / count
    drawn = np.unique(np.searchsorted(mass / mass[-1], shares, side="right").clip(max=len(labelled) - 1))
    others = np.setdiff1d(np.arange(len(labelled)), drawn)
    return np.sort(np.concatenate([drawn, rng.permutation(others)[: max(0, count - len(drawn))]]))[:count]


def with_both(labelled: Labelled, chosen: Int64[np.ndarray, "k"], rng: np.random.Generator) -> Int64[np.ndarray, "k"]:
    """The chosen candidates, the last exchanged for one of the kind that is missing where positives are known.

    A list without a positive teaches an objective that reads positives nothing, or, in CKL, that all its candidates are
    negatives; one without a negative has nothing to set the positives apart from.
    """
    found = labelled.positive[chosen]
    lacking = np.flatnonzero(labelled.positive != found[0])
    if not labelled.positive.any() or not len(lacking) or (found != found[0]).any():
        return chosen
    return np.sort(np.append(chosen[:-1], rng.permutation(lacking)[:1]))


SAMPLERS: dict[str, Sampler] = {
    "top": top,
    "random": random,
    "spread": spread,
    "positive": positive,
    "stratified": stratified,
}
