"""BM25 weights: bm25s's own numbers in bm25s's own order, whatever the blocks they were counted in."""

import os
from math import log

import bm25s
import numpy as np
import pytest

from retort.indexes.bm25_weights import word_weights


def corpus(passages=300, words=50, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [rng.zipf(1.3, rng.integers(0, 30)) % words for _ in range(passages)]
    seen = {}
    return [[seen.setdefault(int(word), len(seen)) for word in passage] for passage in drawn]


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("weights", "rows", "starts", "passages")
    )


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75), (0.0, 0.0), (2.0, 1.0)])
def test_weights_are_those_of_bm25s_to_the_last_bit(k1, b):
    passages = corpus()
    ours = word_weights(passages, k1=k1, b=b)
    index = bm25s.BM25(k1=k1, b=b, method="lucene", csc_backend="scipy")
    theirs = index.build_index_from_ids(range(1 + max(map(max, filter(None, passages)))), passages, show_progress=False)
    assert np.array_equal(ours.weights, theirs["data"])
    assert np.array_equal(ours.rows, theirs["indices"])
    assert np.array_equal(ours.starts, theirs["indptr"])
    assert ours.passages == theirs["num_docs"]


@pytest.mark.parametrize("block_words", [1, 7, 100, 1000])
def test_blocks_change_nothing(block_words):
    passages = corpus()
    assert same(word_weights(passages, k1=0.9, b=0.4, block_words=block_words), word_weights(passages, k1=0.9, b=0.4))


def test_a_weight_is_the_published_formula():
    found = word_weights([[0, 1, 0], [1, 2]], k1=0.9, b=0.4)
    rarity, length = log(1 + (2 - 1 + 0.5) / (1 + 0.5)), 3 / 2.5
    assert found.weights[0] == pytest.approx(rarity * 2 / (2 + 0.9 * (1 - 0.4 + 0.4 * length)))


def test_passages_are_read_once_and_one_without_words_has_a_row():
    found = word_weights(iter([[], [0], [], [0, 1], []]), k1=0.9, b=0.4)
    assert (found.passages, found.rows.tolist(), found.starts.tolist()) == (5, [1, 3, 3], [0, 2, 3])


@pytest.mark.parametrize("passages", [[], [[], []]])
def test_passages_without_any_word_are_refused(passages):
    with pytest.raises(ValueError, match=f"none of the {len(passages)} passages holds a word"):
        word_weights(passages, k1=0.9, b=0.4)


def test_temporary_files_stand_where_they_are_told_to_and_leave_nothing(tmp_path):
    found = word_weights(corpus(), k1=0.9, b=0.4, scratch=tmp_path)
    assert found.weights.sum() > 0
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        word_weights(corpus(), k1=0.9, b=0.4, scratch=tmp_path / "missing")
