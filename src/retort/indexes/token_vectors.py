"""Token vectors of the passages on disk: parts (part-00000.tokens, ...) of float16 vectors and the passages' starts.

Half precision as for dense vectors; every product is taken in float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from retort.indexes.parts import TOKENS, checked_starts, half_rows, located, open_arrays, part_paths, write_arrays
from retort.tensors import TokenVectors

_FILES = {"vectors": (np.float16, 2), "starts": (np.int64, 1)}


@dataclass(frozen=True)
class TokenParts:
    """The token vectors of a whole corpus: the parts in order, one matrix for each passage.

    >>> some = TokenVectors(np.eye(3, dtype=np.float32), np.array([0, 2, 2, 3]))  # the second passage has no token
    >>> parts = TokenParts.of(some, some)
    >>> len(parts), parts.tokens, [(first, len(block)) for first, block in parts.blocks(2)]
    (6, 6, [(0, 2), (2, 1), (3, 2), (5, 1)])
    """

    parts: tuple[TokenVectors, ...]

    def __post_init__(self) -> None:
        widths = sorted({part.vectors.shape[1] for part in self.parts})
        if len(widths) != 1:
            raise ValueError(
                f"token parts have dimensions {widths}, expected at least one part and one dimension: encode the corpus "
                "again with one student"
            )

    @classmethod
    def of(cls, *parts: TokenVectors) -> "TokenParts":
        """Vectors that are in memory already, rounded to half precision like those on disk."""
        return cls(tuple(_half(part, "vectors in memory") for part in parts))

    @classmethod
    def open(cls, folder: Path) -> "TokenParts":
        """The parts that `write_token_part` put into `folder`, memory-mapped. ValueError: another kind, one is missing."""
        return cls(tuple(_opened(path) for path in part_paths(folder, TOKENS)))

    @property
    def tokens(self) -> int:
        """The vectors of all passages."""
        return sum(len(part.vectors) for part in self.parts)

    @property
    def dimensions(self) -> int:
        """The dimension of a vector."""
        return self.parts[0].vectors.shape[1]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def blocks(self, tokens: int) -> Iterator[tuple[int, TokenVectors]]:
        """The row of each block's first passage and the block in float32: at most `tokens` vectors, or one passage."""
        before = 0
        for part in self.parts:
            start = 0
            while start < len(part):
                fitting = int(np.searchsorted(part.starts, part.starts[start] + tokens, side="right")) - 1
                stop = max(start + 1, fitting)
                yield before + start, cut(part, start, stop)
                start = stop
            before += len(part)

    def take(self, rows: Int[np.ndarray, "n"]) -> TokenVectors:
        """The matrices of `rows` in float32, in that order; only these are read."""
        owners, places = located(map(len, self.parts), rows)
        matrices = [self.parts[owner][row] for owner, row in zip(owners.tolist(), places.tolist(), strict=True)]
        starts = np.cumsum([0] + [len(matrix) for matrix in matrices])
        none = np.empty((0, self.dimensions))
        return TokenVectors(np.concatenate([none, *matrices], dtype=np.float32), starts)


def write_token_part(path: Path, vectors: TokenVectors) -> None:
    """A part of token vectors at `path`, whose name ends in ".tokens"; the caller makes it atomic.

    ValueError where a value is not finite in half precision, or the starts do not cut the vectors into passages.
    """
    half = _half(vectors, path.name)
    write_arrays(path, {"vectors": half.vectors, "starts": half.starts})


def cut(vectors: TokenVectors, start: int, stop: int) -> TokenVectors:
    """The texts from `start` to `stop` in float32."""
    starts = vectors.starts[start : stop + 1]
    return TokenVectors(vectors.vectors[starts[0] : starts[-1]].astype(np.float32), starts - starts[0])


def _half(vectors: TokenVectors, what: str) -> TokenVectors:
    starts = checked_starts(vectors.starts, len(vectors.vectors), what)
    return TokenVectors(half_rows(vectors.vectors, starts, what), starts)


def _opened(path: Path) -> TokenVectors:
    vectors, starts = open_arrays(path, _FILES)
    return TokenVectors(vectors, checked_starts(starts, len(vectors), str(path)))
