"""Parts whose rows differ in length: flat NumPy arrays in one folder a part, memory-mapped, in the corpus's order.

Row i of a part stands from starts[i] to starts[i + 1] of the flat arrays. What the rows are (sparse vectors, token vectors)
is in the files that use this one; the ending of a part's name tells it, so that no index opens parts of another kind.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float16, Int, Int64

DENSE, SPARSE, TOKENS = ".npy", ".sparse", ".tokens"
HOLDS = {DENSE: "dense vectors", SPARSE: "sparse vectors", TOKENS: "token vectors"}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """The folder `path` with one .npy file for each array. The caller makes it atomic (`store.write_atomic`)."""
    path.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)


def open_arrays(path: Path, kinds: Mapping[str, tuple[type[np.generic], int]]) -> list[np.ndarray]:
    """The arrays that `write_arrays` put into `path`, memory-mapped. ValueError where a dtype or number of axes differs."""
    arrays = []
    for name, (dtype, axes) in kinds.items():
        if not (path / f"{name}.npy").is_file():
            raise ValueError(f"{path} does not hold {name}.npy, expected {', '.join(kinds)}: remove it and write it again")
        array = np.load(path / f"{name}.npy", mmap_mode="r")
        if array.dtype != dtype or array.ndim != axes:
            raise ValueError(
                f"{path}/{name}.npy is {array.dtype} with shape {array.shape}, expected {np.dtype(dtype)} with {axes} axes: "
                "remove the part and write it again"
            )
        arrays.append(array)
    return arrays


def part_paths(folder: Path, ending: str) -> list[Path]:
    """The parts of one kind in order. ValueError where there are only parts of another kind, none, or one is missing."""
    found = sorted(folder.glob(f"part-*{ending}"))
    others = {path.suffix for path in folder.glob("part-*")} - {ending}
    if others and not found:
        held = " and ".join(sorted(HOLDS.get(other, f"parts named *{other}") for other in others))
        raise ValueError(
            f"{folder} holds {held}, expected {HOLDS[ending]} (part-00000{ending}): build the kind of index that the "
            "student's vectors are for, or encode the corpus with a student of the other kind"
        )
    expected = [folder / f"part-{number:05d}{ending}" for number in range(len(found))]
    if not found or found != expected:
        missing = min({*expected, folder / f"part-00000{ending}"} - {*found})
        raise ValueError(
            f"{folder} holds {len(found)} parts of {HOLDS[ending]}, but not {missing.name}: encode the corpus to the end"
        )
    return found


def located(lengths: Iterable[int], rows: Int[np.ndarray, "n"]) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """The number of the part that holds each row of the corpus, and its row there.

    >>> [values.tolist() for values in located([2, 0, 3], np.array([4, 0, 2]))]
    [[2, 0, 2], [2, 0, 0]]
    """
    firsts = np.cumsum([0, *lengths])
    owners = np.searchsorted(firsts, rows, side="right") - 1
    return owners, rows - firsts[owners]


def checked_starts(starts: Int64[np.ndarray, "n_plus_1"], flat: int, what: str) -> Int64[np.ndarray, "n_plus_1"]:
    """The starts, where they cut `flat` entries into rows. ValueError, which calls them `what`, where they do not."""
    if not len(starts) or starts[0] != 0 or starts[-1] != flat or (np.diff(starts) < 0).any():
        raise ValueError(
            f"{what}: the starts of the rows do not rise from 0 to the {flat} entries there are, expected one start for "
            "each row and the end: write the part again"
        )
    return starts


def half_rows(
    values: Float[np.ndarray, "entries *D"], starts: Int64[np.ndarray, "n_plus_1"], what: str
) -> Float16[np.ndarray, "entries *D"]:
    """The values as they stand on disk. ValueError, which names the passage, where one is not finite in half precision."""
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(values, dtype=np.float16)
    bad = np.flatnonzero(~np.isfinite(half).all(axis=tuple(range(1, half.ndim))))
    if len(bad):
        rows = np.unique(np.searchsorted(starts, bad, side="right") - 1)
        raise ValueError(
            f"{what}, passage {rows[0]} ({len(rows)} of {len(starts) - 1}): the largest of its values is "
            f"{np.abs(values[bad[0]]).max()}, expected finite values below 65,504 (half precision); look at the passage and "
            "the student (a diverged training is usual)"
        )
    return half


def entries(
    starts: Int64[np.ndarray, "n_plus_1"], rows: Int[np.ndarray, "m"]
) -> tuple[Int64[np.ndarray, "taken"], Int64[np.ndarray, "m_plus_1"]]:
    """Where the entries of some rows stand, row after row, and the starts of the rows among these.

    >>> [array.tolist() for array in entries(np.array([0, 2, 2, 5]), np.array([2, 1, 0]))]
    [[2, 3, 4, 0, 1], [0, 3, 3, 5]]
    """
    first, lengths = starts[rows], starts[rows + 1] - starts[rows]
    after = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return np.arange(after[-1]) + np.repeat(first - after[:-1], lengths), after
