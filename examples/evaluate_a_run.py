"""How good a Run is and how sure that is: BM25 against passages at random, with intervals and a paired test."""

import numpy as np

from retort.evaluation.floors import random_run
from retort.evaluation.metrics import evaluate
from retort.evaluation.significance import bootstrap_interval, compare
from retort.indexes.bm25 import BM25Index
from retort.records import Corpus, Passage, Qrels, Query

FACTS = ["snow falls in winter", "a cat drinks milk", "the moon pulls the tide", "a ship needs wind", "bread needs flour",
         "a hen lays an egg", "ice melts in the sun", "a clock shows the hour"]  # fmt: skip
ASKED = ["when does snow fall", "what drinks milk", "what pulls the tide", "what needs wind", "what needs flour",
         "who lays an egg", "where does ice melt", "what shows the hour"]  # fmt: skip
MEASURES = ["RR@10", "R@1", "has_answer@1"]


def main() -> None:
    corpus = Corpus.from_passages(Passage(f"p{i}", "", fact) for i, fact in enumerate(FACTS))
    queries = [Query(f"q{i}", text, (FACTS[i].split()[-1],)) for i, text in enumerate(ASKED)]
    qrels = Qrels({f"q{i}": {f"p{i}": 1} for i in range(len(queries))})
    rng = np.random.default_rng(0)

    runs = [
        BM25Index.build(corpus).search(queries, 5, name="bm25"),
        random_run(corpus, queries=queries, depth=5, rng=rng),
    ]
    bm25, chance = (evaluate(run, corpus, queries=queries, measures=MEASURES, qrels=qrels) for run in runs)
    for measure, values in bm25.measures.items():
        low, high = bootstrap_interval(values, rng=rng)
        print(f"bm25 {measure:12} {values.mean():.3f} (95% {low:.3f} to {high:.3f})")
    for found in compare([(bm25, chance)], measures=MEASURES, rng=rng):
        print(f"bm25 - {found.baseline} {found.measure:12} {found.difference:+.3f}, p {found.adjusted_p:.3f}")


if __name__ == "__main__":
    main()
