"""The best k of scores that come block after block: what every exact index does with its blocks.

Memory does not grow with the corpus: one tile of scores for each core, and about 2k candidates for each query.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int, Int32
from threadpoolctl import ThreadpoolController

from retort.cores import usable

BLAS = ThreadpoolController()  # of the libraries that NumPy and SciPy have loaded
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

    Blocks come with the corpus row of their first passage, in the corpus's order; `score` gives the scores of a batch of at
    most 65,536 queries with a block's passages, and is called by several threads. No score may be NaN or -inf.

    >>> corpus = np.array([[1, 5, 1, 7]], np.float32)
    >>> blocks = [(0, corpus[:, :2]), (2, corpus[:, 2:])]
    >>> best_of_blocks(blocks, lambda _, block: block, queries=1, passages=4, k=3, query_batch=8)[1].tolist()
    [[3, 1, 0]]
    """
    available = usable()
    query_batch = max(1, min(query_batch, math.ceil(queries / available)))
    spans = [slice(start, min(start + query_batch, queries)) for start in range(0, queries, query_batch)]
    best = [_Best(span.stop - span.start, k) for span in spans]

    def offer(span: slice, batch: _Best, first_row: int, block: Block) -> None:
        batch.offer(score(span, block), first_row)

    # NumPy and SciPy compute outside of Python's lock. A product on all cores would leave them idle in what comes after it
    workers = max(1, min(len(spans), available))
    with BLAS.limit(limits=max(1, available // workers), user_api="blas"), ThreadPoolExecutor(workers) as threads:
        # blocks outside, queries inside: the vectors are read from disk and widened once, however many queries there are
        for first_row, block in blocks:
            list(threads.map(offer, spans, best, repeat(first_row), repeat(block)))
        list(threads.map(_Best.settle, best))
    n = min(k, passages)
    scores, rows = np.empty((queries, n), np.float32), np.empty((queries, n), np.int32)
    for span, batch in zip(spans, best, strict=True):
        scores[span], rows[span] = batch.scores, batch.rows
    return scores, rows


def check_k(k: int) -> None:
    """ValueError where a search is asked for less than one passage."""
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1: k is the number of passages to return for a query")


def recall(best: Sequence[Int[np.ndarray, "_"]], found: Sequence[Int[np.ndarray, "_"]]) -> float:
    """The share of the exact best rows that another search finds too, as a mean over the queries that have any.

    1.0 where no query has any.

    >>> recall([np.array([3, 1]), np.array([], int)], [np.array([1, 7]), np.array([2])])
    0.5
    """
    shares = [np.isin(mine, other).mean() for mine, other in zip(best, found, strict=True) if len(mine)]
    return float(np.mean(shares)) if shares else 1.0


class _Best:
    """The best k so far of one batch of queries, a row for each: `scores`, and corpus `rows`, best first.

    A score must beat the floor, the k-th best so far: rows come in ascending order, so one that only equals it loses
    the tie. What beats it waits unsorted until k per query have gathered; a floor that is out of date lets more wait
    and never loses a hit.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.floor = np.full(queries, -np.inf, np.float32)
        self.scores, self.rows = np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int32)
        self.waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.fresh = 0

    def offer(self, scores: Float32[np.ndarray, "Q n"], first_row: int) -> None:
        """Takes the scores of the next block, whose first column is corpus row `first_row`."""
        if np.isneginf(self.floor).any() and scores.shape[1] > self.k:
            hits = scores >= np.partition(scores, -self.k, axis=1)[:, -self.k, None]
        else:
            hits = scores > self.floor[:, None]
        owner, column = np.divmod(np.flatnonzero(hits), scores.shape[1])
        self.waiting.append((owner.astype(np.uint16), scores[owner, column], (column + first_row).astype(np.int32)))
        self.fresh += len(owner)
        if self.fresh >= len(self.floor) * self.k:
            self.settle()

    def settle(self) -> None:
        """What waits is sorted in, and the floor rises."""
        if not self.waiting:
            return
        owner, scores, rows = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
        order = np.argsort(owner, kind="stable")  # of 16 bits: a radix sort, which keeps corpus order within a query
        owner = owner[order].astype(np.int64)
        counts = np.bincount(owner, minlength=len(self.floor))
        place = self.scores.shape[1] + np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
        more = ((0, 0), (0, int(counts.max())))
        all_scores, all_rows = np.pad(self.scores, more, constant_values=-np.inf), np.pad(self.rows, more)
        all_scores[owner, place], all_rows[owner, place] = scores[order], rows[order]
        best = np.argsort(-all_scores, axis=1, kind="stable")[:, : self.k]
        self.scores, self.rows = (np.take_along_axis(values, best, 1) for values in (all_scores, all_rows))
        if best.shape[1] == self.k:
            self.floor = self.scores[:, -1]
        self.waiting, self.fresh = [], 0
