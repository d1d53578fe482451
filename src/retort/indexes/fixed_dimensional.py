"""Fixed-dimensional encodings of token vectors (MUVERA, Dhulipala et al., arXiv 2405.19504).

One vector for a whole query and one for a whole passage, whose inner product estimates their MaxSim. Random hyperplanes cut
the space into cells (SimHash); a query adds up its tokens in each cell, a passage takes the mean of its own there, and in a
cell where it has none, its token with the nearest sign pattern. Without projections an estimate never exceeds MaxSim: a mean
of a passage's tokens scores no higher with a query's token than the best of them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from scipy.sparse import csr_array

from retort.indexes.parts import open_arrays, write_arrays
from retort.tensors import TokenVectors

_FILES = {"planes": (np.float32, 3), "projections": (np.float32, 3), "last": (np.float32, 2)}


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """How finely encodings are cut: repetitions x 2^planes x projected dimensions, or `last` where it is given.

    The default lies in the grid that the paper searches (section 3.1), which found repetitions to help more than finer cells
    or wider projections. `projected` None keeps a token's own dimensions; `last` projects the whole once more.
    ValueError: a number below 1, more than 8 planes (256 cells).
    """

    repetitions: int = 20
    planes: int = 4
    projected: int | None = 8
    last: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.repetitions, self.planes, self.projected, self.last)
        if any(number is not None and number < 1 for number in numbers) or self.planes > 8:
            raise ValueError(f"{self}: expected at least 1 everywhere and at most 8 planes (the paper: 20, 3 to 5, 8 or 16)")


@dataclass(frozen=True)
class FixedDimensional:
    """One draw of the random planes and projections. `draw` makes one, `open` opens one that `write` wrote.

    >>> encoding = FixedDimensional.draw(2, EncodingSettings(repetitions=3, planes=1, projected=None), seed=0)
    >>> text = TokenVectors(np.eye(2, dtype=np.float32), np.array([0, 2]))
    >>> encoding.queries(text).shape
    (1, 12)
    """

    planes: Float32[np.ndarray, "R D S"]
    projections: Float32[np.ndarray, "R D P"]  # P is 0: tokens keep their own dimensions
    last: Float32[np.ndarray, "_ F"]  # 0 rows: no last projection

    @classmethod
    def draw(cls, dimensions: int, settings: EncodingSettings, *, seed: int) -> "FixedDimensional":
        """The planes and projections for tokens of `dimensions`; the same seed draws the same."""
        rng = np.random.default_rng(seed)
        planes = rng.standard_normal((settings.repetitions, dimensions, settings.planes), dtype=np.float32)
        projections = _signs(rng, (settings.repetitions, dimensions, settings.projected or 0))
        whole = settings.repetitions * 2**settings.planes * (settings.projected or dimensions)
        last = _signs(rng, (whole, settings.last)) if settings.last else np.empty((0, whole), np.float32)
        return cls(planes, projections, last)

    @classmethod
    def open(cls, path: Path) -> "FixedDimensional":
        """The draw that `write` put at `path`."""
        return cls(*open_arrays(path, _FILES))

    def write(self, path: Path) -> None:
        """The draw as arrays, since a later NumPy may draw others from the same seed. The caller makes it atomic."""
        write_arrays(path, {name: getattr(self, name) for name in _FILES})

    @property
    def dimensions(self) -> int:
        """The dimensions of an encoding."""
        return self.last.shape[1]

    def queries(self, tokens: TokenVectors) -> Float32[np.ndarray, "Q F"]:
        """The encodings of queries: the sums of their tokens' projections in each cell, over the repetitions."""
        return self._encoded(tokens, fill=False) / np.float32(len(self.planes))

    def passages(self, tokens: TokenVectors) -> Float32[np.ndarray, "n F"]:
        """The encodings of passages: means in each cell, an empty cell filled; all 0 for a passage without a token."""
        return self._encoded(tokens, fill=True)

    def _encoded(self, tokens: TokenVectors, *, fill: bool) -> Float32[np.ndarray, "n F"]:
        cells = 2 ** self.planes.shape[2]
        repetitions = [np.empty((len(tokens), 0), np.float32)]
        for planes, projection in zip(self.planes, self.projections, strict=True):
            codes = (tokens.vectors @ planes > 0) @ (1 << np.arange(planes.shape[1]))
            projected = tokens.vectors @ projection if projection.shape[1] else tokens.vectors
            spread = _spread(codes, tokens.starts, cells, fill=fill)
            repetitions.append((spread @ projected).reshape(len(tokens), cells * projected.shape[1]))
        encoded = np.concatenate(repetitions, axis=1)
        return encoded @ self.last if len(self.last) else encoded


def _spread(codes: Int64[np.ndarray, "t"], starts: Int64[np.ndarray, "n_plus_1"], cells: int, *, fill: bool) -> csr_array:
    """How much each token (column) adds to each cell of its text (row text * cells + cell).

    With `fill` the tokens of a cell share it, and an empty cell takes the token whose sign pattern differs in the fewest
    planes, the first of them where several do.
    """
    lengths, tokens = np.diff(starts), np.arange(len(codes))
    places = np.repeat(np.arange(len(lengths)), lengths) * cells + codes
    shape = (len(lengths) * cells, len(codes))
    if not fill or not len(codes):
        return csr_array((np.ones(len(codes), np.float32), (places, tokens)), shape)
    counts = np.bincount(places, minlength=shape[0])
    texts = np.flatnonzero(lengths)
    differing = np.bitwise_count(codes[:, None] ^ np.arange(cells)).astype(np.int64)
    nearest = np.minimum.reduceat(differing * len(codes) + tokens[:, None], starts[texts], axis=0) % len(codes)
    text, cell = np.nonzero(counts.reshape(-1, cells)[texts] == 0)
    weights = np.concatenate([1 / counts[places], np.ones(len(text))]).astype(np.float32)
    rows = np.concatenate([places, texts[text] * cells + cell])
    return csr_array((weights, (rows, np.concatenate([tokens, nearest[text, cell]]))), shape)


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """A random projection onto the last axis of `shape`, which keeps inner products in expectation (Achlioptas 2003)."""
    return (rng.integers(0, 2, shape, dtype=np.int8) * 2 - 1) / np.sqrt(max(1, shape[-1]), dtype=np.float32)
