"""The index of a sparse student: postings of blocks of passages, searched exactly through SciPy's sparse products.

A block's postings are its sparse vectors transposed: row = column of the vocabulary, entries = passages of the block. A
search reads only the postings of its queries' columns.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, Int32
from scipy.sparse import csr_array

from retort.indexes.best import best_of_blocks, check_k
from retort.indexes.parts import SPARSE, part_paths
from retort.indexes.sparse_vectors import SparsePart, SparseParts, shape_of
from retort.store import read_json, remove, write_atomic, write_json

RECORD_FILE, POSTINGS = "inverted.json", "postings"
# a tile of scores is 32 MB; smaller blocks of passages would hold mostly starts, one for each word of the vocabulary
QUERY_BATCH, BLOCK_ROWS = 256, 32_768


@dataclass(frozen=True)
class InvertedIndex:
    """Passages by inner product of sparse vectors. `build` makes one over sparse parts, `load` opens one that `save` wrote.

    >>> index = InvertedIndex.build(SparseParts.of(csr_array(np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]]))))
    >>> scores, rows = index.search(csr_array(np.array([[1, 0]], np.float32)), 3)
    >>> rows[0].tolist(), scores[0].tolist()  # the third passage shares no column with the query
    ([1, 0], [2.0, 1.0])
    """

    passages: int
    width: int
    postings: Iterable[SparsePart]  # one for each block, in order; iterated over by every search

    @classmethod
    def build(cls, vectors: SparseParts, *, block_rows: int = BLOCK_ROWS) -> "InvertedIndex":
        """An index over `vectors`. Each block is transposed when it is asked for, so that `save` holds one at a time."""
        return cls(*vectors.shape, _Transposed(vectors, block_rows))

    def save(self, folder: Path) -> None:
        """Writes the postings into `folder`, 6 bytes a nonzero, the record last; the same vectors give the same bytes."""
        (folder / RECORD_FILE).unlink(missing_ok=True)
        remove(folder / POSTINGS)
        blocks = 0
        for number, block in enumerate(self.postings):
            with write_atomic(folder / POSTINGS / f"part-{number:05d}{SPARSE}") as path:
                block.write(path)
            blocks += 1
        write_json(folder / RECORD_FILE, {"passages": self.passages, "width": self.width, "blocks": blocks})

    @classmethod
    def load(cls, folder: Path) -> "InvertedIndex":
        """The index that `save` put into `folder`, memory-mapped. ValueError where there is none, or not all of it."""
        if not (folder / RECORD_FILE).is_file():
            raise ValueError(
                f"{folder} holds no inverted index: expected {RECORD_FILE} there; InvertedIndex.save writes it, for the "
                "sparse vectors of a sparse student"
            )
        record = read_json(folder / RECORD_FILE)
        paths = part_paths(folder / POSTINGS, SPARSE)
        if len(paths) != record["blocks"]:
            raise ValueError(f"{folder} holds {len(paths)} of {record['blocks']} blocks of postings: build the index again")
        return cls(record["passages"], record["width"], tuple(SparsePart.open(path) for path in paths))

    def __len__(self) -> int:
        return self.passages

    @property
    def exact(self) -> bool:
        """Whether it finds every passage that an exact search finds."""
        return True

    def search(self, queries: csr_array, k: int) -> tuple[list[Float32[np.ndarray, "_"]], list[Int32[np.ndarray, "_"]]]:
        """Scores and corpus rows of each query's best `k`, best first; equal scores stand in corpus order.

        Only passages with a positive score, so fewer than `k` where fewer share a column with the query. ValueError: a
        width that does not match, a query that is not finite.
        """
        check_queries(queries, self.width)
        check_k(k)
        canonical = csr_array(queries, dtype=np.float32, copy=True)
        canonical.sum_duplicates()  # sums then run in the order of the columns, whatever the order given
        asked = np.unique(canonical.indices)
        narrow = canonical[:, asked]
        scores, rows = best_of_blocks(
            self._blocks(asked),
            lambda span, block: (narrow[span] @ block).toarray(),
            queries=shape_of(queries)[0],
            passages=self.passages,
            k=k,
            query_batch=QUERY_BATCH,
        )
        found = (scores > 0).sum(1)
        return [s[:n] for s, n in zip(scores, found, strict=True)], [r[:n] for r, n in zip(rows, found, strict=True)]

    def _blocks(self, columns: Int[np.ndarray, "c"]) -> Iterator[tuple[int, csr_array]]:
        """Each block's first corpus row and its postings of `columns`."""
        first_row = 0
        for block in self.postings:
            yield first_row, block.take(columns)
            first_row += block.width


def check_queries(queries: csr_array, expected: int) -> None:
    """ValueError where sparse queries have another width than an index, or hold a value that is not finite."""
    count, width = shape_of(queries)
    if width != expected:
        raise ValueError(
            f"the queries have {width} columns, the index has {expected}: encode the queries with the student that encoded "
            "the passages, or encode the corpus again"
        )
    bad = np.flatnonzero(~np.isfinite(queries.data))
    if len(bad):
        row = int(np.searchsorted(queries.indptr, bad[0], side="right")) - 1
        raise ValueError(
            f"query vector {row} of {count} holds NaN or infinity, expected finite values: look at the student (a "
            "diverged training is usual)"
        )


@dataclass(frozen=True)
class _Transposed:
    """The postings of blocks of `vectors`, made anew at each iteration."""

    vectors: SparseParts
    block_rows: int

    def __iter__(self) -> Iterator[SparsePart]:
        for _, block in self.vectors.blocks(self.block_rows):
            yield SparsePart.of(block.T.tocsr(), "postings")
