"""The inverted index: every inner product of sparse vectors, sorted, whatever the blocks; nothing that does not match."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from retort.indexes import inverted
from retort.indexes.inverted import RECORD_FILE, InvertedIndex
from retort.indexes.sparse_vectors import SparseParts, write_sparse_part


def whole_numbers(rows, *, width=12, seed=5):
    """Small integers, most of them 0: every inner product is exact in float32, many tie, and some rows are empty."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 4, (rows, width)) * (rng.random((rows, width)) < 0.2)).astype(np.float32)


VECTORS, QUERIES = whole_numbers(150), whole_numbers(20, seed=6)


def brute_force(vectors, queries, k):
    scores = queries @ vectors.T
    order = [np.argsort(-row, kind="stable") for row in scores]
    rows = [best[row[best] > 0][:k] for row, best in zip(scores, order, strict=True)]
    return [row[best] for row, best in zip(scores, rows, strict=True)], rows


def plain(found):
    return [[one.tolist() for one in part] for part in found]


def index_of(*parts, **settings):
    return InvertedIndex.build(SparseParts.of(*(csr_array(part) for part in parts)), **settings)


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("k", [1, 5, 200])
def test_any_block_size_equals_brute_force_with_ties_and_empties(block_rows, k):
    assert not VECTORS.any(1).all()
    found = index_of(VECTORS, block_rows=block_rows).search(csr_array(QUERIES), k)
    assert plain(found) == plain(brute_force(VECTORS, QUERIES, k))


def test_parts_equal_the_whole():
    parts = index_of(VECTORS[:4], VECTORS[4:4], VECTORS[4:100], VECTORS[100:]).search(csr_array(QUERIES), 10)
    assert plain(parts) == plain(index_of(VECTORS).search(csr_array(QUERIES), 10))


def test_more_queries_than_one_batch_equal_each_alone(monkeypatch):
    together = index_of(VECTORS).search(csr_array(QUERIES), 4)
    monkeypatch.setattr(inverted, "QUERY_BATCH", 3)
    assert plain(index_of(VECTORS).search(csr_array(QUERIES), 4)) == plain(together)
    alone = [index_of(VECTORS).search(csr_array(QUERIES[at : at + 1]), 4) for at in range(20)]
    assert [rows.tolist() for rows in together[1]] == [rows[0].tolist() for _, rows in alone]


def test_real_weights_have_the_bits_of_the_sum_in_float32_whatever_the_blocks():
    rng = np.random.default_rng(2)
    vectors, queries = VECTORS * rng.random(VECTORS.shape), (QUERIES * rng.random(QUERIES.shape)).astype(np.float32)
    one, other = (index_of(vectors, block_rows=rows).search(csr_array(queries), 10) for rows in (150, 11))
    assert plain(one) == plain(other)
    expected = brute_force(vectors.astype(np.float16).astype(np.float32), queries, 10)[0]
    np.testing.assert_allclose(np.concatenate(one[0]), np.concatenate(expected), rtol=1e-6)


def test_the_order_of_a_querys_entries_does_not_matter():
    tidy = csr_array(np.array([[1, 2, 0, 3]], np.float32))
    untidy = csr_array((np.array([3, 2, 1], np.float32), np.array([3, 1, 0]), np.array([0, 3])), (1, 4))
    index = index_of(whole_numbers(30, width=4))
    assert plain(index.search(tidy, 5)) == plain(index.search(untidy, 5))


def test_a_passage_without_a_positive_score_is_not_a_hit():
    index = index_of(np.array([[1, 0], [0, 1], [-1, 0], [2, -2]], np.float32))
    assert plain(index.search(csr_array(np.array([[1, 1], [0, 0]], np.float32)), 4)) == [[[1, 1], []], [[0, 1], []]]


def test_no_query_gives_no_list():
    assert index_of(VECTORS).search(csr_array((0, 12), dtype=np.float32), 3) == ([], [])


def test_scores_and_rows_have_the_types_of_a_run():
    scores, rows = index_of(VECTORS).search(csr_array(QUERIES.astype(np.float64)), 3)
    assert (scores[0].dtype, rows[0].dtype) == (np.float32, np.int32)


def test_a_loaded_index_finds_what_the_built_one_found_and_is_saved_to_the_same_bytes(tmp_path):
    built = index_of(VECTORS, block_rows=40)
    built.save(tmp_path / "a")
    loaded = InvertedIndex.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert len(loaded) == len(built) == 150
    assert plain(loaded.search(csr_array(QUERIES), 10)) == plain(built.search(csr_array(QUERIES), 10))
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_saving_over_an_index_of_more_blocks_leaves_none_of_them(tmp_path):
    index_of(VECTORS, block_rows=10).save(tmp_path)
    index_of(VECTORS[:5]).save(tmp_path)
    assert plain(InvertedIndex.load(tmp_path).search(csr_array(QUERIES), 9)) == plain(brute_force(VECTORS[:5], QUERIES, 9))


def test_a_search_of_parts_on_disk_equals_one_in_memory(tmp_path):
    write_sparse_part(tmp_path / "part-00000.sparse", csr_array(VECTORS))
    found = InvertedIndex.build(SparseParts.open(tmp_path)).search(csr_array(QUERIES), 10)
    assert plain(found) == plain(index_of(VECTORS).search(csr_array(QUERIES), 10))


@pytest.mark.parametrize("missing", [RECORD_FILE, "postings/part-00001.sparse"])
def test_an_index_that_is_not_whole_is_refused(tmp_path, missing):
    index_of(VECTORS, block_rows=75).save(tmp_path)
    (tmp_path / missing).rename(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"holds no inverted index|1 of 2 blocks"):
        InvertedIndex.load(tmp_path)


def test_queries_of_another_width_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match="queries have 4 columns, the index has 12: encode"):
        index_of(VECTORS).search(csr_array((1, 4), dtype=np.float32), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_query_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="query vector 1 of 2"):
        index_of(np.eye(2)).search(csr_array(np.array([[1, 1], [0, value]], np.float32)), 1)


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="k is 0"):
        index_of(VECTORS).search(csr_array(QUERIES), 0)
