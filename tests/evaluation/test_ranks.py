from itertools import product

import numpy as np
import pytest
from scipy import stats

from retort.evaluation import ranks
from retort.evaluation.ranks import blocks, estimate, kendall_tau, padded, poisson_binomial, share_above, spearman


def lists(seed, count=40, depth=9):
    """Two scorings with ties and gaps (NaN) at different places, and flags."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, (2, count, depth)).astype(float)
    a[rng.random(a.shape) < 0.2] = np.nan
    b[rng.random(b.shape) < 0.1] = np.nan
    return a, b, rng.random(a.shape) < 0.3


def pairwise(function, a, b):
    known = [~np.isnan(x) & ~np.isnan(y) for x, y in zip(a, b, strict=True)]
    return [function(x[k], y[k]).statistic for x, y, k in zip(a, b, known, strict=True)]


@pytest.mark.parametrize(("ours", "reference"), [(kendall_tau, stats.kendalltau), (spearman, stats.spearmanr)])
def test_correlations_of_rows_with_ties_and_gaps_equal_scipys(ours, reference):
    a, b, _ = lists(0)
    np.testing.assert_allclose(ours(a, b), pairwise(reference, a, b), atol=1e-12)


@pytest.mark.parametrize("correlation", [kendall_tau, spearman])
def test_a_row_that_is_constant_or_has_one_candidate_has_no_correlation(correlation):
    a, b = np.array([[1.0, 1.0], [2.0, np.nan]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    assert np.isnan(correlation(a, b)).all()


def test_the_share_above_equals_the_count_over_all_pairs():
    a, _, holds = lists(1)
    for scores, held, found in zip(a, holds, share_above(a, holds), strict=True):
        pairs = [(x > y) + (x == y) / 2 for x, y in product(scores[held], scores[~held]) if not np.isnan(x + y)]
        assert found == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found)


def test_the_poisson_binomial_equals_the_sum_over_all_outcomes():
    shares = np.array([0.1, 0.5, 0.5, 0.9])
    mass = np.zeros(5)
    for hits in product([0, 1], repeat=4):
        mass[sum(hits)] += np.prod(np.where(hits, shares, 1 - shares))
    np.testing.assert_allclose(poisson_binomial(shares), mass, atol=1e-12)


def test_an_estimate_has_students_interval_and_leaves_unknown_values_out():
    values = np.array([0.1, 0.4, np.nan, 0.7, 0.2])
    known = values[~np.isnan(values)]
    ends = stats.t.interval(0.99, 3, known.mean(), stats.sem(known))
    found = estimate(values)
    assert (found.mean, found.queries) == (pytest.approx(0.35), 4)
    assert (found.low, found.high) == pytest.approx(ends)


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert np.isnan([estimate(np.array([0.5])).low, estimate(np.array([np.nan])).mean]).all()
    assert estimate(np.array([0.5])).mean == 0.5


def test_blocks_cover_all_rows_once_whatever_their_limit(monkeypatch):
    starts = np.array([0, 3, 3, 4, 9])
    for cells in (1, 7, 1000):
        monkeypatch.setattr(ranks, "CELLS", cells)
        found = [padded(np.arange(9.0)[rows], mask) for rows, mask in blocks(starts)]
        assert sum(len(part) for part in found) == 4
        assert np.concatenate([part[~np.isnan(part)] for part in found]).tolist() == list(range(9))
