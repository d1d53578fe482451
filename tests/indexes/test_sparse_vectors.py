"""Sparse parts: what is written is what is read, in one form whatever the order, and what cannot be trusted is refused."""

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array, vstack

from retort.indexes.sparse_vectors import SparseParts, write_sparse_part
from retort.store import write_atomic, write_parts


def sample(rows, width=12, *, seed=3):
    return csr_array(random_array((rows, width), density=0.3, rng=seed, dtype=np.float32))


def whole(parts):
    return np.concatenate([block.toarray() for _, block in parts.blocks(1000)])


def rounded(vectors):
    return vectors.toarray().astype(np.float16).astype(np.float32)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_parts_come_back_rounded_to_half_precision_and_in_order(tmp_path):
    vectors = [sample(5), sample(0), sample(4, seed=4)]
    write_parts(tmp_path, 3, lambda part, path: write_sparse_part(path, vectors[part]), ending=".sparse")
    opened = SparseParts.open(tmp_path / "parts")
    assert opened.shape == (9, 12)
    assert opened.nonzeros == sum(part.nnz for part in vectors)
    assert np.array_equal(whole(opened), np.concatenate([rounded(part) for part in vectors]))


def test_parts_are_memory_mapped(tmp_path):
    write_sparse_part(tmp_path / "part-00000.sparse", sample(3))
    part = SparseParts.open(tmp_path).parts[0]
    assert all(isinstance(array, np.memmap) for array in (part.weights, part.columns, part.starts))


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_blocks_of_any_size_make_the_whole(rows):
    vectors = SparseParts.of(sample(5), sample(0), sample(4, seed=4))
    blocks = list(vectors.blocks(rows))
    assert [first for first, _ in blocks] == np.cumsum([0] + [block.shape[0] for _, block in blocks])[:-1].tolist()
    assert max(block.shape[0] for _, block in blocks) <= rows
    assert np.array_equal(np.concatenate([block.toarray() for _, block in blocks]), whole(vectors))


@pytest.mark.parametrize("rows", [[7, 0, 4, 8, 0], [6], []])
def test_rows_are_taken_from_whichever_part_they_are_in_in_the_order_asked_for(rows):
    one, other = sample(5), sample(4, seed=4)
    taken = SparseParts.of(one, sample(0), other).take(np.array(rows, np.int64))
    whole = SparseParts.of(csr_array(vstack([one, other]))).parts[0]
    assert taken.shape == (len(rows), one.shape[1])
    np.testing.assert_array_equal(taken.toarray(), whole.take(np.array(rows, np.int64)).toarray())


def test_rows_are_taken_in_the_order_asked_for():
    part = SparseParts.of(sample(9)).parts[0]
    assert np.array_equal(part.take(np.array([4, 0, 8, 0])).toarray(), rounded(sample(9))[[4, 0, 8, 0]])


def test_the_order_of_entries_changes_no_byte_nor_do_zeros_and_split_weights(tmp_path):
    plain = csr_array(np.array([[0, 2, 1], [0, 0, 0]], np.float32))
    untidy = csr_array((np.array([1, 0, 1.5, 0.5], np.float32), np.array([2, 0, 1, 1]), np.array([0, 4, 4])), (2, 3))
    before = untidy.data.copy()
    for name, vectors in (("a", plain), ("b", untidy)):
        write_sparse_part(tmp_path / name, vectors)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert np.array_equal(untidy.data, before)


def test_a_weight_too_small_for_half_precision_is_no_entry():
    assert SparseParts.of(csr_array(np.array([[1e-9, 1.0]], np.float32))).nonzeros == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_a_weight_that_half_precision_cannot_hold_is_refused_and_nothing_written(tmp_path, value):
    vectors = csr_array(np.array([[1, 0], [0, 0], [0, value]], np.float32))
    path = tmp_path / "part-00000.sparse"
    with pytest.raises(ValueError, match=r"passage 2 \(1 of 3\)"), write_atomic(path) as temporary:
        write_sparse_part(temporary, vectors)
    assert not list(tmp_path.iterdir())


def test_parts_of_two_widths_are_refused():
    with pytest.raises(ValueError, match=r"widths \[3, 4\]"):
        SparseParts.of(sample(2, 3), sample(2, 4))


def test_dense_parts_are_refused_by_their_kind(tmp_path):
    np.save(tmp_path / "part-00000.npy", np.eye(2, dtype=np.float16))
    with pytest.raises(ValueError, match="holds dense vectors, expected sparse vectors"):
        SparseParts.open(tmp_path)


def test_a_part_that_was_cut_short_is_refused(tmp_path):
    path = tmp_path / "part-00000.sparse"
    write_sparse_part(path, sample(3))
    np.save(path / "weights.npy", np.load(path / "weights.npy")[:-1])
    with pytest.raises(ValueError, match=r"part-00000\.sparse: the starts of the rows"):
        SparseParts.open(tmp_path)
