"""Fusing Runs and bringing them to one entropy."""

import math

import numpy as np
import pytest

from retort.records import Run
from retort.teachers.fused import calibrated, fuse, temperatures, unshared


def entropies(run):
    found = {}
    for query_id, _, scores in run:
        p = np.exp(scores.astype(np.float64) - scores.max(initial=0))
        p /= p.sum()
        found[query_id] = -(p[p > 0] * np.log(p[p > 0])).sum()
    return found


def lists(run):
    return {query_id: dict(zip(rows.tolist(), scores.tolist(), strict=True)) for query_id, rows, scores in run}


def test_z_scores_are_averaged_by_weight():
    # a: mean 2, deviation sqrt(2/3); b: mean 20, deviation sqrt(200/3)
    a = Run.build("a", ["q"], [[5, 6, 7]], [[3.0, 2.0, 1.0]])
    b = Run.build("b", ["q"], [[6, 7, 5]], [[30.0, 20.0, 10.0]])
    z = math.sqrt(1.5)
    found = lists(fuse([a, b], weights=[2.0, 1.0], name="both"))["q"]
    assert found == pytest.approx({5: z * (2 - 1) / 3, 6: z / 3, 7: -2 * z / 3})


def test_equal_weights_are_the_default():
    a, b = Run.build("a", ["q"], [[1, 2]], [[2.0, 0.0]]), Run.build("b", ["q"], [[1, 2]], [[0.0, 5.0]])
    assert lists(fuse([a, b], name="both")) == {"q": {1: 0.0, 2: 0.0}}
    assert lists(fuse([a, b], weights=[3.0, 1.0], name="both")) == {"q": {1: 0.5, 2: -0.5}}


def test_a_teachers_scale_and_offset_do_not_matter_to_z_scores():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 8))
    runs = [Run.build("x", ["q"], [range(8)], [scores]) for scores in (a, b, 100 * b - 7)]
    one, other = fuse([runs[0], runs[1]], name="f"), fuse([runs[0], runs[2]], name="f")
    assert one.passages.tolist() == other.passages.tolist()
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_reciprocal_ranks_are_those_of_cormack_and_ties_share_one():
    a = Run.build("a", ["q"], [[1, 2, 3]], [[9.0, 8.0, 7.0]])
    b = Run.build("b", ["q"], [[3, 1, 2]], [[5.0, 1.0, 1.0]])
    found = lists(fuse([a, b], how="reciprocal_rank", name="both"))["q"]
    assert found == pytest.approx(
        {1: (1 / 61 + 1 / 62.5) / 2, 2: (1 / 62 + 1 / 62.5) / 2, 3: (1 / 63 + 1 / 61) / 2}, rel=1e-6
    )


def test_a_teacher_that_cannot_tell_passages_apart_says_nothing():
    a = Run.build("a", ["q"], [[1, 2, 3]], [[2.0, 1.0, 0.0]])
    constant = Run.build("b", ["q"], [[1, 2, 3]], [[0.1, 0.1, 0.1]])
    np.testing.assert_allclose(fuse([a, constant], name="f").scores, fuse([a], name="f").scores / 2, rtol=1e-6)
    assert fuse([constant], name="f").scores.tolist() == [0, 0, 0]


def test_only_pairs_that_all_have_scored_are_kept_and_the_others_counted():
    a = Run.build("a", ["q", "only a"], [[1, 2, 3], [1]], [[3.0, 2.0, -50.0], [1.0]])
    b = Run.build("b", ["q", "only b"], [[2, 1, 9], [1]], [[1.0, 0.0, 7.0], [1.0]])
    fused = fuse([a, b], name="f")
    assert lists(fused) == {"q": {1: 0.0, 2: 0.0}, "only a": {}, "only b": {}}
    assert unshared([a, b]) == (2, 2)


@pytest.mark.parametrize(("runs", "weights"), [(0, None), (2, [1.0]), (2, [1.0, 0.0]), (1, [math.inf]), (1, [math.nan])])
def test_weights_are_positive_and_one_a_run(runs, weights):
    with pytest.raises(ValueError, match="expected a positive weight for each"):
        fuse([Run.build("a", ["q"], [[1]], [[1.0]])] * runs, weights=weights, name="f")


def test_each_softmax_gets_the_entropy_that_is_asked_for():
    rng = np.random.default_rng(1)
    sizes = [3, 10, 100, 40]
    widths = [1e-3, 1.0, 50.0, 1e4]
    scores = [width * rng.standard_normal(size) for size, width in zip(sizes, widths, strict=True)]
    run = Run.build("r", [f"q{i}" for i in range(4)], [range(size) for size in sizes], scores)
    after = calibrated(run, 1.0)
    assert after.passages.tolist() == run.passages.tolist()
    assert (after.name, after.query_ids) == ("r", run.query_ids)
    assert list(entropies(after).values()) == pytest.approx([1.0] * 4, abs=1e-5)


def test_a_question_gets_the_same_temperature_beside_any_others():
    rng = np.random.default_rng(2)
    queries = [f"q{i}" for i in range(1500)]  # more than one chunk
    sizes = rng.integers(2, 9, len(queries))
    run = Run.build("r", queries, [range(size) for size in sizes], [rng.standard_normal(size) for size in sizes])
    found = temperatures(run, 0.5)
    some = [3, 1023, 1024, 1499]
    alone = [temperatures(run.select([queries[i]]), 0.5)[0] for i in some]
    np.testing.assert_allclose(found[some], alone, rtol=1e-12)


def test_a_scale_changes_the_temperature_and_nothing_else():
    scores = np.array([2.0, 0.5, -1.0])
    run = Run.build("r", ["a", "b"], [range(3)] * 2, [scores, 1000 * scores])
    one, other = temperatures(run, 0.6)
    assert other == pytest.approx(1000 * one)
    after = lists(calibrated(run, 0.6))
    assert after["a"] == pytest.approx(after["b"])


def test_an_entropy_that_cannot_be_is_moved_into_the_range_and_keeps_the_order():
    run = Run.build("r", ["two", "ties"], [[1, 2], [1, 2, 3]], [[1.0, 0.0], [5.0, 5.0, 1.0]])
    high, low = calibrated(run, 4.0), calibrated(run, 0.01)
    assert entropies(high) == pytest.approx(
        {"two": 0.99 * math.log(2), "ties": math.log(2) + 0.99 * math.log(1.5)}, abs=1e-6
    )
    assert entropies(low) == pytest.approx({"two": 0.01, "ties": math.log(2) + 0.01 * math.log(1.5)}, abs=1e-6)
    for after in (high, low):
        assert after.passages.tolist() == run.passages.tolist()
        assert len(set(lists(after)["ties"].values())) == 2
        assert np.isfinite(after.scores).all()


def test_equal_scores_single_passages_and_empty_questions_have_no_temperature():
    run = Run.build("r", ["equal", "one", "none"], [[1, 2], [3], []], [[7.0, 7.0], [4.0], []])
    assert temperatures(run, 0.5).tolist() == [1, 1, 1]
    assert lists(calibrated(run, 0.5)) == {"equal": {1: 0.0, 2: 0.0}, "one": {3: 0.0}, "none": {}}


def test_scores_that_almost_tie_are_told_apart():
    run = Run.build("r", ["q"], [[1, 2, 3]], [[1.0, float(np.nextafter(np.float32(1), np.float32(0))), 0.0]])
    assert entropies(calibrated(run, 0.3))["q"] == pytest.approx(0.3, abs=1e-5)


def test_questions_without_a_list_have_no_temperature_to_find():
    run = Run.build("r", ["a", "b"], [[], []], [[], []])
    assert temperatures(run, 0.5).tolist() == [1.0, 1.0]
    assert [len(rows) for _, rows, _ in calibrated(run, 0.5)] == [0, 0]


def test_an_entropy_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected more than 0"):
        temperatures(Run.build("r", ["q"], [[1]], [[1.0]]), 0.0)
