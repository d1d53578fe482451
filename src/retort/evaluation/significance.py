"""How sure a difference is: bootstrap intervals over queries, a paired randomisation test, and Holm's correction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Float64

from retort.evaluation.metrics import PerQuery

EXACT_QUERIES = 12  # 4096 sign patterns: fewer than the samples that would approximate them
BLOCK_DRAWS = 1 << 22  # random draws in memory at once: 32 MB of int64
ROUNDING = 1e-12  # relative: sums of the same differences in another order count as equal


@dataclass(frozen=True)
class Comparison:
    """One measure of a system against one baseline, over the same queries; the interval is that of the difference.

    A query is won where its value is the higher one, so for `inversions` and `idx_topk`, where low is good, read the
    wins as losses. `adjusted_p` is `p` after Holm over all comparisons that `compare` made together.
    """

    system: str
    baseline: str
    measure: str
    mean: float
    baseline_mean: float
    difference: float
    low: float
    high: float
    p: float
    adjusted_p: float
    wins: int
    ties: int
    losses: int


def compare(
    pairs: Sequence[tuple[PerQuery, PerQuery]],
    *,
    measures: Sequence[str],
    rng: np.random.Generator,
    level: float = 0.95,
    samples: int = 10_000,
) -> list[Comparison]:
    """The first of each pair against the second in each measure, in that order, with Holm's correction over all of them.

    The values are paired by query id, in whatever order they stand. ValueError names a query or a measure that one side
    lacks: leaving queries out would compare two different questions.

    >>> new = PerQuery("new", ("q1", "q2"), {"R@1": np.array([1.0, 1.0])})
    >>> old = PerQuery("old", ("q2", "q1"), {"R@1": np.array([1.0, 0.0])})
    >>> found = compare([(new, old)], measures=["R@1"], rng=np.random.default_rng(0))[0]
    >>> found.difference, found.p, (found.wins, found.ties, found.losses)
    (0.5, 1.0, (1, 1, 0))
    """
    aligned = [(system, baseline.select(_same_queries(system, baseline))) for system, baseline in pairs]
    cases = [
        (system.name, baseline.name, measure, _values(system, measure), _values(baseline, measure))
        for system, baseline in aligned
        for measure in measures
    ]
    p_values = np.array([paired_randomisation(a, b, samples=samples, rng=rng) for *_, a, b in cases])
    found = []
    for (system, baseline, measure, a, b), p, adjusted in zip(cases, p_values, holm(p_values), strict=True):
        low, high = bootstrap_interval(a - b, level=level, samples=samples, rng=rng)
        found.append(
            Comparison(
                system=system,
                baseline=baseline,
                measure=measure,
                mean=float(a.mean()),
                baseline_mean=float(b.mean()),
                difference=float((a - b).mean()),
                low=low,
                high=high,
                p=float(p),
                adjusted_p=float(adjusted),
                wins=int((a > b).sum()),
                ties=int((a == b).sum()),
                losses=int((a < b).sum()),
            )
        )
    return found


def bootstrap_interval(
    values: Float[np.ndarray, "Q"], *, rng: np.random.Generator, level: float = 0.95, samples: int = 10_000
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean, resampling queries (Efron 1979); of no width for one query.

    ValueError: no values, values that are not finite, a level outside 0..1, samples below 1.

    >>> bootstrap_interval(np.array([0.25, 0.25, 0.25]), rng=np.random.default_rng(0))
    (0.25, 0.25)
    """
    if not 0 < level < 1:
        raise ValueError(f"found the level {level}, expected a share between 0 and 1, such as 0.95")
    _check_values(values, samples)
    blocks = _blocks(samples, len(values))
    means = np.concatenate([values[rng.integers(len(values), size=(rows, len(values)))].mean(axis=1) for rows in blocks])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_randomisation(
    a: Float[np.ndarray, "A"], b: Float[np.ndarray, "B"], *, rng: np.random.Generator, samples: int = 10_000
) -> float:
    """The two-sided p-value of a mean difference between paired values, by flipping the signs of the differences.

    Exact over all sign patterns where at most 12 queries differ, else (count + 1) / (samples + 1) over random ones, which
    is never 0 (Smucker, Allan and Carterette 2007; Phipson and Smyth 2010). Queries without a difference change nothing;
    p is 1 where no query differs. ValueError: no values, values that are not finite, sides of different length.

    >>> paired_randomisation(np.ones(4), np.zeros(4), rng=np.random.default_rng(0))  # 2 of the 16 patterns
    0.125
    """
    if len(a) != len(b):
        raise ValueError(f"found {len(a)} and {len(b)} values, expected pairs: give both for the same queries")
    differences = np.asarray(a, np.float64) - b
    _check_values(differences, samples)
    moved = differences[differences != 0]
    reached = abs(moved.sum()) - ROUNDING * abs(moved).sum()
    if len(moved) <= EXACT_QUERIES:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(moved))))
        return float((abs(signs @ moved) >= reached).mean())
    count = 0
    for rows in _blocks(samples, len(moved)):
        flipped = rng.integers(2, size=(rows, len(moved)), dtype=np.int8) @ moved
        count += int((abs(moved.sum() - 2 * flipped) >= reached).sum())
    return (count + 1) / (samples + 1)


def holm(p_values: Float[np.ndarray, "M"]) -> Float64[np.ndarray, "M"]:
    """The p-values adjusted for being several, in the same order (Holm 1979); one below 0.05 is significant at 5%.

    >>> holm(np.array([0.03, 0.01, 0.04])).tolist()
    [0.06, 0.03, 0.06]
    """
    if not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError(f"found the p-values {p_values.tolist()}, expected each to be between 0 and 1")
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order), np.float64)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _same_queries(system: PerQuery, baseline: PerQuery) -> tuple[str, ...]:
    """The queries of both, in the order of the system."""
    for one, other in ((system, baseline), (baseline, system)):
        missing = set(one.query_ids).difference(other.query_ids)
        if missing:
            raise ValueError(
                f"query {min(missing)!r} is in {one.name!r} but not in {other.name!r} ({len(missing)} are missing there):"
                " a paired test needs the same queries, so evaluate both on the same split"
            )
    return system.query_ids


def _values(result: PerQuery, measure: str) -> Float64[np.ndarray, "Q"]:
    if measure not in result.measures:
        raise ValueError(f"{result.name!r} has no {measure}, only {', '.join(result.measures)}: evaluate it with {measure}")
    return result.measures[measure]


def _check_values(values: Float[np.ndarray, "Q"], samples: int) -> None:
    if not len(values):
        raise ValueError("found 0 values, expected one for each of at least 1 query")
    if not np.isfinite(values).all():
        raise ValueError(f"value {int((~np.isfinite(values)).argmax())} is not a finite number: leave such queries out")
    if samples < 1:
        raise ValueError(f"found {samples} samples, expected at least 1 (10000 give p-values to about 0.002)")


def _blocks(samples: int, width: int) -> Iterator[int]:
    """`samples` in parts whose draws fit BLOCK_DRAWS, so that memory does not grow with the number of queries."""
    rows = max(1, BLOCK_DRAWS // width)
    yield from (min(rows, samples - start) for start in range(0, samples, rows))
