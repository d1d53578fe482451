"""Exact search equals a sort of every inner product, however the vectors and the queries are cut."""

import numpy as np
import pytest

from retort.indexes.exact import QUERY_BATCH, exact_top
from retort.indexes.vectors import VectorParts


def whole_numbers(rows, *, dimensions=4, seed=5):
    """Small integers: every inner product is exact in float32, and many of them tie."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, dimensions)).astype(np.float32)


def brute_force(vectors, queries, k):
    scores = queries @ vectors.T
    rows = np.stack([np.lexsort((np.arange(len(vectors)), -row))[:k] for row in scores])
    return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("block_rows", [1, 3, 7, 64, 1000])
@pytest.mark.parametrize("k", [1, 5, 200])
def test_any_block_size_equals_brute_force_ties_included(block_rows, k):
    vectors, queries = whole_numbers(150), whole_numbers(20, seed=6)
    scores, rows = exact_top(VectorParts.of(vectors), queries, k, block_rows=block_rows)
    expected_scores, expected_rows = brute_force(vectors, queries, k)
    assert np.array_equal(scores, expected_scores)
    assert np.array_equal(rows, expected_rows)


def test_parts_equal_the_whole():
    vectors, queries = whole_numbers(150), whole_numbers(20, seed=6)
    whole = exact_top(VectorParts.of(vectors), queries, 10)
    parts = exact_top(VectorParts.of(vectors[:4], vectors[4:100], vectors[100:]), queries, 10)
    assert np.array_equal(whole[1], parts[1])
    assert np.array_equal(whole[0], parts[0])


def test_more_queries_than_one_batch_equal_each_alone():
    vectors, queries = VectorParts.of(whole_numbers(30)), whole_numbers(QUERY_BATCH + 3, seed=6)
    rows = exact_top(vectors, queries, 4)[1]
    assert rows.shape == (QUERY_BATCH + 3, 4)
    for at in (0, QUERY_BATCH - 1, QUERY_BATCH, QUERY_BATCH + 2):
        assert np.array_equal(rows[at : at + 1], exact_top(vectors, queries[at : at + 1], 4)[1])


def test_scores_that_rise_with_every_block_are_all_found():
    vectors = np.arange(1, 101, dtype=np.float32)[:, None]
    assert exact_top(VectorParts.of(vectors), np.ones((1, 1), np.float32), 3, block_rows=10)[1].tolist() == [[99, 98, 97]]


def test_no_query_gives_no_row():
    scores, rows = exact_top(VectorParts.of(whole_numbers(5)), np.empty((0, 4), np.float32), 3)
    assert scores.shape == rows.shape == (0, 3)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int32)
