"""Vector parts: what is written is what is read, and what cannot be trusted is refused."""

import numpy as np
import pytest

from retort.indexes.vectors import VectorParts, part_path, write_part

RNG_SEED = 3


def sample(rows, dimensions=4):
    return np.random.default_rng(RNG_SEED).standard_normal((rows, dimensions)).astype(np.float32)


def test_parts_come_back_rounded_to_half_precision_and_in_order(tmp_path):
    vectors = sample(7)
    write_part(tmp_path, 1, vectors[5:])
    write_part(tmp_path, 0, vectors[:5])
    opened = VectorParts.open(tmp_path)
    assert opened.shape == (7, 4)
    assert np.array_equal(opened.take(np.arange(7)), vectors.astype(np.float16).astype(np.float32))


def test_parts_are_memory_mapped(tmp_path):
    write_part(tmp_path, 0, sample(3))
    assert isinstance(VectorParts.open(tmp_path).parts[0], np.memmap)


def test_a_written_part_leaves_no_other_file(tmp_path):
    assert write_part(tmp_path, 0, sample(3)) == part_path(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.npy"]


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_blocks_of_any_size_make_the_whole(rows):
    vectors = VectorParts.of(sample(5), sample(0), sample(4))
    blocks = list(vectors.blocks(rows))
    assert [first for first, _ in blocks] == np.cumsum([0] + [len(block) for _, block in blocks])[:-1].tolist()
    assert np.array_equal(np.concatenate([block for _, block in blocks]), vectors.take(np.arange(9)))


def test_take_keeps_the_order_asked_for_across_parts():
    vectors = VectorParts.of(np.array([[0.0], [1.0]]), np.array([[2.0]]), np.array([[3.0], [4.0]]))
    assert vectors.take(np.array([4, 0, 2, 0])).ravel().tolist() == [4, 0, 2, 0]


def test_a_missing_part_in_between_is_named(tmp_path):
    write_part(tmp_path, 0, sample(2))
    write_part(tmp_path, 2, sample(2))
    with pytest.raises(ValueError, match=r"not part-00001\.npy"):
        VectorParts.open(tmp_path)


def test_a_folder_without_parts_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds 0 parts of dense vectors, but not part-00000\.npy"):
        VectorParts.open(tmp_path)


def test_parts_of_two_dimensions_are_refused(tmp_path):
    write_part(tmp_path, 0, sample(2, dimensions=3))
    write_part(tmp_path, 1, sample(2, dimensions=4))
    with pytest.raises(ValueError, match=r"dimensions \[3, 4\]"):
        VectorParts.open(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_a_value_that_half_precision_cannot_hold_is_refused_and_nothing_written(tmp_path, value):
    vectors = sample(3)
    vectors[1, 2] = value
    with pytest.raises(ValueError, match=r"part 0 .* vector 1 \(1 of 3\)"):
        write_part(tmp_path, 0, vectors)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_half_precision_is_refused(tmp_path):
    np.save(part_path(tmp_path, 0), sample(2))
    with pytest.raises(ValueError, match="is float32 with shape"):
        VectorParts.open(tmp_path)
