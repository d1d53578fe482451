"""What BM25 costs through Retort, against bm25s called directly: building the index, and searching it.

Both cut, stem and stop the same words with the same k1 and b, and must give the same scores. Ours breaks ties by the
order of the corpus and makes a Run. Texts are those of FairytaleQA in RETORT_DATA, else docstrings, repeated up to the
number asked for. Prints one line of JSON.

    python benchmarks/bm25_speed.py [--passages 20000] [--queries 500] [--repeats 5]
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import bm25s
import numpy as np
import Stemmer
from rows import print_line
from speed import Target, drawn, options, ratios, real_texts, seconds_of, timed

from retort.indexes.bm25 import STOP_WORDS, BM25Index, BM25Settings
from retort.records import Passage, Query

K = 100
SETTINGS = BM25Settings()
SCORES = Target("BM25: difference of scores", "bm25s", at_most=1e-3, unit="of a score")


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    texts = real_texts()
    passages = drawn(texts.passages, arguments.passages)
    queries = [Query(str(i), query.text) for i, query in enumerate(drawn(texts.queries, arguments.queries))]
    index, theirs = BM25Index.build(passages), built(passages)
    times = {
        "build": timed({"ours": lambda: BM25Index.build(passages), "bm25s": lambda: built(passages)}, arguments.repeats),
        "search": timed(
            {"ours": lambda: index.search(queries, K, name="bm25"), "bm25s": lambda: best_scores(theirs, queries)},
            arguments.repeats,
        ),
    }
    slower = {what: 1 / ratios(one, "ours")["bm25s"] for what, one in times.items()}
    seconds = {f"{what}, {name}": one for what, both in times.items() for name, one in both.items()}
    targets = [Target(f"BM25: {what}", "bm25s called directly", at_most=1.1).found(value) for what, value in slower.items()]
    facts = {
        "set": texts.name, "passages": len(passages), "queries": len(queries), "k": K, **seconds_of(seconds),
        "ratio": {f"bm25s, {what}": round(1 / value, 3) for what, value in slower.items()},
        "targets": [*targets, SCORES.found(difference(index, theirs, queries))],
    }  # fmt: skip
    print_line("bm25_speed", facts, argv=argv)


def tokenised(texts: Sequence[str]) -> bm25s.tokenization.Tokenized | list[list[str]]:
    """The words of texts as bm25s cuts them, with the words that our settings stop, and our stemmer."""
    assert isinstance(SETTINGS.stopwords, str)
    stop, stemmer = list(STOP_WORDS[SETTINGS.stopwords]), Stemmer.Stemmer(SETTINGS.stemmer)
    return bm25s.tokenize(list(texts), stopwords=stop, stemmer=stemmer, show_progress=False)


def built(passages: Sequence[Passage]) -> bm25s.BM25:
    """The index as a user of bm25s makes it."""
    weights = bm25s.BM25(k1=SETTINGS.k1, b=SETTINGS.b, method="lucene")
    weights.index(tokenised([f"{passage.title} {passage.text}" for passage in passages]), show_progress=False)
    return weights


def best_scores(weights: bm25s.BM25, queries: Sequence[Query]) -> np.ndarray:
    """The scores of each query's best K, best first; 0 where fewer passages share a word with it."""
    asked = tokenised([query.text for query in queries])
    found: Any = weights.retrieve(asked, k=min(K, weights.scores["num_docs"]), show_progress=False)
    return found.scores


def difference(index: BM25Index, theirs: bm25s.BM25, queries: Sequence[Query]) -> float:
    """The largest difference between the scores that both give at one rank."""
    found = index.search(queries, K, name="bm25")
    pairs = zip(found, best_scores(theirs, queries), strict=True)
    return float(max(np.abs(other - np.pad(scores, (0, len(other) - len(scores)))).max() for (*_, scores), other in pairs))


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--passages", type=int, default=20_000, help="that are indexed (default 20000)")
    parser.add_argument("--queries", type=int, default=500, help="that are searched for (default 500)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
