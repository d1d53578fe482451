"""What a student would be taught by each query's labels: the softmax of the scores, how sharp it is, and its ties.

Only the values of the scores are read here, neither texts nor answers nor other Runs: those are for audit_order.py.
Entropies are in nats; spreads are those of logits, so in nats as well.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from retort.evaluation.ranks import blocks, padded
from retort.records import Run

SEARCHED = 2_000  # queries that the advised temperature is searched on: their median stands for all
NEGLIGIBLE = 1e-8  # beside the student's own probability, a smaller one is lost in float32: steps near 1 are 6e-8
UNDERFLOW = float(np.finfo(np.float32).tiny)  # 1.2e-38: a smaller probability is 0 on a GPU
END = 0.01  # so close to 0 or 1 a sigmoid is saturated: a logit beyond 4.6 in size
SUM = 1e-3  # rounded probabilities of one query add up to 1 within it
ONE_HOT = 1.05  # effective candidates: the best has some 99% of the weight
FLAT = 0.95  # effective share of all candidates: Gaussian scores of deviation 0.3, the best of 100 weighs 2%
FEW_CANDIDATES = 4  # with fewer, a list-wise loss is told hardly more than one pair
AIM_SHARE, MOST_AIMED = 0.25, 10.0  # of the candidates: below 2 is a hard label, above 10 is more than the first page

QUERY_VERDICTS = {
    "ok": "{candidates} candidates weigh as much as {effective:.2f} equal ones",
    "too short": "{candidates} candidates, expected at least 2: there is no order to teach; label deeper",
    "constant": "all {candidates} candidates have one score: there is no order to teach; label again or leave it out",
    "one-hot": "{candidates} candidates weigh as much as {effective:.2f}, expected at least "
    f"{ONE_HOT}: only the best is taught; raise the temperature",
    "flat": "{candidates} candidates weigh as much as {effective:.2f} equal ones, expected at most "
    f"{100 * FLAT:.0f}% of them: hardly an order is taught; lower the temperature",
    "few candidates": f"{{candidates}} candidates, expected at least {FEW_CANDIDATES}: little is taught; label deeper",
}  # in the order of gravity, "ok" aside


@dataclass(frozen=True)
class Shapes:
    """The shape of each query's scores, divided by `temperature`; arrays of one value for each of `query_ids`.

    `effective` is exp(entropy): as many equal candidates would be as uncertain (1 to the number of candidates).
    `spread` is best - worst, `deviation` the standard deviation. `tied` counts the candidates that share their score with
    another, `top_tied` those that have the best score. `negligible` and `underflowing` count the candidates whose
    probability is below NEGLIGIBLE and UNDERFLOW. All are 0 for a query without candidates.
    """

    query_ids: tuple[str, ...]
    temperature: float
    candidates: Int64[np.ndarray, "Q"]
    entropy: Float64[np.ndarray, "Q"]
    effective: Float64[np.ndarray, "Q"]
    spread: Float64[np.ndarray, "Q"]
    deviation: Float64[np.ndarray, "Q"]
    tied: Int64[np.ndarray, "Q"]
    top_tied: Int64[np.ndarray, "Q"]
    negligible: Int64[np.ndarray, "Q"]
    underflowing: Int64[np.ndarray, "Q"]

    @property
    def ordered(self) -> Bool[np.ndarray, "Q"]:
        """Which queries have an order to teach: two candidates of different scores."""
        return self.spread > 0

    def verdicts(self) -> list[str]:
        """The key of QUERY_VERDICTS for each query: the gravest that holds."""
        cases = {
            "too short": self.candidates < 2,
            "constant": ~self.ordered,
            "one-hot": self.effective < ONE_HOT,
            "flat": self.effective > FLAT * self.candidates,
            "few candidates": self.candidates < FEW_CANDIDATES,
        }
        return np.select(list(cases.values()), list(cases), default="ok").tolist()

    def reasons(self) -> list[str]:
        """The sentence of each query's verdict, with its numbers."""
        found = zip(self.verdicts(), self.candidates, self.effective, strict=True)
        return [QUERY_VERDICTS[verdict].format(candidates=n, effective=weight) for verdict, n, weight in found]


@dataclass(frozen=True)
class Scale:
    """The raw scores as numbers: their ends, whether all are in 0..1 (`bounded`), and each query's sum is 1.

    `piled`: the share of bounded scores within END of 0 or 1; 0 where the scores are not bounded.
    """

    lowest: float
    highest: float
    bounded: bool
    sums_to_one: bool
    piled: float


def shapes(labels: Run, *, temperature: float = 1.0) -> Shapes:
    """The shape of each query's scores at a temperature. ValueError: no query, a temperature that is not above 0.

    >>> found = shapes(Run.build("teacher", ["q"], [[0, 1, 2]], [[0.0, 0.0, -200.0]]))
    >>> found.effective.round(3).tolist(), found.tied.tolist(), found.underflowing.tolist(), found.verdicts()
    ([2.0], [2], [1], ['few candidates'])
    """
    if not len(labels):
        raise ValueError(f"run {labels.name!r} holds no query, expected at least 1: label some candidates first")
    _check_positive("temperature", temperature)
    parts = [
        _shape(padded(labels.scores[rows] / np.float64(temperature), mask, -np.inf), mask)
        for rows, mask in blocks(labels.starts)
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Shapes(labels.query_ids, temperature, **columns)


def scale(labels: Run) -> Scale:
    """The raw scores as numbers; all 0 where there is none.

    >>> scale(Run.build("teacher", ["q"], [[0, 1]], [[0.999, 0.25]]))
    Scale(lowest=0.25, highest=0.9990000128746033, bounded=True, sums_to_one=False, piled=0.5)
    """
    if not len(labels.scores):
        return Scale(0.0, 0.0, False, False, 0.0)
    scores, lengths = labels.scores.astype(np.float64), np.diff(labels.starts)
    bounded = bool(scores.min() >= 0 and scores.max() <= 1)
    sums = np.add.reduceat(scores, labels.starts[:-1][lengths > 0])[lengths[lengths > 0] > 1]
    return Scale(
        lowest=float(scores.min()),
        highest=float(scores.max()),
        bounded=bounded,
        sums_to_one=bool(bounded and len(sums) and abs(sums - 1).max() < SUM),
        piled=float(((scores < END) | (scores > 1 - END)).mean()) if bounded else 0.0,
    )


def usual_aim(found: Shapes) -> float:
    """The effective number that a temperature aims at: a quarter of the median number of candidates, within 2 to 10.

    Of 2 candidates 1.5, half-way between a hard label and none.

    >>> usual_aim(shapes(Run.build("teacher", ["q"], [range(16)], [np.arange(16.0)])))
    4.0
    """
    usual = float(np.median(found.candidates))
    return min(max(2.0, min(AIM_SHARE * usual, MOST_AIMED)), (1 + max(1.0, usual)) / 2)


def advised_temperature(labels: Run, aim: float) -> float | None:
    """The smallest temperature at which the median effective number of candidates is `aim`, to three digits.

    None where there is none: the median query has no more candidates than that, or as many that tie for its best. Queries
    without an order are left out; of more than SEARCHED, every n-th is taken. ValueError: an aim that is not above 0.

    >>> advised_temperature(Run.build("teacher", ["q"], [[0, 1]], [[8.0, 0.0]]), 1.5)  # shares 0.86 and 0.14
    4.41
    """
    _check_positive("aim", aim)
    lists = [scores.astype(np.float64) for _, _, scores in labels if len(scores) > 1 and scores[0] > scores[-1]]
    lists = lists[:: math.ceil(len(lists) / SEARCHED) or 1]
    if not lists:
        return None
    lengths = np.array([len(scores) for scores in lists])
    mask = np.arange(lengths.max()) < lengths[:, None]
    gaps = padded(np.concatenate([scores - scores[0] for scores in lists]), mask, -np.inf)

    def median(log_temperature: float) -> float:
        return float(np.median(np.exp(_softmax(gaps / math.exp(log_temperature), mask)[0])))

    widest = math.log(max(scores[0] - scores[-1] for scores in lists))
    low, high = widest - 40, widest + 15  # from a hard label to weights that are equal within 3e-7
    if not median(low) < aim <= median(high):
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if median(middle) >= aim else (middle, high)
    return float(f"{math.exp(high):.3g}")


def _softmax(
    scores: Float[np.ndarray, "B K"], mask: Bool[np.ndarray, "B K"]
) -> tuple[Float64[np.ndarray, "B"], Float64[np.ndarray, "B K"]]:
    """The entropy and the probabilities of each row; 0 without candidates. A Run stands best first; padding is -inf."""
    gaps = np.where(mask, scores - np.where(mask[:, :1], scores[:, :1], 0.0), -np.inf)
    weights = np.exp(gaps)
    total = np.maximum(weights.sum(1, keepdims=True), 1.0)
    shares = weights / total
    mean = np.where(shares > 0, shares * np.where(mask, gaps, 0.0), 0.0).sum(1)
    return np.log(total[:, 0]) - mean, shares


def _shape(scores: Float[np.ndarray, "B K"], mask: Bool[np.ndarray, "B K"]) -> dict[str, np.ndarray]:
    entropy, shares = _softmax(scores, mask)
    lengths, known = mask.sum(1), np.where(mask, scores, 0.0)
    count = np.maximum(lengths, 1)
    mean = known.sum(1) / count
    equal = (scores[:, 1:] == scores[:, :-1]) & mask[:, 1:]  # to the candidate before
    return {
        "candidates": lengths.astype(np.int64),
        "entropy": entropy,
        "effective": np.where(lengths > 0, np.exp(entropy), 0.0),
        "spread": known[:, 0] - known[np.arange(len(known)), count - 1],
        "deviation": np.sqrt((np.where(mask, known - mean[:, None], 0.0) ** 2).sum(1) / count),
        "tied": (np.pad(equal, ((0, 0), (1, 0))) | np.pad(equal, ((0, 0), (0, 1)))).sum(1),
        "top_tied": (mask & (scores == scores[:, :1])).sum(1),
        "negligible": (mask & (shares < NEGLIGIBLE)).sum(1),
        "underflowing": (mask & (shares < UNDERFLOW)).sum(1),
    }


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"found {name} {value}, expected a finite number above 0")
