import math

import numpy as np
import pytest

from retort.evaluation import ranks
from retort.evaluation.audit_shape import advised_temperature, scale, shapes, usual_aim
from retort.records import Run


def labelled(*lists):
    scores = [np.array(one, np.float64) for one in lists]
    return Run.build("teacher", [f"q{i}" for i in range(len(lists))], [np.arange(len(one)) for one in scores], scores)


def test_entropy_spread_and_deviation_are_those_worked_by_hand():
    found = shapes(labelled([0.0, -math.log(3)], [5.0, 5.0, 5.0, 5.0]))  # shares 3/4 and 1/4; equal shares
    np.testing.assert_allclose(found.entropy, [math.log(4) - 0.75 * math.log(3), math.log(4)], rtol=1e-6)
    np.testing.assert_allclose(found.effective, [1.7547, 4.0], rtol=1e-4)
    np.testing.assert_allclose(found.spread, [math.log(3), 0], rtol=1e-6)
    np.testing.assert_allclose(found.deviation, [math.log(3) / 2, 0], rtol=1e-6)


def test_a_temperature_divides_the_scores():
    lists = np.random.default_rng(0).standard_normal((5, 7)) * 4
    hot, divided = shapes(labelled(*lists), temperature=3.0), shapes(labelled(*(lists / 3)))
    for name in ("entropy", "spread", "deviation"):
        np.testing.assert_allclose(getattr(hot, name), getattr(divided, name), rtol=1e-5)


def test_a_constant_added_to_a_query_changes_nothing():
    lists = np.random.default_rng(1).integers(-5, 5, (6, 5)).astype(float)
    plain, shifted = shapes(labelled(*lists)), shapes(labelled(*(lists + np.arange(6)[:, None] * 64)))
    for name, values in vars(plain).items():
        if name != "query_ids":
            np.testing.assert_allclose(values, getattr(shifted, name), rtol=1e-12)


def test_ties_and_lost_probabilities_are_counted():
    found = shapes(labelled([3.0, 3.0, 1.0, 0.0, 0.0, 0.0], [0.0, -18.0, -19.0, -90.0]))
    assert (found.tied.tolist(), found.top_tied.tolist()) == ([5, 0], [2, 1])
    assert found.negligible.tolist() == [0, 2]  # exp(-18) is 1.5e-8, exp(-19) is 5.6e-9
    assert found.underflowing.tolist() == [0, 1]  # exp(-87.3) is the least normal float32


@pytest.mark.parametrize(
    ("scores", "verdict", "said"),
    [
        ([], "too short", "0 candidates, expected at least 2"),
        ([1.0], "too short", "1 candidates"),
        ([2.0] * 5, "constant", "all 5 candidates have one score"),
        ([9.0, 0.0, 0.0, 0.0], "one-hot", "4 candidates weigh as much as 1.00, expected at least 1.05"),
        ([0.1, 0.0, 0.0, 0.0], "flat", "at most 95% of them"),
        ([2.0, 1.0, 0.0], "few candidates", "3 candidates, expected at least 4"),
        ([2.0, 1.0, 0.0, 0.0], "ok", "weigh as much as 2.85 equal"),
    ],
)
def test_each_query_has_a_verdict_with_its_numbers(scores, verdict, said):
    found = shapes(labelled(scores))
    assert found.verdicts() == [verdict]
    assert said in found.reasons()[0]


def test_lists_of_all_lengths_have_the_same_shape_alone_and_together(monkeypatch):
    rng = np.random.default_rng(2)
    lists = [rng.standard_normal(n) for n in (0, 1, 5, 2, 0, 9)]
    together = shapes(labelled(*lists))
    monkeypatch.setattr(ranks, "CELLS", 1)
    alone = shapes(labelled(*lists))
    for name, values in vars(together).items():
        np.testing.assert_array_equal(values, getattr(alone, name))


def test_the_advised_temperature_gives_the_aim_and_a_lower_one_does_not():
    labels = labelled(*(np.random.default_rng(3).standard_normal((31, 20)) * 6))
    for aim in (1.5, 5.0, 18.0):
        found = advised_temperature(labels, aim)
        assert np.median(shapes(labels, temperature=found * 1.005).effective) >= aim  # three digits are given
        assert np.median(shapes(labels, temperature=found * 0.99).effective) < aim


def test_the_advised_temperature_follows_the_scale_of_the_scores():
    lists = np.random.default_rng(4).standard_normal((9, 8))
    for factor in (1e-3, 1e5):
        wanted = factor * advised_temperature(labelled(*lists), 3.0)
        assert advised_temperature(labelled(*(factor * lists)), 3.0) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(("lists", "aim"), [([[1.0, 0.0]], 2.5), ([[1.0, 1.0, 0.0]], 1.5), ([[1.0, 1.0], [3.0]], 1.5)])
def test_there_is_no_temperature_beyond_the_candidates_below_their_ties_or_without_an_order(lists, aim):
    assert advised_temperature(labelled(*lists), aim) is None


@pytest.mark.parametrize(("candidates", "aim"), [(0, 1.0), (1, 1.0), (2, 1.5), (6, 2.0), (20, 5.0), (100, 10.0)])
def test_the_usual_aim_lies_between_a_hard_label_and_the_first_page(candidates, aim):
    assert usual_aim(shapes(labelled(np.arange(candidates)))) == aim


def test_scores_are_seen_to_be_a_softmax_already():
    rows = np.exp(np.random.default_rng(5).standard_normal((4, 6)))
    found = scale(labelled(*(rows / rows.sum(1, keepdims=True)), []))
    assert (found.bounded, found.sums_to_one) == (True, True)
    assert not scale(labelled(*rows)).sums_to_one


def test_no_scores_have_no_scale():
    assert scale(labelled([], [])).bounded is False


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_not_above_0_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        shapes(labelled([1.0, 0.0]), temperature=temperature)


def test_a_run_without_queries_is_refused():
    with pytest.raises(ValueError, match="holds no query"):
        shapes(Run.build("teacher", [], [], []))
