"""Pickled arrays read as data: the same as unpickled, and nothing of a file is ever run."""

import gzip
import pickle
import re

import numpy as np
import pytest

from malicious import Malicious
from retort.data.array_pickles import read_arrays

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
VALUES = {
    "float16": (["a", "wiki:2"], ROWS.astype(np.float16)),
    "float32": ROWS,
    "float64 by columns": np.asfortranarray(ROWS.astype(np.float64)),
    "a transposed cube": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(1, 0, 2),
    "other byte order": ROWS.astype(">f4"),
    "integers": np.arange(3),
    "none": np.empty((0, 4), np.float16),
    "pairs": [("a", ROWS[0]), ("b", ROWS[1])],
    "plain": {"a": [1, 2.5, None, True], "b": ("x",)},
}


def written(path, value, **options):
    path.write_bytes(pickle.dumps(value, **options))
    return path


def equal(left, right):
    if isinstance(right, np.ndarray):
        return isinstance(left, np.ndarray) and left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(right, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(equal, left, right))
    return left == right


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", VALUES)
def test_the_value_is_what_pickle_itself_reads(tmp_path, name, protocol):
    assert equal(read_arrays(written(tmp_path / "f", VALUES[name], protocol=protocol)), VALUES[name])


def test_shards_that_numpy_1_pickled_are_read_and_so_are_packed_ones(tmp_path):
    raw = pickle.dumps(VALUES["float16"], protocol=4)
    assert b"numpy._core.multiarray" in raw
    length = raw.index(b"numpy._core.multiarray") - 1
    old = raw[:length] + bytes([raw[length] - 1]) + raw[length + 1 :].replace(b"numpy._core.", b"numpy.core.", 1)
    (tmp_path / "f").write_bytes(gzip.compress(_reframed(old)))
    assert equal(read_arrays(tmp_path / "f"), VALUES["float16"])


def _reframed(raw):
    """A protocol 4 pickle whose frame is one byte shorter than it says."""
    return raw[:3] + (int.from_bytes(raw[3:11], "little") - 1).to_bytes(8, "little") + raw[11:]


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_is_refused_by_name_and_never_run(tmp_path, protocol):
    victim = tmp_path / "was-run"
    for place, value in enumerate([Malicious(f"touch {victim}"), (["a"], Malicious(f"touch {victim}"))]):
        path = written(tmp_path / str(place), value, protocol=protocol)
        with pytest.raises(ValueError, match=r"it names \w+\.system; expected a pickle of lists.* can run code"):
            read_arrays(path)
    assert not victim.exists()
    pickle.loads(path.read_bytes())  # the same file is dangerous
    assert victim.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array(["a"], object), "an array of 'O8'"),
        (np.array(["a"]), "an array of 'U1'"),
        (np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]), "an array of 'V8'"),
        (np.float32(1.0), r"it names numpy\._core\.multiarray\.scalar"),
        (re.compile("a"), r"it names re\._compile"),
    ],
    ids=["objects", "strings", "records", "scalar", "pattern"],
)
def test_other_things_than_arrays_of_numbers_are_refused(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        read_arrays(written(tmp_path / "f", value, protocol=4))


class Greedy:
    """A pickle of a few bytes that asks for a petabyte of them."""

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return bytes, (10**15,)


def test_a_file_cannot_ask_for_more_memory_than_it_has(tmp_path):
    with pytest.raises(ValueError, match=r"positional arguments.*; expected a pickle of lists"):
        read_arrays(written(tmp_path / "f", Greedy(), protocol=2))


def test_an_array_of_other_bytes_than_its_shape_wants_is_refused(tmp_path):
    raw = pickle.dumps(ROWS, protocol=4)
    assert raw.count(b"K\x03K\x04\x86") == 1
    (tmp_path / "f").write_bytes(raw.replace(b"K\x03K\x04\x86", b"K\x63K\x63\x86"))
    with pytest.raises(ValueError, match="cannot reshape array of size 12"):
        read_arrays(tmp_path / "f")


@pytest.mark.parametrize("length", [0, 2, 30, 100])
def test_a_file_that_breaks_off_is_refused(tmp_path, length):
    (tmp_path / "f").write_bytes(pickle.dumps(VALUES["float16"])[:length])
    with pytest.raises(ValueError, match="expected a pickle of lists"):
        read_arrays(tmp_path / "f")
