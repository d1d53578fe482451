"""The BM25 weight of every word in every passage, word by word: what bm25s searches, built without holding the corpus.

Two passes, a counting sort: blocks of passages are counted into one temporary file, and then laid out word by word in two
others. Memory holds one block, the lengths of the passages (4 bytes each) and a few numbers for each word.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from jaxtyping import Float32, Int32, Int64

BLOCK_WORDS = 2**20  # about 40 MB while they are counted


@dataclass(frozen=True)
class WordWeights:
    """Word w stands in the passages from starts[w] to starts[w + 1], ascending, with these weights; `passages` in all.

    The long arrays are mapped from files without a name, whose space is given back with the arrays.
    """

    weights: Float32[np.ndarray, "n"]
    rows: Int32[np.ndarray, "n"]
    starts: Int64[np.ndarray, "words_plus_1"]
    passages: int


def word_weights(
    passages: Iterable[Sequence[int]], *, k1: float, b: float, scratch: Path | None = None, block_words: int = BLOCK_WORDS
) -> WordWeights:
    """The weights of passages that are given as numbers of words, from 0.

    Lucene's variant of BM25: ln(1 + (N - n + 0.5) / (n + 0.5)) * t / (t + k1 (1 - b + b l / mean l)) of a word that n of N
    passages hold, and that stands t times in a passage of l words. Temporary files are put into `scratch`, or where the
    system has them.
    ValueError where no passage has a word.

    >>> found = word_weights([[0, 0, 1], [1]], k1=0.9, b=0.4)
    >>> found.rows.tolist(), found.starts.tolist(), [round(weight, 3) for weight in found.weights.tolist()]
    ([0, 0, 1], [0, 1, 3], [0.45, 0.088, 0.106])
    """
    with TemporaryFile(dir=scratch) as counted:
        lengths, sizes, holders = [np.zeros(0, np.int32)], [0], np.zeros(0, np.int64)
        for block in _blocks(passages, block_words):
            lengths.append(np.fromiter(map(len, block), np.int32, len(block)))
            triples = _triples(block, lengths[-1], first=sum(map(len, lengths[:-1])))
            triples.tofile(counted)
            sizes.append(len(triples))
            holders = _added(holders, np.bincount(triples[:, 0]))
        if not len(holders):
            raise ValueError(f"none of the {sum(map(len, lengths))} passages holds a word")
        ends = np.cumsum(sizes)
        found = np.memmap(counted, np.int32, "r", shape=(int(ends[-1]), 3))
        spans = (found[start:stop] for start, stop in pairwise(ends.tolist()))
        return _laid_out(spans, np.concatenate(lengths), holders, k1, b, scratch)


def _blocks(passages: Iterable[Sequence[int]], words: int) -> Iterator[list[Sequence[int]]]:
    """The passages in lists of at least `words` words, the last of fewer."""
    block, held = [], 0
    for passage in passages:
        block.append(passage)
        held += len(passage)
        if held >= words:
            yield block
            block, held = [], 0
    if block:
        yield block


def _triples(block: Sequence[Sequence[int]], lengths: Int32[np.ndarray, "p"], first: int) -> Int32[np.ndarray, "n 3"]:
    """Word, passage, and how often the one stands in the other, by word and then by passage; `first` is the first row."""
    words = np.fromiter(chain.from_iterable(block), np.int64, int(lengths.sum()))
    pairs, times = np.unique(words << 32 | np.repeat(np.arange(first, first + len(block)), lengths), return_counts=True)
    return np.stack([pairs >> 32, pairs & 0xFFFFFFFF, times], axis=1).astype(np.int32)


def _added(counts: Int64[np.ndarray, "_"], more: Int64[np.ndarray, "_"]) -> Int64[np.ndarray, "_"]:
    """The sum of counts, of which either may know words that the other does not."""
    longest = max(len(counts), len(more))
    return np.pad(counts, (0, longest - len(counts))) + np.pad(more, (0, longest - len(more)))


def _laid_out(
    blocks: Iterable[Int32[np.ndarray, "_ 3"]],
    lengths: Int32[np.ndarray, "p"],
    holders: Int64[np.ndarray, "words"],
    k1: float,
    b: float,
    scratch: Path | None,
) -> WordWeights:
    """The weights in their places; `holders` says in how many passages each word stands."""
    starts = np.concatenate([[0], np.cumsum(holders)])
    rarity = np.log(1 + (len(lengths) - holders + 0.5) / (holders + 0.5)).astype(np.float32)
    entries = int(starts[-1])
    weights, rows = _mapped(entries, np.float32, scratch), _mapped(entries, np.int32, scratch)
    free, mean = starts[:-1].copy(), lengths.mean()
    for block in blocks:
        word, row, times = block.T
        here = np.bincount(word, minlength=len(holders))
        places = (free - np.cumsum(here) + here)[word] + np.arange(len(word))
        often = times.astype(np.float32)
        weights[places] = rarity[word] * (often / (k1 * (1 - b + b * lengths[row] / mean) + often))
        rows[places] = row
        free += here
    return WordWeights(weights, rows, starts, len(lengths))


def _mapped(entries: int, kind: type[np.generic], scratch: Path | None) -> np.ndarray:
    with TemporaryFile(dir=scratch) as file:
        if hasattr(os, "posix_fallocate"):  # a hole that a full disk cannot fill would end the process without an error
            os.posix_fallocate(file.fileno(), 0, max(1, entries) * np.dtype(kind).itemsize)
        return np.memmap(file, kind, "w+", shape=(entries,))
