"""Statistics of many ranked lists at once: flat lists padded to rows, rank correlations, answers above others, means.

Lists of different length stand in rows [B, K] whose padding is NaN; kernels leave NaN out and give one value a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy.signal import fftconvolve
from scipy.stats import binom, rankdata, t

CELLS = 1 << 20  # padded numbers in memory at once, for each array: 8 MB
LEVEL = 0.99  # of the intervals: several are read at once, and a false alarm costs a teacher


@dataclass(frozen=True)
class Estimate:
    """A mean over `queries` queries, with the ends of its 99% interval (Student's t; NaN for fewer than two queries)."""

    mean: float
    low: float
    high: float
    queries: int


def estimate(values: Float[np.ndarray, "Q"]) -> Estimate:
    """The mean of the values that are not NaN, with its interval; NaN where there is none.

    >>> found = estimate(np.array([0.0, 1.0, np.nan]))
    >>> found.mean, round(found.high, 3), found.queries  # 0.5 + 63.657 * 0.5
    (0.5, 32.328, 2)
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return Estimate(np.nan, np.nan, np.nan, 0)
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, np.nan, np.nan, 1)
    half = float(t.ppf((1 + LEVEL) / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    return Estimate(mean, mean - half, mean + half, len(known))


def blocks(starts: Int64[np.ndarray, "S"], *, pairs: bool = False) -> Iterator[tuple[slice, Bool[np.ndarray, "B K"]]]:
    """The flat rows of as many lists as fit CELLS numbers once padded (or paired), and their mask; lists in order.

    >>> [(rows, mask.tolist()) for rows, mask in blocks(np.array([0, 2, 3]))]
    [(slice(0, 3, None), [[True, True], [True, False]])]
    """
    lengths = np.diff(starts)
    longest = max(1, int(lengths.max(initial=0)))
    step = max(1, CELLS // longest ** (2 if pairs else 1))
    for first in range(0, len(lengths), step):
        last = min(first + step, len(lengths))
        here = lengths[first:last]
        yield slice(int(starts[first]), int(starts[last])), np.arange(max(1, int(here.max()))) < here[:, None]


def padded(values: np.ndarray, mask: Bool[np.ndarray, "B K"], fill: float = np.nan) -> Float64[np.ndarray, "B K"]:
    """Flat values as rows of lists, `fill` where the mask is False.

    >>> padded(np.array([1.0, 2.0, 3.0]), np.array([[True, True], [True, False]])).tolist()
    [[1.0, 2.0], [3.0, nan]]
    """
    rows = np.full(mask.shape, fill)
    rows[mask] = values
    return rows


def kendall_tau(a: Float[np.ndarray, "B K"], b: Float[np.ndarray, "B K"]) -> Float64[np.ndarray, "B"]:
    """Kendall's tau-b of each row (Kendall 1945), over the candidates that neither lacks; NaN where one is constant.

    >>> kendall_tau(np.array([[3.0, 2.0, 1.0]]), np.array([[3.0, 1.0, 2.0]])).round(3).tolist()  # 2 pairs for, 1 against
    [0.333]
    """
    i, j = np.triu_indices(a.shape[1], 1)
    x, y = np.sign(a[:, i] - a[:, j]), np.sign(b[:, i] - b[:, j])
    unknown = np.isnan(x) | np.isnan(y)
    x[unknown] = y[unknown] = 0.0
    return _ratio((x * y).sum(1), np.sqrt(abs(x).sum(1) * abs(y).sum(1)))


def spearman(a: Float[np.ndarray, "B K"], b: Float[np.ndarray, "B K"]) -> Float64[np.ndarray, "B"]:
    """Spearman's correlation of each row, over the candidates that neither lacks; NaN where one is constant.

    >>> spearman(np.array([[3.0, 2.0, 1.0, np.nan]]), np.array([[30.0, 10.0, 20.0, 5.0]])).tolist()
    [0.5]
    """
    known = ~np.isnan(a) & ~np.isnan(b)
    x, y = centred_ranks(a, known), centred_ranks(b, known)
    return _ratio((x * y).sum(1), np.sqrt((x * x).sum(1) * (y * y).sum(1)))


def share_above(scores: Float[np.ndarray, "B K"], holds: Bool[np.ndarray, "B K"]) -> Float64[np.ndarray, "B"]:
    """The share of (holding, other) pairs of each row whose holding one scores higher, ties half; NaN without a pair.

    The Mann-Whitney statistic as a share (the area under the ROC curve).

    >>> share_above(np.array([[3.0, 2.0, 1.0]]), np.array([[True, False, True]])).tolist()
    [0.5]
    """
    known = ~np.isnan(scores)
    ranks, held = _ranks(scores, known), (holds & known).sum(1).astype(np.float64)
    return _ratio((ranks * (holds & known)).sum(1) - held * (held + 1) / 2, held * (known.sum(1) - held))


def centred_ranks(values: Float[np.ndarray, "B K"], known: Bool[np.ndarray, "B K"]) -> Float64[np.ndarray, "B K"]:
    """The rank of each known value in its row (ties at their mean rank) less the mean rank; 0 where unknown.

    >>> centred_ranks(np.array([[7.0, 5.0, 9.0]]), np.array([[True, True, False]])).tolist()
    [[0.5, -0.5, 0.0]]
    """
    return np.where(known, _ranks(values, known) - (known.sum(1, keepdims=True) + 1) / 2, 0.0)


def poisson_binomial(shares: Float[np.ndarray, "Q"]) -> Float64[np.ndarray, "P"]:
    """The probability of 0 to Q successes in Q independent trials of the given chances; equal chances are one binomial.

    >>> poisson_binomial(np.array([0.5, 0.25])).round(3).tolist()
    [0.375, 0.5, 0.125]
    """
    mass = np.ones(1)
    for share, count in zip(*np.unique(shares, return_counts=True), strict=True):
        mass = fftconvolve(mass, binom.pmf(np.arange(count + 1), count, share))
    return np.clip(mass, 0.0, 1.0)


def _ranks(values: Float[np.ndarray, "B K"], known: Bool[np.ndarray, "B K"]) -> Float64[np.ndarray, "B K"]:
    """Ranks from 1, ascending; what is unknown ranks behind all, so that it moves no other."""
    order = np.where(known, values, np.inf)
    return np.asarray(rankdata(order, axis=1), np.float64)


def _ratio(above: Float[np.ndarray, "B"], below: Float[np.ndarray, "B"]) -> Float64[np.ndarray, "B"]:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
