"""Pickles of lists, strings, numbers and numpy arrays, read without running them: a pickle is a program.

Whatever such a file calls comes from a table of inert stand-ins; numpy's own functions are not in it, because some of
them trust the description of the bytes that they are given. Anything else that a file names is refused, not imported.
"""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retort.data.rows import open_bytes

NUMBERS = ("f2", "f4", "f8", "i4", "i8")  # of embeddings, and of FAISS's row numbers


def read_arrays(path: Path) -> Any:  # noqa: ANN401 (whatever was pickled)
    """The value in a pickle, gzip or not: lists, tuples, dicts, strings, numbers and arrays of them.

    ValueError: a class or function of any other kind, by its name; an array of other things than numbers; no whole pickle.
    """
    with open_bytes(path) as file:
        unpickler = _Unpickler(file)
        try:
            return _plain(unpickler.load())
        except MemoryError:
            raise
        except Exception as error:  # a hostile pickle can make its reader raise anything
            raise ValueError(
                f"{path}: {error}; expected a pickle of lists, strings, numbers and numpy arrays of numbers; anything else "
                "can run code, and is not read: fetch the file again, or save the vectors with numpy where you trust it"
            ) from error


class _Dtype:
    """numpy.dtype while it is built: a kind of number, then its byte order."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in NUMBERS:
            raise ValueError(f"an array of {code!r}")
        self.value = np.dtype(code)

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """numpy.ndarray while it is built: nothing, then its shape, kind and bytes."""

    def __init__(self, *_: object) -> None:
        self.value = np.empty(0)

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, dtype, by_columns, data = state
        self.value = np.frombuffer(data, dtype.value).reshape(shape, order="F" if by_columns else "C")


def _from_buffer(
    data: bytes | bytearray, dtype: _Dtype, shape: tuple[int, ...], order: str, axes: Sequence[int] | None = None
) -> _Array:
    """What pickles of protocol 5 call instead."""
    array = _Array()
    values = np.frombuffer(data, dtype.value)
    plain = order if order in ("C", "F") else "C"  # "K" comes with the order of its axes
    array.value = values.reshape(shape, order=plain)
    if axes is not None:
        array.value = array.value.transpose(axes)
    return array


def _latin1(text: str, _: str = "latin1") -> bytes:
    """The bytes in pickles of protocol 2, which has no opcode for them."""
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """`bytes()`, which protocol 2 calls for an empty string; with a number it would ask for that much memory."""
    return b""


STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): _no_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        found = STAND_INS.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return found


def _plain(value: Any) -> Any:  # noqa: ANN401 (whatever was pickled)
    """The value with arrays in place of what built them."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value
