"""An approximate index of a sparse student: Seismic finds candidates, the stored vectors give their exact scores.

Seismic (Bruch, Nardini, Rulli and Venturini, SIGIR 2024) prunes every posting list and cuts it into blocks with summaries.
It draws its blocks anew each time: two builds of the same vectors may miss different passages, and differ in their bytes.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32
from scipy.sparse import csr_array

from retort.indexes.best import check_k
from retort.indexes.inverted import check_queries
from retort.indexes.sparse_vectors import SparseParts
from retort.store import read_json, remove, write_json

RECORD_FILE, FILE = "seismic.json", "blocks"
SUFFIX = ".index.seismic"  # which Seismic adds to a name that it saves under
SHORT = 2**16
BLOCK_ROWS = 32_768  # passages handed over at once


@dataclass(frozen=True)
class SeismicIndex:
    """Passages by inner product of sparse vectors, nearly all of the best. `build` makes one, `load` opens a saved one.

    `query_terms`: the heaviest weights of a query that lists are looked up for. `heap_factor`: a block is skipped where its
    summary times this promises less than the k-th best so far; lower looks at more. ValueError where they are out of range.
    """

    vectors: SparseParts
    blocks: Any
    query_terms: int = 30
    heap_factor: float = 0.7

    def __post_init__(self) -> None:
        if self.query_terms < 1 or not 0 < self.heap_factor <= 1:
            raise ValueError(
                f"query_terms is {self.query_terms} and heap_factor {self.heap_factor}, expected 1 at least, and more than "
                "0 and at most 1"
            )

    @classmethod
    def build(cls, vectors: SparseParts, *, query_terms: int = 30, heap_factor: float = 0.7) -> "SeismicIndex":
        """An index over `vectors`, held in memory. ImportError where Seismic is not installed."""
        held = _kind("SeismicDataset", vectors.shape[1])(dim=vectors.shape[1])
        with _silent():
            for first_row, block in vectors.blocks(BLOCK_ROWS):
                ids = [str(first_row + row) for row in range(block.indptr.size - 1)]
                held.add_documents_by_id(ids, block.indices.astype(np.int64), block.data, block.indptr.astype(np.int64))
            return cls(vectors, _kind("SeismicIndex", vectors.shape[1]).build_from_dataset(held), query_terms, heap_factor)

    def save(self, folder: Path) -> None:
        """Writes the index into `folder`, its record last; the vectors stay in their parts."""
        (folder / RECORD_FILE).unlink(missing_ok=True)
        remove(folder / (FILE + SUFFIX))
        with _silent():
            self.blocks.save(str(folder / FILE))
        passages, width = self.vectors.shape
        asked = {"query_terms": self.query_terms, "heap_factor": self.heap_factor}
        write_json(folder / RECORD_FILE, {"passages": passages, "width": width, **asked})

    @classmethod
    def load(cls, folder: Path, vectors: SparseParts) -> "SeismicIndex":
        """The index that `save` put into `folder`, in memory. ValueError where `vectors` are not its own."""
        if not (folder / RECORD_FILE).is_file():
            raise ValueError(f"{folder} holds no Seismic index: expected {RECORD_FILE} there; SeismicIndex.save writes it")
        record = read_json(folder / RECORD_FILE)
        if (record["passages"], record["width"]) != vectors.shape:
            raise ValueError(
                f"the index in {folder} is over {record['passages']} vectors of {record['width']} columns, but "
                f"{vectors.shape[0]} of {vectors.shape[1]} were given: build the index again from these vectors"
            )
        with _silent():
            blocks = _kind("SeismicIndex", record["width"]).load(str(folder / (FILE + SUFFIX)))
        return cls(vectors, blocks, record["query_terms"], record["heap_factor"])

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def exact(self) -> bool:
        """Whether it finds every passage that an exact search finds."""
        return False

    def search(self, queries: csr_array, k: int) -> tuple[list[Float32[np.ndarray, "_"]], list[Int32[np.ndarray, "_"]]]:
        """Exact scores and corpus rows of the best that were found, best first; equal scores stand in corpus order.

        Only passages with a positive score. ValueError: a width that does not match, a query that is not finite.
        """
        check_queries(queries, self.vectors.shape[1])
        check_k(k)
        canonical = csr_array(queries, dtype=np.float32, copy=True)
        canonical.sum_duplicates()
        found = self._candidates(canonical, k)
        ranked = [self._ranked(canonical[[row]], np.sort(hits)) for row, hits in enumerate(found)]
        return [scores for scores, _ in ranked], [rows for _, rows in ranked]

    def _candidates(self, queries: csr_array, k: int) -> list[Int32[np.ndarray, "_"]]:
        """The rows that Seismic finds for each query; none for one without weights."""
        string = _seismic().get_seismic_string()
        spans = [np.arange(first, end) for first, end in pairwise(map(int, queries.indptr))]
        asked = [number for number, span in enumerate(spans) if len(span)]
        found = [np.empty(0, np.int32) for _ in spans]
        if asked:
            names = [queries.indices[spans[number]].astype(string) for number in asked]
            values = [queries.data[spans[number]] for number in asked]
            hits = self.blocks.batch_search(
                np.array(asked).astype(string), names, values, k, query_cut=self.query_terms, heap_factor=self.heap_factor
            )
            for listed in filter(None, hits):  # not always in the order of the queries, seen with two threads
                found[int(listed[0][0])] = np.array([int(row) for _, _, row in listed], np.int32)
        return found

    def _ranked(
        self, query: csr_array, rows: Int32[np.ndarray, "_"]
    ) -> tuple[Float32[np.ndarray, "_"], Int32[np.ndarray, "_"]]:
        """The exact scores of `rows`, which stand in corpus order, and the rows themselves, best first."""
        scores = (query @ self.vectors.take(rows).T).toarray()[0]
        best = np.argsort(-scores, kind="stable")
        best = best[scores[best] > 0]
        return scores[best], rows[best]


def _kind(name: str, width: int) -> Any:  # noqa: ANN401 (an optional package's class)
    """Seismic's class for vectors of this width: a component is a number of 16 bits, in its LV classes one of 32."""
    return getattr(_seismic(), name if width <= SHORT else f"{name}LV")


def _seismic() -> ModuleType:
    try:
        import seismic  # type: ignore[import-not-found]  # an optional package
    except ImportError as error:
        raise ImportError("an index of kind 'seismic' needs Seismic: pip install 'retort-ir[seismic]'") from error
    return seismic


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing on standard output meanwhile: Rust prints there, past Python, and a command's JSON is there too."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
