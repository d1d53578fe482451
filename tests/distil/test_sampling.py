import numpy as np
import pytest

from retort.distil.sampling import SAMPLERS, Labelled
from retort.records import Query


def listed(count):
    scores = np.linspace(1, 0, count, dtype=np.float32)
    return Labelled(Query("q", "who"), np.arange(count, dtype=np.int32), scores, np.zeros(count, bool))


def draws(name, count, wanted, times=200):
    return [SAMPLERS[name](listed(count), wanted, np.random.default_rng([7, i])).tolist() for i in range(times)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_positions_are_distinct_ascending_and_as_many_as_there_are(name):
    for count, wanted in [(9, 4), (3, 5), (2, 2)]:
        for positions in draws(name, count, wanted, times=20):
            assert positions == sorted(set(positions))
            assert len(positions) == min(count, wanted)
            assert set(positions) <= set(range(count))


def test_top_takes_the_best():
    assert draws("top", 9, 3, times=2) == [[0, 1, 2]] * 2


def test_random_takes_every_candidate_equally_often():
    taken = np.bincount(np.concatenate(draws("random", 5, 2, times=2000)), minlength=5)
    np.testing.assert_allclose(taken / 2000, 0.4, atol=0.04)


def test_spread_always_takes_the_best_and_every_other_equally_often():
    taken = np.bincount(np.concatenate(draws("spread", 5, 3, times=2000)), minlength=5)
    assert taken[0] == 2000
    np.testing.assert_allclose(taken[1:] / 2000, 0.5, atol=0.04)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_generator_draws_the_same(name):
    assert draws(name, 9, 4) == draws(name, 9, 4)


def marked(scores, positive):
    scores = np.array(scores, np.float32)
    return Labelled(Query("q", "who"), np.arange(len(scores), dtype=np.int32), scores, np.array(positive, bool))


def test_positive_draws_one_positive_and_negatives_each_equally_often():
    labelled = marked([5, 4, 3, 2, 1], [False, True, False, True, False])
    drawn = [SAMPLERS["positive"](labelled, 3, np.random.default_rng([1, i])).tolist() for i in range(2000)]
    assert all(len(set(places) & {1, 3}) == 1 for places in drawn)
    taken = np.bincount(np.concatenate(drawn), minlength=5) / 2000
    np.testing.assert_allclose(taken, [2 / 3, 1 / 2, 2 / 3, 1 / 2, 2 / 3], atol=0.04)


def test_stratified_draws_by_the_teachers_mass():
    labelled = marked(np.log([0.4, 0.3, 0.2, 0.1]), [False] * 4)
    drawn = [SAMPLERS["stratified"](labelled, 2, np.random.default_rng([1, i])).tolist() for i in range(4000)]
    # shares [0, .5) and [.5, 1): the first holds .4 of candidate 0 and .1 of 1, the second .2 of 1, .2 of 2 and .1 of 3
    both_one = 0.2 * 0.4  # candidate 1 holds a part of both shares; another then takes the second place, evenly
    np.testing.assert_allclose(np.mean([0 in places for places in drawn]), 0.8 + both_one / 3, atol=0.03)
    np.testing.assert_allclose(np.mean([3 in places for places in drawn]), 0.2 + both_one / 3, atol=0.03)


def test_taking_places_keeps_what_is_known_of_each_candidate_together():
    labelled = Labelled(
        Query("q", "who"), np.array([7, 3, 5], np.int32), np.array([3, 2, 1], np.float32),
        np.array([False, True, False]), np.array([2, 9, 1], np.int32),
    )  # fmt: skip
    taken = labelled.take(np.array([1, 2]))
    assert (taken.others.tolist(), taken.take(np.array([0])).others.tolist()) == ([7], [7, 5])
    assert (taken.passages.tolist(), taken.scores.tolist()) == ([3, 5], [2, 1])
    assert (taken.positive.tolist(), taken.ranks.tolist()) == ([True, False], [9, 1])
