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
