import numpy as np
import pytest
from scipy.stats import kstest, permutation_test

from retort.evaluation import significance
from retort.evaluation.metrics import PerQuery
from retort.evaluation.significance import bootstrap_interval, compare, holm, paired_randomisation


def generator(seed=0):
    return np.random.default_rng(seed)


# ---- intervals


def test_a_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng, covered = generator(7), 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.exponential(size=60), rng=rng, level=0.9, samples=400)
        covered += low <= 1.0 <= high
    assert 0.84 <= covered / 300 <= 0.94  # skewed values: a percentile interval covers a little less than it says


def test_the_interval_has_the_width_of_the_normal_one_for_many_values():
    values = generator(1).normal(2.0, 3.0, size=4000)
    low, high = bootstrap_interval(values, rng=generator(), samples=4000)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.01)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(4000), rel=0.05)


def test_a_higher_level_gives_a_wider_interval():
    values = generator(1).random(50)
    narrow, wide = (bootstrap_interval(values, rng=generator(), level=level) for level in (0.8, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_interval_of_one_value_is_that_value():
    assert bootstrap_interval(np.array([0.3]), rng=generator()) == (0.3, 0.3)


def test_small_blocks_draw_as_many_samples(monkeypatch):
    monkeypatch.setattr(significance, "BLOCK_DRAWS", 70)
    assert [sum(significance._blocks(1000, width)) for width in (1, 30, 69, 70, 71)] == [1000] * 5
    values = generator(2).random(30)
    assert bootstrap_interval(values, rng=generator()) == pytest.approx((values.mean() - 0.1, values.mean() + 0.1), abs=0.03)


# ---- the paired test


def test_the_exact_p_value_is_worked_out_by_hand():
    # differences 1, 2, 3 with sum 6: only the patterns +++ and --- reach it, 2 of 8
    assert paired_randomisation(np.array([1.0, 2.0, 3.0]), np.zeros(3), rng=generator()) == 0.25
    # differences 1, 2, -3 sum to 0, and every pattern reaches that
    assert paired_randomisation(np.array([1.0, 2.0, -3.0]), np.zeros(3), rng=generator()) == 1.0


@pytest.mark.parametrize("count", [5, 11])
def test_the_exact_p_value_equals_scipys(count):
    rng = generator(count)
    a, b = rng.random((2, count)) + np.array([[0.3], [0.0]])
    reference = permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert paired_randomisation(a, b, rng=rng) == pytest.approx(reference.pvalue)


def test_the_sampled_p_value_approaches_the_exact_one(monkeypatch):
    a, b = generator(4).random((2, 12)) + np.array([[0.1], [0.0]])
    exact = paired_randomisation(a, b, rng=generator())
    monkeypatch.setattr(significance, "EXACT_QUERIES", 0)
    assert paired_randomisation(a, b, rng=generator(), samples=20_000) == pytest.approx(exact, abs=0.015)


def test_queries_without_a_difference_change_nothing():
    a, b = np.array([1.0, 2.0, 3.0]), np.zeros(3)
    padded = np.full(500, 0.7)
    assert paired_randomisation(np.append(a, padded), np.append(b, padded), rng=generator()) == 0.25


def test_no_difference_at_all_gives_one():
    assert paired_randomisation(np.ones(50), np.ones(50), rng=generator()) == 1.0


def test_rounding_does_not_turn_equal_sums_into_unequal_ones():
    # 0.1 + 0.2 - 0.1 is not exactly the 0.2 of the other patterns that reach it: 6 of 8 do, by hand
    assert paired_randomisation(np.array([0.1, 0.2, -0.1]), np.zeros(3), rng=generator()) == 0.75


def test_the_sampled_p_value_is_never_zero():
    assert paired_randomisation(np.ones(200), np.zeros(200), rng=generator(), samples=99) == 0.01


def test_swapping_the_sides_keeps_the_p_value():
    a, b = generator(5).random((2, 40))
    assert paired_randomisation(a, b, rng=generator()) == paired_randomisation(b, a, rng=generator())


def test_p_values_are_uniform_where_there_is_no_difference():
    rng = generator(11)
    found = [paired_randomisation(rng.random(30), rng.random(30), rng=rng, samples=500) for _ in range(400)]
    assert kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.033)  # three standard errors


def test_a_clear_difference_is_found():
    rng = generator(3)
    base = rng.random(100)
    assert paired_randomisation(base + rng.normal(0.1, 0.1, 100), base, rng=rng) < 0.001


# ---- Holm


def test_holm_has_the_value_worked_out_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04, never falling: .02 .03 .06 .06
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


def test_holm_never_exceeds_one_nor_falls_below_the_p_value():
    p = generator(0).random(20)
    adjusted = holm(p)
    assert (adjusted <= 1).all()
    assert (adjusted >= p).all()
    assert adjusted[p.argmin()] == pytest.approx(min(1.0, 20 * p.min()))


def test_holm_leaves_one_p_value_and_none_as_they_are():
    assert holm(np.array([0.2])).tolist() == [0.2]
    assert holm(np.empty(0)).tolist() == []


def test_holm_does_not_depend_on_the_order():
    p, order = generator(1).random(9), generator(2).permutation(9)
    np.testing.assert_array_equal(holm(p)[order], holm(p[order]))


# ---- compare

SYSTEM = PerQuery("new", ("a", "b", "c", "d"), {"R@1": np.array([1.0, 1.0, 0.0, 1.0]), "RR": np.array([1.0, 0.5, 0.2, 1.0])})
BASE = PerQuery("old", ("d", "c", "b", "a"), {"R@1": np.array([0.0, 1.0, 0.0, 1.0]), "RR": np.array([0.5, 0.2, 0.5, 0.5])})


def test_a_comparison_pairs_the_queries_by_id():
    found = compare([(SYSTEM, BASE)], measures=["R@1", "RR"], rng=generator())
    first = found[0]
    assert [(c.system, c.baseline, c.measure) for c in found] == [("new", "old", "R@1"), ("new", "old", "RR")]
    assert (first.mean, first.baseline_mean, first.difference) == (0.75, 0.5, 0.25)
    assert (first.wins, first.ties, first.losses) == (2, 1, 1)
    assert first.p == 1.0  # differences 1, 1, -1: every pattern of signs reaches a sum of 1
    assert -0.5 <= first.low <= 0.25 <= first.high <= 1.0


def test_the_family_of_a_comparison_is_all_that_was_compared_together():
    found = compare([(SYSTEM, BASE), (BASE, SYSTEM)], measures=["R@1", "RR"], rng=generator())
    assert [c.adjusted_p for c in found] == holm(np.array([c.p for c in found])).tolist()
    alone = compare([(SYSTEM, BASE)], measures=["RR"], rng=generator())[0]
    assert alone.adjusted_p == alone.p < found[1].adjusted_p


def test_a_system_against_itself_differs_nowhere():
    found = compare([(SYSTEM, SYSTEM)], measures=["RR"], rng=generator())[0]
    assert (found.difference, found.low, found.high, found.p, found.ties) == (0.0, 0.0, 0.0, 1.0, 4)


def test_the_order_of_the_queries_changes_no_exact_number():
    turned = SYSTEM.select(["d", "b", "a", "c"])
    one, two = (compare([(s, BASE)], measures=["RR"], rng=generator())[0] for s in (SYSTEM, turned))
    assert one.difference == pytest.approx(two.difference)
    assert (one.p, one.wins, one.ties, one.losses) == (two.p, two.wins, two.ties, two.losses)


def test_no_pair_gives_no_comparison():
    assert compare([], measures=["RR"], rng=generator()) == []


@pytest.mark.parametrize(
    ("baseline", "measure", "message"),
    [
        (SYSTEM.select(["a", "b", "d"]), "RR", "query 'c' is in 'new' but not in 'new'"),
        (PerQuery("old", ("a", "b", "c", "d", "e"), {"RR": np.zeros(5)}), "RR", "query 'e' is in 'old' but not in 'new'"),
        (BASE, "R@5", "'new' has no R@5, only R@1, RR"),
        (PerQuery("old", ("a", "b", "c", "d"), {"RR": np.zeros(4)}), "R@1", "'old' has no R@1"),
    ],
)
def test_what_cannot_be_paired_is_refused_by_name(baseline, measure, message):
    with pytest.raises(ValueError, match=message):
        compare([(SYSTEM, baseline)], measures=[measure], rng=generator())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(np.empty(0), rng=generator()), "0 values"),
        (lambda: bootstrap_interval(np.array([1.0, np.nan]), rng=generator()), "value 1 is not a finite"),
        (lambda: bootstrap_interval(np.ones(2), rng=generator(), level=95.0), "level 95"),
        (lambda: bootstrap_interval(np.ones(2), rng=generator(), samples=0), "0 samples"),
        (lambda: paired_randomisation(np.ones(2), np.ones(3), rng=generator()), "2 and 3 values"),
        (lambda: paired_randomisation(np.empty(0), np.empty(0), rng=generator()), "0 values"),
        (lambda: paired_randomisation(np.ones(2), np.zeros(2), rng=generator(), samples=0), "0 samples"),
        (lambda: holm(np.array([0.5, np.nan])), "p-values"),
        (lambda: holm(np.array([1.5])), "p-values"),
    ],
)
def test_input_without_a_meaning_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
