"""Token parts: what is written is what is read, cut anywhere, and what cannot be trusted is refused."""

import numpy as np
import pytest

from retort.indexes.token_vectors import TokenParts, cut, write_token_part
from retort.store import write_atomic, write_parts
from retort.tensors import TokenVectors


def texts(*lengths, dimensions=3, seed=4):
    vectors = np.random.default_rng(seed).standard_normal((sum(lengths), dimensions)).astype(np.float32)
    return TokenVectors(vectors, np.cumsum([0, *lengths]))


FIRST, NONE, LAST = texts(2, 0, 3, 1), texts(), texts(0, 4, seed=5)


def matrices(vectors):
    return [vectors[row].tolist() for row in range(len(vectors))]


def rounded(*parts):
    return [part[row].astype(np.float16).tolist() for part in parts for row in range(len(part))]


def test_parts_come_back_rounded_to_half_precision_and_in_order(tmp_path):
    parts = [FIRST, NONE, LAST]
    write_parts(tmp_path, 3, lambda part, path: write_token_part(path, parts[part]), ending=".tokens")
    opened = TokenParts.open(tmp_path / "parts")
    assert (len(opened), opened.tokens, opened.dimensions) == (6, 10, 3)
    assert isinstance(opened.parts[0].vectors, np.memmap)
    assert matrices(opened.take(np.arange(6))) == rounded(*parts)


@pytest.mark.parametrize("tokens", [1, 2, 4, 100])
def test_blocks_of_any_size_make_the_whole_and_keep_to_it_where_a_passage_fits(tokens):
    blocks = list(TokenParts.of(FIRST, NONE, LAST).blocks(tokens))
    assert [first for first, _ in blocks] == np.cumsum([0] + [len(block) for _, block in blocks])[:-1].tolist()
    assert all(len(block.vectors) <= tokens or len(block) == 1 for _, block in blocks)
    assert [matrix for _, block in blocks for matrix in matrices(block)] == rounded(FIRST, LAST)


def test_rows_are_taken_in_the_order_asked_for_across_parts():
    taken = TokenParts.of(FIRST, LAST).take(np.array([5, 1, 0, 5, 4]))
    assert matrices(taken) == [rounded(FIRST, LAST)[row] for row in (5, 1, 0, 5, 4)]
    assert taken.vectors.dtype == np.float32


def test_no_row_taken_gives_no_matrix():
    taken = TokenParts.of(FIRST).take(np.empty(0, np.int32))
    assert (len(taken), taken.vectors.shape) == (0, (0, 3))


def test_a_cut_starts_from_0_again():
    part = cut(FIRST, 1, 4)
    assert part.starts.tolist() == [0, 0, 3, 4]
    assert np.array_equal(part.vectors, FIRST.vectors[2:])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_a_value_that_half_precision_cannot_hold_is_refused_and_nothing_written(tmp_path, value):
    bad = texts(2, 0, 3)
    bad.vectors[4, 1] = value
    path = tmp_path / "part-00000.tokens"
    with pytest.raises(ValueError, match=r"passage 2 \(1 of 3\)"), write_atomic(path) as temporary:
        write_token_part(temporary, bad)
    assert not list(tmp_path.iterdir())


def test_starts_that_do_not_reach_the_last_vector_are_refused(tmp_path):
    with pytest.raises(ValueError, match="do not rise from 0 to the 2 entries"):
        write_token_part(tmp_path / "part-00000.tokens", TokenVectors(np.zeros((2, 3), np.float32), np.array([0, 1])))


def test_parts_of_two_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"dimensions \[3, 4\]"):
        TokenParts.of(texts(2), texts(2, dimensions=4))


@pytest.mark.parametrize(("name", "held"), [("part-00000.npy", "dense"), ("part-00000.sparse", "sparse")])
def test_parts_of_another_kind_are_refused_by_name(tmp_path, name, held):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"holds {held} vectors, expected token vectors"):
        TokenParts.open(tmp_path)
