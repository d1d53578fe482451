"""Sparse passage vectors on disk: parts (part-00000.sparse, ...) of weights, their columns and the rows' starts.

Weights are float16, columns int32: 6 bytes a nonzero instead of 8. Half precision changes a weight by at most 0.05 %, far
less than the 8 bits that inverted indexes usually keep of it; every sum over them is taken in float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Int, Int32, Int64
from scipy.sparse import csr_array, vstack

from retort.indexes.parts import SPARSE, checked_starts, entries, half_rows, located, open_arrays, part_paths, write_arrays

_FILES = {"weights": (np.float16, 1), "columns": (np.int32, 1), "starts": (np.int64, 1), "width": (np.int64, 0)}


@dataclass(frozen=True)
class SparsePart:
    """Sparse rows as they stand on disk; `width` is the number of columns (the vocabulary of the student)."""

    weights: Float16[np.ndarray, "nonzeros"]
    columns: Int32[np.ndarray, "nonzeros"]
    starts: Int64[np.ndarray, "n_plus_1"]
    width: int

    @classmethod
    def of(cls, vectors: csr_array, what: str) -> "SparsePart":
        """The rows rounded to half precision, each column once and in order, without what is 0 then.

        ValueError, which calls the rows `what`, where a weight is not finite in half precision.
        """
        canonical = csr_array(vectors, dtype=np.float32, copy=True)
        canonical.sum_duplicates()
        half = half_rows(canonical.data, canonical.indptr.astype(np.int64), what)
        kept = half != 0
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[canonical.indptr]
        return cls(half[kept], canonical.indices[kept].astype(np.int32), starts, shape_of(canonical)[1])

    @classmethod
    def open(cls, path: Path) -> "SparsePart":
        """The part that `write` put at `path`, memory-mapped."""
        weights, columns, starts, width = open_arrays(path, _FILES)
        return cls(weights, columns, checked_starts(starts, len(weights), str(path)), int(width))

    def write(self, path: Path) -> None:
        """The part as a folder of arrays at `path`; the caller makes it atomic."""
        arrays = (self.weights, self.columns, self.starts, np.array(self.width, np.int64))
        write_arrays(path, dict(zip(_FILES, arrays, strict=True)))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: Int[np.ndarray, "n"]) -> csr_array:
        """The vectors of `rows` in float32, in that order; only their entries are read."""
        places, starts = entries(self.starts, rows)
        return csr_array((self.weights[places].astype(np.float32), self.columns[places], starts), (len(rows), self.width))


@dataclass(frozen=True)
class SparseParts:
    """The sparse vectors of a whole corpus: the parts in order, one row for each passage.

    >>> vectors = SparseParts.of(csr_array(np.eye(3)), csr_array((2, 3)))
    >>> vectors.shape, vectors.nonzeros, [block.shape[0] for _, block in vectors.blocks(2)]
    ((5, 3), 3, [2, 1, 2])
    """

    parts: tuple[SparsePart, ...]

    def __post_init__(self) -> None:
        widths = sorted({part.width for part in self.parts})
        if len(widths) != 1:
            raise ValueError(
                f"sparse parts have widths {widths}, expected at least one part and one width: encode the corpus again "
                "with one student"
            )

    @classmethod
    def of(cls, *parts: csr_array) -> "SparseParts":
        """Vectors that are in memory already, rounded to half precision like those on disk."""
        return cls(tuple(SparsePart.of(part, "vectors in memory") for part in parts))

    @classmethod
    def open(cls, folder: Path) -> "SparseParts":
        """The parts that `write_sparse_part` put into `folder`, memory-mapped. ValueError: another kind, one is missing."""
        return cls(tuple(SparsePart.open(path) for path in part_paths(folder, SPARSE)))

    @property
    def shape(self) -> tuple[int, int]:
        """Passages and columns."""
        return sum(len(part) for part in self.parts), self.parts[0].width

    @property
    def nonzeros(self) -> int:
        """The weights of all passages."""
        return sum(len(part.weights) for part in self.parts)

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, rows: int) -> Iterator[tuple[int, csr_array]]:
        """The row number of each block's first vector and the block, at most `rows` vectors from one part."""
        before = 0
        for part in self.parts:
            for start, stop in pairwise([*range(0, len(part), rows), len(part)]):
                yield before + start, part.take(np.arange(start, stop))
            before += len(part)

    def take(self, rows: Int[np.ndarray, "n"]) -> csr_array:
        """The vectors of `rows` in float32, in that order."""
        owner, place = located(map(len, self.parts), rows)
        taken = [part.take(place[owner == number]) for number, part in enumerate(self.parts)]
        return csr_array(vstack(taken))[np.argsort(np.argsort(owner, kind="stable"))]  # type: ignore[return-value]


def write_sparse_part(path: Path, vectors: csr_array) -> None:
    """A part of sparse vectors at `path`, whose name ends in ".sparse"; the caller makes it atomic.

    The same vectors give the same bytes, in whatever order their entries stood. ValueError as `SparsePart.of`.
    """
    SparsePart.of(vectors, path.name).write(path)


def shape_of(vectors: csr_array) -> tuple[int, int]:
    """Rows and columns; SciPy annotates a shape as perhaps None."""
    return vectors.shape  # type: ignore[return-value]
