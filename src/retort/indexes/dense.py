"""The vector index of one student: exact by default ("flat"), or approximate through faiss ("hnsw", "ivf").

A flat index has no file of its own: it is the vector parts. The approximate kinds hold the vectors once more, in half
precision as on disk, so their scores are the exact ones and only their reach is approximate. They are made for vectors
of about one length; on raw inner products of very different lengths measure their recall against "flat" first.
"""

from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Float32, Int32

from retort.indexes.best import check_k
from retort.indexes.exact import BLOCK_ROWS, QUERY_BATCH, exact_top
from retort.indexes.vectors import VectorParts
from retort.store import read_json, write_atomic, write_json

RECORD_FILE, FAISS_FILE = "index.json", "index.faiss"
SAMPLE_PER_LIST = 64  # vectors that k-means sees for each list; faiss asks for 39 to 256


@dataclass(frozen=True)
class DenseIndex:
    """Passages by inner product. `build` makes one over vector parts, `load` opens one that `save` wrote.

    >>> index = DenseIndex.build(VectorParts.of(np.eye(3)))
    >>> scores, rows = index.search(np.array([[1, 5, 2]], np.float32), 2)
    >>> rows[0].tolist(), scores[0].tolist()
    ([1, 2], [5.0, 2.0])
    """

    kind: str
    vectors: VectorParts
    approximate: faiss.Index | None = None

    @classmethod
    def build(
        cls,
        vectors: VectorParts,
        *,
        kind: str = "flat",
        neighbours: int = 32,
        ef_construction: int = 200,
        ef_search: int = 128,
        lists: int | None = None,
        probes: int | None = None,
        seed: int = 0,
    ) -> "DenseIndex":
        """An index over `vectors`; a setting that the kind does not know is ignored.

        "hnsw" (Malkov and Yashunin 2018) links each vector to `neighbours` others. Its links depend on the order in
        which threads insert: with OMP_NUM_THREADS=1 the same vectors give the same bytes. "ivf" cuts the space into
        `lists` cells (default 4 sqrt(passages)) by k-means on a sample that `seed` draws, and visits `probes` of them
        (default an eighth). ValueError names an unknown kind.
        """
        if kind == "flat":
            return cls(kind, vectors)
        if kind == "hnsw":
            return cls(kind, vectors, _filled(_hnsw(vectors, neighbours, ef_construction, ef_search), vectors))
        if kind == "ivf":
            return cls(kind, vectors, _filled(_ivf(vectors, lists, probes, seed), vectors))
        raise ValueError(f"index kind is {kind!r}, expected 'flat', 'hnsw' or 'ivf'")

    def save(self, folder: Path) -> None:
        """Writes what is not in the vector parts into `folder`, its record last."""
        (folder / RECORD_FILE).unlink(missing_ok=True)
        if self.approximate is not None:
            with write_atomic(folder / FAISS_FILE) as path:
                faiss.write_index(self.approximate, str(path))
        record = {"kind": self.kind, "passages": len(self), "dimensions": self.vectors.shape[1]}
        write_json(folder / RECORD_FILE, record)

    @classmethod
    def load(cls, folder: Path, vectors: VectorParts) -> "DenseIndex":
        """The index that `save` put into `folder`, memory-mapped. ValueError where `vectors` are not its own."""
        if not (folder / RECORD_FILE).is_file():
            raise ValueError(f"{folder} holds no dense index: expected {RECORD_FILE} there; DenseIndex.save writes it")
        record = read_json(folder / RECORD_FILE)
        if (record["passages"], record["dimensions"]) != vectors.shape:
            raise ValueError(
                f"the index in {folder} is over {record['passages']} vectors of {record['dimensions']} dimensions, but "
                f"{len(vectors)} of {vectors.shape[1]} were given: build the index again from these vectors"
            )
        if record["kind"] == "flat":
            return cls("flat", vectors)
        flags = faiss.IO_FLAG_MMAP_IFC if record["kind"] == "hnsw" else faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
        return cls(record["kind"], vectors, faiss.read_index(str(folder / FAISS_FILE), flags))

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def exact(self) -> bool:
        """Whether it finds every passage that an exact search finds."""
        return self.approximate is None

    def search(
        self, queries: Float32[np.ndarray, "Q D"], k: int
    ) -> tuple[list[Float32[np.ndarray, "_"]], list[Int32[np.ndarray, "_"]]]:
        """Scores and corpus rows of each query's best `k`, best first; equal scores stand in corpus order.

        Fewer where the corpus has fewer, or where an approximate index reached fewer. ValueError: a dimension that
        does not match, a query that is not finite.
        """
        self._check(queries, k)
        if self.approximate is None:
            scores, rows = exact_top(self.vectors, queries, k)
            return list(scores), list(rows)
        found = [
            _reached(scores, rows)
            for start in range(0, len(queries), QUERY_BATCH)
            for scores, rows in zip(*self.approximate.search(queries[start : start + QUERY_BATCH], k), strict=True)
        ]
        return [scores for scores, _ in found], [rows for _, rows in found]

    def _check(self, queries: Float32[np.ndarray, "Q D"], k: int) -> None:
        if queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"the queries have {queries.shape[1]} dimensions, the index has {self.vectors.shape[1]}: encode the "
                "queries with the student that encoded the passages, or encode the corpus again"
            )
        bad = ~np.isfinite(queries).all(axis=1)
        if bad.any():
            raise ValueError(
                f"query vector {int(bad.argmax())} ({bad.sum()} of {len(queries)}) holds NaN or infinity, expected "
                "finite values: look at the student (a diverged training is usual)"
            )
        check_k(k)


def _hnsw(vectors: VectorParts, neighbours: int, ef_construction: int, ef_search: int) -> faiss.Index:
    half = faiss.ScalarQuantizer.QT_fp16
    # type: ignore because faiss's stub names the arguments of another overload
    index = faiss.IndexHNSWSQ(vectors.shape[1], half, neighbours, faiss.METRIC_INNER_PRODUCT)  # type: ignore
    index.hnsw.efConstruction, index.hnsw.efSearch = ef_construction, ef_search
    return index


def _ivf(vectors: VectorParts, lists: int | None, probes: int | None, seed: int) -> faiss.Index:
    passages, dimensions = vectors.shape
    lists = min(passages, lists or round(4 * passages**0.5))
    cells = faiss.IndexFlatIP(dimensions)
    half, by_residual = faiss.ScalarQuantizer.QT_fp16, False  # the vectors themselves, not their distance to the cell
    index = faiss.IndexIVFScalarQuantizer(cells, dimensions, lists, half, faiss.METRIC_INNER_PRODUCT, by_residual)
    index.nprobe = min(lists, probes or max(1, lists // 8))
    index.cp.seed, index.cp.min_points_per_centroid = seed, 1  # 1: no warning on standard error for a small corpus
    sample = np.random.default_rng(seed).choice(passages, min(passages, SAMPLE_PER_LIST * lists), replace=False)
    index.train(vectors.take(np.sort(sample)))
    return index


def _filled(index: faiss.Index, vectors: VectorParts) -> faiss.Index:
    for _, block in vectors.blocks(BLOCK_ROWS):
        index.add(block)
    return index


def _reached(scores: Float32[np.ndarray, "k"], rows: np.ndarray) -> tuple[Float32[np.ndarray, "n"], Int32[np.ndarray, "n"]]:
    """What faiss found: without the -1 that fill its list where it found fewer, and with ties in corpus order."""
    scores, rows = scores[rows >= 0], rows[rows >= 0].astype(np.int32)
    order = np.lexsort((rows, -scores))
    return scores[order], rows[order]
