"""Passage vectors on disk: float16 parts (part-00000.npy, part-00001.npy, ...), memory-mapped, in the corpus's order.

Half precision halves the disk and changes a cosine by less than 0.001; every sum over them is taken in float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float16, Float32, Int

from retort.indexes.parts import DENSE, located, part_paths
from retort.store import write_atomic


@dataclass(frozen=True)
class VectorParts:
    """The vectors of a whole corpus: the parts in order, one row for each passage.

    >>> vectors = VectorParts.of(np.eye(3), np.ones((2, 3)))
    >>> vectors.shape, [len(block) for _, block in vectors.blocks(2)]
    ((5, 3), [2, 1, 2])
    """

    parts: tuple[Float16[np.ndarray, "_ D"], ...]

    def __post_init__(self) -> None:
        widths = [part.shape[1] for part in self.parts]
        if not widths or len(set(widths)) > 1:
            raise ValueError(
                f"vector parts have dimensions {widths}, expected at least one part and one dimension: "
                "encode the corpus again with one student"
            )

    @classmethod
    def of(cls, *parts: Float[np.ndarray, "_ D"]) -> "VectorParts":
        """Vectors that are in memory already, rounded to half precision like those on disk."""
        return cls(tuple(half_precision(part, "vectors in memory") for part in parts))

    @classmethod
    def open(cls, folder: Path) -> "VectorParts":
        """The parts that `write_part` put into `folder`, memory-mapped. ValueError where one is missing in between."""
        return cls(tuple(_mapped(path) for path in part_paths(folder, DENSE)))

    @property
    def shape(self) -> tuple[int, int]:
        """Passages and dimensions."""
        return sum(len(part) for part in self.parts), self.parts[0].shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, rows: int) -> Iterator[tuple[int, Float32[np.ndarray, "n D"]]]:
        """The row number of each block's first vector and the block, at most `rows` vectors from one part."""
        before = 0
        for part in self.parts:
            for start in range(0, len(part), rows):
                yield before + start, part[start : start + rows].astype(np.float32)
            before += len(part)

    def take(self, rows: Int[np.ndarray, "n"]) -> Float32[np.ndarray, "n D"]:
        """The vectors of `rows`, in that order."""
        owner, place = located(map(len, self.parts), rows)
        taken = np.empty((len(rows), self.shape[1]), np.float32)
        for number in np.unique(owner):
            mine = owner == number
            taken[mine] = self.parts[number][place[mine]]
        return taken


def part_path(folder: Path, number: int) -> Path:
    """Where part `number` of the vectors in `folder` stands.

    >>> part_path(Path("encode"), 3).as_posix()
    'encode/part-00003.npy'
    """
    return folder / f"part-{number:05d}.npy"


def write_part(folder: Path, number: int, vectors: Float[np.ndarray, "n D"]) -> Path:
    """The path of part `number`, whole or not there. ValueError where a value is not finite in half precision."""
    path = part_path(folder, number)
    with write_atomic(path) as temporary:
        write_vector_part(temporary, vectors, f"part {number} of {folder}")
    return path


def write_vector_part(path: Path, vectors: Float[np.ndarray, "n D"], what: str | None = None) -> None:
    """A part of vectors at `path`; the caller makes it atomic. ValueError as `half_precision`, by `what` or the name."""
    half = half_precision(vectors, what or path.name)
    with path.open("wb") as sink:  # np.save would append ".npy" to a temporary file's name, but not to an open file
        np.save(sink, half)


def half_precision(vectors: Float[np.ndarray, "n D"], what: str) -> Float16[np.ndarray, "n D"]:
    """The vectors as they stand on disk. ValueError, which calls them `what`, where a value is not finite then."""
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(vectors, dtype=np.float16)
    bad = ~np.isfinite(half).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{what}, vector {row} ({bad.sum()} of {len(half)}): the largest of its values is "
            f"{np.abs(vectors[row]).max()}, expected finite values below 65,504 (half precision); "
            "look at the passage and the student, or normalise the vectors"
        )
    return half


def _mapped(path: Path) -> Float16[np.ndarray, "n D"]:
    part = np.load(path, mmap_mode="r")
    if part.dtype != np.float16 or part.ndim != 2:
        raise ValueError(
            f"{path} is {part.dtype} with shape {part.shape}, expected float16 [passages, dimensions]: "
            "write it with write_part"
        )
    return part
