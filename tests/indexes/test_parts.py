"""Parts of ragged rows: named by their kind, in order, and refused where they cannot be what they say."""

import numpy as np
import pytest

from retort.indexes.parts import SPARSE, TOKENS, checked_starts, entries, half_rows, open_arrays, part_paths, write_arrays

STARTS = np.array([0, 2, 2, 5])


def folder_of(path, *names):
    for name in names:
        (path / name).mkdir()
    return path


def test_entries_of_rows_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    starts = np.cumsum(np.r_[0, rng.integers(0, 4, 30)])
    rows = rng.integers(0, 30, 50)
    places, after = entries(starts, rows)
    expected = [list(range(starts[row], starts[row + 1])) for row in rows]
    assert places.tolist() == [place for one in expected for place in one]
    assert np.diff(after).tolist() == [len(one) for one in expected]


def test_parts_stand_in_the_order_of_their_numbers_and_temporary_ones_do_not_count(tmp_path):
    folder_of(tmp_path, "part-00001.tokens", "part-00000.tokens", ".part-00002.tokens.tmp")
    assert [path.name for path in part_paths(tmp_path, TOKENS)] == ["part-00000.tokens", "part-00001.tokens"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["part-00000.npy"], r"holds dense vectors, expected token vectors \(part-00000\.tokens\): build the kind of index"),
        (["part-00000.sparse"], "holds sparse vectors, expected token vectors"),
        (["part-00000.tokens", "part-00002.tokens"], r"holds 2 parts of token vectors, but not part-00001\.tokens"),
        ([], r"holds 0 parts of token vectors, but not part-00000\.tokens: encode the corpus to the end"),
    ],
)
def test_what_is_no_whole_corpus_of_the_kind_is_refused(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        part_paths(folder_of(tmp_path, *names), TOKENS)


def test_arrays_come_back_memory_mapped(tmp_path):
    write_arrays(tmp_path / "a", {"starts": STARTS, "width": np.array(7)})
    starts, width = open_arrays(tmp_path / "a", {"starts": (np.int64, 1), "width": (np.int64, 0)})
    assert isinstance(starts, np.memmap)
    assert (starts.tolist(), int(width)) == ([0, 2, 2, 5], 7)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"starts": (np.int32, 1)}, "int64 with shape"),
        ({"starts": (np.int64, 2)}, "2 axes"),
        ({"more": (np.int64, 1)}, "more"),
    ],
)
def test_arrays_of_another_layout_are_refused(tmp_path, wanted, message):
    write_arrays(tmp_path / f"part-00000{SPARSE}", {"starts": STARTS})
    with pytest.raises(ValueError, match=message):
        open_arrays(tmp_path / f"part-00000{SPARSE}", wanted)


@pytest.mark.parametrize("starts", [[], [1, 5], [0, 4], [0, 6], [0, 3, 2, 5]])
def test_starts_that_do_not_cut_the_entries_into_rows_are_refused(starts):
    with pytest.raises(ValueError, match="do not rise from 0 to the 5 entries"):
        checked_starts(np.array(starts, np.int64), 5, "it")


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e5])
@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_a_value_that_half_precision_cannot_hold_is_refused_with_its_passage(shape, value):
    values = np.ones(shape, np.float32)
    values.reshape(5, -1)[3, -1] = value
    with pytest.raises(ValueError, match=r"it, passage 2 \(1 of 3\)"):
        half_rows(values, STARTS, "it")
