"""The best k of blocks equal a stable sort of all scores, however blocks and queries are cut."""

import numpy as np
import pytest

from retort.indexes.best import best_of_blocks

SCORES = np.random.default_rng(1).integers(-3, 4, (23, 150)).astype(np.float32)


def cut_best(scores, k, block_rows, query_batch=1000):
    blocks = ((start, scores[:, start : start + block_rows]) for start in range(0, scores.shape[1], block_rows))
    queries, passages = scores.shape
    return best_of_blocks(
        blocks, lambda span, block: block[span], queries=queries, passages=passages, k=k, query_batch=query_batch
    )


@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("query_batch", [1, 10, 1000])
@pytest.mark.parametrize("k", [1, 5, 200])
def test_any_cut_equals_a_stable_sort(block_rows, query_batch, k):
    expected = np.argsort(-SCORES, axis=1, kind="stable")[:, :k]
    scores, rows = cut_best(SCORES, k, block_rows, query_batch)
    assert np.array_equal(rows, expected)
    assert np.array_equal(scores, np.take_along_axis(SCORES, expected, 1))


def test_scores_that_rise_with_every_block_are_all_found():
    assert cut_best(np.arange(100, dtype=np.float32)[None], 3, 10)[1].tolist() == [[99, 98, 97]]


@pytest.mark.parametrize(("queries", "passages", "shape"), [(0, 5, (0, 3)), (2, 0, (2, 0)), (2, 1, (2, 1))])
def test_no_query_and_no_passage_give_lists_of_that_length(queries, passages, shape):
    scores, rows = cut_best(np.zeros((queries, passages), np.float32), 3, 2)
    assert scores.shape == rows.shape == shape
    assert (scores.dtype, rows.dtype) == (np.float32, np.int32)
