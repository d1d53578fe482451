"""Tests of retort.indexes.union."""

import numpy as np

from retort.indexes.union import union
from retort.records import Run


def plain(run):
    """A Run as plain values, to compare."""
    return run.name, run.query_ids, {q: (rows.tolist(), scores.tolist()) for q, rows, scores in run}


def test_a_union_scores_by_the_best_reciprocal_rank_of_any_run():
    a = Run.build("a", ["q"], [[10, 20, 30]], [[9.0, 8.0, 7.0]])
    b = Run.build("b", ["q"], [[30, 40, 10]], [[0.3, 0.2, 0.1]])
    merged = union("both", [a, b])
    assert (merged.name, merged.query_ids) == ("both", ("q",))
    assert [values.tolist() for values in merged.of("q")] == [[10, 30, 20, 40], [1.0, 1.0, 0.5, 0.5]]


def test_a_union_does_not_depend_on_the_order_of_the_runs_nor_on_their_scales():
    rng = np.random.default_rng(3)
    lists = [[rng.permutation(20)[:6] for _ in range(3)] for _ in range(3)]
    runs = [Run.build("r", ["a", "b", "c"], rows, [rng.random(6) for _ in rows]) for rows in lists]
    scaled = [Run.build("r", r.query_ids, [p for _, p, _ in r], [100 * s - 7 for _, _, s in r]) for r in runs]
    assert plain(union("u", runs)) == plain(union("u", runs[::-1])) == plain(union("u", scaled))


def test_a_union_holds_every_query_and_passage_of_its_runs():
    a = Run.build("a", ["x", "y"], [[1], []], [[1.0], []])
    b = Run.build("b", ["y", "z"], [[2, 3], [4]], [[2.0, 1.0], [1.0]])
    merged = union("u", [a, b])
    assert {query_id: set(rows.tolist()) for query_id, rows, _ in merged} == {"x": {1}, "y": {2, 3}, "z": {4}}


def test_a_union_with_itself_keeps_the_order():
    run = Run.build("r", ["q"], [[5, 3, 9]], [[1.0, 7.0, 2.0]])
    assert union("u", [run, run]).of("q")[0].tolist() == run.of("q")[0].tolist()
