"""The best k of scores that come block after block: what every exact index does with its blocks.

Memory does not grow with the corpus: one tile of scores, and about 2k candidates for each query.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int32

Block = TypeVar("Block")


def best_of_blocks(
    blocks: Iterable[tuple[int, Block]],
    score: Callable[[slice, Block], Float32[np.ndarray, "q n"]],
    *,
    queries: int,
    passages: int,
    k: int,
    query_batch: int,
) -> tuple[Float32[np.ndarray, "Q n"], Int32[np.ndarray, "Q n"]]:
    """Scores and rows of the best n = min(k, passages) of each query, best first; equal scores stand in corpus order.

    Blocks come with the corpus row of their first passage, in the corpus's order; `score` gives the scores of a batch
    of queries with a block's passages. No score may be NaN or -inf.

    >>> corpus = np.array([[1, 5, 1, 7]], np.float32)
    >>> blocks = [(0, corpus[:, :2]), (2, corpus[:, 2:])]
    >>> best_of_blocks(blocks, lambda _, block: block, queries=1, passages=4, k=3, query_batch=8)[1].tolist()
    [[3, 1, 0]]
    """
    spans = [slice(start, min(start + query_batch, queries)) for start in range(0, queries, query_batch)]
    best = [_Best(span.stop - span.start, k) for span in spans]
    # blocks outside, queries inside: the vectors are read from disk and widened once, however many queries there are
    for first_row, block in blocks:
        for span, batch in zip(spans, best, strict=True):
            batch.offer(score(span, block), first_row)
    n = min(k, passages)
    scores, rows = np.empty((queries, n), np.float32), np.empty((queries, n), np.int32)
    for span, batch in zip(spans, best, strict=True):
        found_scores, found_rows = batch.settled()
        scores[span], rows[span] = found_scores.reshape(scores[span].shape), found_rows.reshape(scores[span].shape)
    return scores, rows


def check_k(k: int) -> None:
    """ValueError where a search is asked for less than one passage."""
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1: k is the number of passages to return for a query")


class _Best:
    """The best k so far of one batch of queries, flat and sorted by (query, score descending, row).

    A score must beat the floor, the k-th best so far: rows come in ascending order, so one that only equals it loses
    the tie. What beats it waits unsorted until k per query have gathered; a floor that is out of date lets more wait
    and never loses a hit.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.queries, self.k = queries, k
        self.floor = np.full(queries, -np.inf, np.float32)
        self.waiting = [(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int32))]
        self.fresh = 0

    def offer(self, scores: Float32[np.ndarray, "Q n"], first_row: int) -> None:
        """Takes the scores of the next block, whose first column is corpus row `first_row`."""
        width = scores.shape[1]
        if np.isneginf(self.floor).any() and width > self.k:
            hits = scores >= np.partition(scores, -self.k, axis=1)[:, -self.k, None]
        else:
            hits = scores > self.floor[:, None]
        flat = np.flatnonzero(hits)
        owner = (flat // width).astype(np.int32)
        self.waiting.append((owner, scores.ravel()[flat], (flat % width + first_row).astype(np.int32)))
        self.fresh += len(flat)
        if self.fresh >= self.queries * self.k:
            self._settle()

    def _settle(self) -> None:
        owner, scores, rows = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
        order = np.lexsort((rows, -scores, owner))
        owner = owner[order]
        counts = np.bincount(owner, minlength=self.queries)
        starts = np.cumsum(counts) - counts
        rank = np.arange(len(owner)) - starts[owner]
        kept = order[rank < self.k]
        last = order[starts[counts >= self.k] + self.k - 1]
        self.floor[counts >= self.k] = scores[last]
        self.waiting = [(owner[rank < self.k], scores[kept], rows[kept])]
        self.fresh = 0

    def settled(self) -> tuple[Float32[np.ndarray, "N"], Int32[np.ndarray, "N"]]:
        """Scores and rows, query after query."""
        self._settle()
        return self.waiting[0][1], self.waiting[0][2]
