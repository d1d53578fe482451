"""The index of a late-interaction student: MaxSim over the whole corpus, exact up to a size, approximate above it.

Above it, fixed-dimensional encodings (MUVERA, arXiv 2405.19504) name candidates through a dense index, and the candidates
alone get their exact MaxSim. What the short cut loses is to be measured on each corpus (`best.recall`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, Int64

from retort.indexes.best import best_of_blocks, check_k
from retort.indexes.dense import DenseIndex
from retort.indexes.fixed_dimensional import EncodingSettings, FixedDimensional
from retort.indexes.token_vectors import TokenParts, cut
from retort.indexes.vectors import VectorParts, half_precision, write_part
from retort.store import read_json, remove, write_atomic, write_json
from retort.tensors import TokenVectors

RECORD_FILE, ENCODING, ENCODED, DENSE = "multi_vector.json", "encoding", "encoded", "dense"
# a tile of products is 32 MB with ColBERT's 32 tokens a query
QUERY_BATCH, BLOCK_TOKENS = 32, 8192
PART_ROWS = 50_000  # encodings in one file
EXACT_UP_TO = 50_000  # passages; 100 tokens of 128 dimensions each are then 40 GFLOP a query, about a second on one core

Found = tuple[list[Float32[np.ndarray, "_"]], list[Int32[np.ndarray, "_"]]]


@dataclass(frozen=True)
class MultiVectorIndex:
    """Passages by MaxSim. `build` makes one over token parts, `load` opens one that `save` wrote.

    `encoding` and `encoded` are there where the index is approximate. `candidates` are re-scored for a query.

    >>> passages = TokenVectors(np.array([[1, 0], [0, 1], [1, 1]], np.float32), np.array([0, 2, 3]))
    >>> index = MultiVectorIndex.build(TokenParts.of(passages))
    >>> scores, rows = index.search(TokenVectors(np.array([[2, 1], [0, 3]], np.float32), np.array([0, 2])), 2)
    >>> rows[0].tolist(), scores[0].tolist()
    ([1, 0], [6.0, 5.0])
    """

    tokens: TokenParts
    candidates: int
    encoding: FixedDimensional | None = None
    encoded: DenseIndex | None = None

    @classmethod
    def build(
        cls,
        tokens: TokenParts,
        *,
        exact_up_to: int = EXACT_UP_TO,
        candidates: int = 1000,
        settings: EncodingSettings | None = None,
        dense: Callable[[VectorParts], DenseIndex] = DenseIndex.build,
        seed: int = 0,
    ) -> "MultiVectorIndex":
        """An index over `tokens`: exact for at most `exact_up_to` passages, else with encodings drawn from `seed`.

        `dense` makes the index of the encodings, flat where it is left out; they are held in memory until saved, in half
        precision (5 KB a passage by default). ValueError: `candidates` below 1.
        """
        if candidates < 1:
            raise ValueError(f"candidates is {candidates}, expected at least 1: how many passages get their exact MaxSim")
        if len(tokens) <= exact_up_to:
            return cls(tokens, candidates)
        encoding = FixedDimensional.draw(tokens.dimensions, settings or EncodingSettings(), seed=seed)
        encoded = np.empty((len(tokens), encoding.dimensions), np.float16)
        for first_row, block in tokens.blocks(BLOCK_TOKENS):
            what = f"encodings of the passages from {first_row}"
            encoded[first_row : first_row + len(block)] = half_precision(encoding.passages(block), what)
        return cls(tokens, candidates, encoding, dense(VectorParts.of(encoded)))

    def save(self, folder: Path) -> None:
        """Writes what is not in the token parts into `folder`, the record last; the same index gives the same bytes."""
        (folder / RECORD_FILE).unlink(missing_ok=True)
        for name in (ENCODING, ENCODED, DENSE):
            remove(folder / name)
        if self.encoding is not None and self.encoded is not None:
            with write_atomic(folder / ENCODING) as path:
                self.encoding.write(path)
            for number, (_, block) in enumerate(self.encoded.vectors.blocks(PART_ROWS)):
                write_part(folder / ENCODED, number, block)
            self.encoded.save(folder / DENSE)
        facts = {"passages": len(self), "tokens": self.tokens.tokens, "dimensions": self.tokens.dimensions}
        write_json(folder / RECORD_FILE, {**facts, "candidates": self.candidates, "exact": self.exact})

    @classmethod
    def load(cls, folder: Path, tokens: TokenParts) -> "MultiVectorIndex":
        """The index that `save` put into `folder`, memory-mapped. ValueError where `tokens` are not its own."""
        if not (folder / RECORD_FILE).is_file():
            raise ValueError(
                f"{folder} holds no multi-vector index: expected {RECORD_FILE} there; MultiVectorIndex.save writes it, for "
                "the token vectors of a late-interaction student"
            )
        record = read_json(folder / RECORD_FILE)
        given = (len(tokens), tokens.tokens, tokens.dimensions)
        if (record["passages"], record["tokens"], record["dimensions"]) != given:
            raise ValueError(
                f"the index in {folder} is over {record['passages']} passages with {record['tokens']} vectors of "
                f"{record['dimensions']} dimensions, but {given[0]} with {given[1]} of {given[2]} were given: build the "
                "index again from these vectors"
            )
        if record["exact"]:
            return cls(tokens, record["candidates"])
        encoded = DenseIndex.load(folder / DENSE, VectorParts.open(folder / ENCODED))
        return cls(tokens, record["candidates"], FixedDimensional.open(folder / ENCODING), encoded)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def exact(self) -> bool:
        """Whether every passage gets its MaxSim."""
        return self.encoded is None

    def search(self, queries: TokenVectors, k: int) -> Found:
        """Scores and corpus rows of each query's best `k`, best first; equal scores stand in corpus order.

        Scores are exact MaxSim in either case; an approximate index may miss passages, and always re-scores `k` at least.
        Fewer where the corpus has fewer. A passage or a query without a token scores 0. ValueError: a dimension that
        does not match, a query that is not finite.
        """
        self._check(queries, k)
        if self.encoding is None or self.encoded is None:
            scores, rows = exact_maxsim(self.tokens, queries, k)
            return list(scores), list(rows)
        found: Found = ([], [])
        for start in range(0, len(queries), QUERY_BATCH):
            batch = cut(queries, start, min(start + QUERY_BATCH, len(queries)))
            _, candidates = self.encoded.search(self.encoding.queries(batch), max(k, self.candidates))
            for number, rows in enumerate(candidates):
                rows = np.sort(rows)  # so that a stable sort leaves ties in corpus order
                scores = maxsim_scores(cut(batch, number, number + 1), self.tokens.take(rows))[0]
                order = np.argsort(-scores, kind="stable")[:k]
                found[0].append(scores[order])
                found[1].append(rows[order])
        return found

    def _check(self, queries: TokenVectors, k: int) -> None:
        if queries.vectors.shape[1] != self.tokens.dimensions:
            raise ValueError(
                f"the queries have {queries.vectors.shape[1]} dimensions, the index has {self.tokens.dimensions}: encode "
                "the queries with the student that encoded the passages, or encode the corpus again"
            )
        bad = np.flatnonzero(~np.isfinite(queries.vectors).all(axis=1))
        if len(bad):
            query = int(np.searchsorted(queries.starts, bad[0], side="right")) - 1
            raise ValueError(
                f"query {query} of {len(queries)} holds NaN or infinity, expected finite values: look at the student (a "
                "diverged training is usual)"
            )
        check_k(k)


def exact_maxsim(
    tokens: TokenParts, queries: TokenVectors, k: int, *, block_tokens: int = BLOCK_TOKENS
) -> tuple[Float32[np.ndarray, "Q n"], Int32[np.ndarray, "Q n"]]:
    """Scores and rows of the best n = min(k, passages) of each query over the whole corpus, block by block."""
    return best_of_blocks(
        tokens.blocks(block_tokens),
        lambda span, block: maxsim_scores(cut(queries, span.start, span.stop), block),
        queries=len(queries),
        passages=len(tokens),
        k=k,
        query_batch=QUERY_BATCH,
    )


def maxsim_scores(queries: TokenVectors, passages: TokenVectors) -> Float32[np.ndarray, "Q n"]:
    """The MaxSim of every query with every passage, in one product of all their tokens; `tensors.maxsim` without padding.

    As fast as the product alone where measured (one core, 45,000 tokens of 128 dimensions, 8 queries of 32: 73 ms, of which
    69 the product); padding the passages took seven times that.

    >>> one, other = np.array([[1, 0]], np.float32), np.array([[3, 4], [-3, 4]], np.float32)
    >>> maxsim_scores(TokenVectors(one, np.array([0, 1])), TokenVectors(other, np.array([0, 1, 2, 2]))).tolist()
    [[3.0, -3.0, 0.0]]
    """
    best = _reduced(np.maximum, queries.vectors @ passages.vectors.T, passages.starts, axis=1)
    return _reduced(np.add, best, queries.starts, axis=0)


def _reduced(
    how: np.ufunc, values: Float32[np.ndarray, "a b"], starts: Int64[np.ndarray, "n_plus_1"], *, axis: int
) -> Float32[np.ndarray, "c d"]:
    """The values of each text reduced along `axis`; 0 for a text without a token (reduceat gives it a neighbour's)."""
    texts = np.flatnonzero(np.diff(starts))
    shape = list(values.shape)
    shape[axis] = len(starts) - 1
    reduced = np.zeros(shape, np.float32)
    if len(texts):
        reduced[(slice(None),) * axis + (texts,)] = how.reduceat(values, starts[texts], axis=axis)
    return reduced
