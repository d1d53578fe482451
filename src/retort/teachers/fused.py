"""Several teachers' scores as one Run, and the scores of each question brought to one entropy. Pure functions on Runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int32
from scipy.stats import rankdata

from retort.records import Run

Scores = Float64[np.ndarray, "K"]
RANK_OFFSET = 60  # of reciprocal rank fusion (Cormack et al., SIGIR 2009)
MARGIN = 0.01  # of the reachable range of an entropy, kept from both ends: at ln n all scores are equal, at 0 infinite
HALVINGS = 64  # of the bisection: the bracket is less than 100 nats wide in the log of a temperature, so this is exact
CHUNK = 1024  # questions of which scores are padded to one matrix


def fuse(
    runs: Sequence[Run],
    *,
    weights: Sequence[float] | None = None,
    how: Literal["z_score", "reciprocal_rank"] = "z_score",
    name: str,
) -> Run:
    """The weighted mean of several teachers' scores, over the pairs that every one of them has scored.

    z_score: each question's scores less their mean, over their standard deviation; a teacher that gives all passages one
    score says 0 of each. reciprocal_rank: 1 / (60 + rank), where equal scores share their mean rank (Cormack et al., SIGIR
    2009). Both look at the shared passages alone, so that no teacher's scale depends on what only it has seen; `unshared`
    counts what is left out. Every question of any run stays, in order of appearance. ValueError: no runs, weights that are
    not positive or not one a run.

    >>> a, b = Run.build("a", ["q"], [[1, 2, 3]], [[9.0, 8.0, 7.0]]), Run.build("b", ["q"], [[1, 2]], [[0.1, 0.3]])
    >>> [values.tolist() for values in fuse([a, b], weights=[1.0, 3.0], name="both").of("q")]
    [[2, 1], [0.5, -0.5]]
    """
    shares = _shares(runs, weights)
    passages, scores = [], []
    query_ids = list(dict.fromkeys(query_id for run in runs for query_id in run.query_ids))
    for query_id in query_ids:
        rows = _shared(runs, query_id)
        scaled = [SCALES[how](_scores_of(run, query_id, rows)) for run in runs]
        passages.append(rows)
        scores.append(sum((s * values for s, values in zip(shares, scaled, strict=True)), np.zeros(len(rows))))
    return Run.build(name, query_ids, passages, scores)


def unshared(runs: Sequence[Run]) -> tuple[int, ...]:
    """How many pairs of each run `fuse` leaves out, because another run has not scored them.

    >>> a, b = Run.build("a", ["q"], [[1, 2, 3]], [[9.0, 8.0, 7.0]]), Run.build("b", ["q"], [[1, 2]], [[0.1, 0.3]])
    >>> unshared([a, b])
    (1, 0)
    """
    shared = sum(len(_shared(runs, query_id)) for query_id in runs[0].query_ids) if runs else 0
    return tuple(len(run.passages) - shared for run in runs)


def z_scores(scores: Scores) -> Scores:
    """Scores of mean 0 and deviation 1; zeros where all are equal."""
    if not len(scores) or np.ptp(scores) == 0:  # not the deviation, which rounding keeps from 0
        return np.zeros(len(scores))
    return (scores - scores.mean()) / scores.std()


def reciprocal_ranks(scores: Scores) -> Scores:
    """1 / (60 + rank), the best score having rank 1; equal scores have the mean of their ranks."""
    return 1 / (RANK_OFFSET + rankdata(-scores))


SCALES: Mapping[str, Callable[[Scores], Scores]] = {"z_score": z_scores, "reciprocal_rank": reciprocal_ranks}


def calibrated(run: Run, entropy: float) -> Run:
    """The same lists with scores (s - best) / T, T of each question from `temperatures`: one entropy for all softmaxes.

    The order stays, and so do equal scores. Less the best score, so that float32 keeps the differences at a small T.
    """
    warmth = temperatures(run, entropy)
    scores = [(found.astype(np.float64) - found[:1]) / t for (_, _, found), t in zip(run, warmth, strict=True)]
    return Run.build(run.name, run.query_ids, [rows for _, rows, _ in run], scores)


def temperatures(run: Run, entropy: float) -> Float64[np.ndarray, "Q"]:
    """For each question the temperature at which the softmax of its scores has `entropy` nats, found by bisection.

    Of n passages, m of which share the best score, a temperature reaches what lies between ln m and ln n. A target outside
    of that, or closer to an end than 1 % of the range, becomes the value at 1 %: at ln n the order would be lost, at ln m
    the scores would be infinite. Where all scores are equal no temperature changes anything, and it is 1.

    >>> run = Run.build("r", ["q"], [[1, 2]], [[3.0, 0.0]])
    >>> p = 0.8  # of two passages: -0.8 ln 0.8 - 0.2 ln 0.2 = 0.5004 nats, and 3 / T = ln(0.8 / 0.2)
    >>> temperatures(run, 0.500402).round(3).tolist()
    [2.164]
    """
    if not entropy > 0:
        raise ValueError(f"an entropy of {entropy} nats is asked for, expected more than 0: 0 is a single passage")
    lengths = np.diff(run.starts)
    found = np.ones(len(run))
    for first in range(0, len(run), CHUNK):
        counts = lengths[first : first + CHUNK]
        real = np.arange(counts.max(initial=0)) < counts[:, None]
        scores = np.zeros(real.shape)
        scores[real] = run.scores[run.starts[first] : run.starts[first + len(counts)]]
        gaps = np.where(real, scores[:, :1] - scores, 0.0)  # a Run is sorted: the first is the best
        spread = gaps.max(1, initial=0.0) > 0
        if spread.any():  # lists of a whole block may be empty
            found[first : first + CHUNK][spread] = _temperatures(gaps[spread], real[spread], entropy)
    return found


def _temperatures(
    gaps: Float64[np.ndarray, "Q K"], real: Bool[np.ndarray, "Q K"], entropy: float
) -> Float64[np.ndarray, "Q"]:
    """Of questions with different scores, given as gaps below the best. The entropy rises with the temperature."""
    fewest, most = np.log((real & (gaps == 0)).sum(1)), np.log(real.sum(1))
    margin = MARGIN * (most - fewest)
    target = np.clip(entropy, fewest + margin, most - margin)
    smallest = np.where(real & (gaps > 0), gaps, np.inf).min(1)
    low, high = np.log(smallest / 1e3), np.log(gaps.max(1) * 1e6)  # entropies ln m and ln n, to the last digit
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        under = _entropies(gaps / np.exp(middle)[:, None], real) < target
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    return np.exp((low + high) / 2)


def _entropies(gaps: Float64[np.ndarray, "Q K"], real: Bool[np.ndarray, "Q K"]) -> Float64[np.ndarray, "Q"]:
    """Entropy of softmax(-gaps): log Z + mean gap."""
    weights = np.where(real, np.exp(-gaps), 0.0)
    total = weights.sum(1)
    return np.log(total) + (weights * gaps).sum(1) / total


def _shares(runs: Sequence[Run], weights: Sequence[float] | None) -> list[float]:
    """The weights over their sum; equal ones where none are given."""
    given = [1.0] * len(runs) if weights is None else list(weights)
    if not runs or len(given) != len(runs) or not all(0 < weight < np.inf for weight in given):
        raise ValueError(f"{len(runs)} runs with the weights {given}, expected a positive weight for each, and at least one")
    return [weight / sum(given) for weight in given]


def _shared(runs: Sequence[Run], query_id: str) -> Int32[np.ndarray, "K"]:
    """The passages that every run has scored for a question, in corpus order."""
    if not all(query_id in run for run in runs):
        return np.empty(0, np.int32)
    rows = np.sort(runs[0].of(query_id)[0])
    for run in runs[1:]:
        rows = np.intersect1d(rows, run.of(query_id)[0], assume_unique=True)
    return rows


def _scores_of(run: Run, query_id: str, rows: Int32[np.ndarray, "K"]) -> Scores:
    """The scores of some passages of a question, in their order."""
    if not len(rows):
        return np.empty(0)
    held, scores = run.of(query_id)
    order = np.argsort(held)
    return scores[order][np.searchsorted(held[order], rows)].astype(np.float64)
