"""What a file of labels takes, and what reading it: Retort's Run, against the JSON that FiD keeps the same labels in.

FiD's file repeats the id, title and text of every passage that a question lists, beside its score; a Run names corpus rows,
and the texts stand once in the corpus, whose bytes are given too. Both hold the same scores. Texts are those of FairytaleQA
in RETORT_DATA, else docstrings; the lists and scores are drawn from seed 0. Prints one line of JSON.

    python benchmarks/label_files.py [--queries 500] [--candidates 100] [--repeats 5]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rows import print_line
from speed import Target, drawn, options, ratios, real_texts, seconds_of, timed

from retort.data import write_fid_json
from retort.records import Corpus, Query, Run

BYTES = Target("files of labels: bytes", "FiD's JSON", at_least=50)
LOAD = Target("files of labels: load", "FiD's JSON", at_least=100)


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    texts = real_texts()
    queries = [Query(str(i), one.text) for i, one in enumerate(drawn(texts.queries, arguments.queries))]
    with tempfile.TemporaryDirectory() as folder:
        corpus, run = Corpus.from_passages(texts.passages), Path(folder, "labels.parquet")
        labels, listed = random_labels(queries, len(corpus), arguments.candidates), Path(folder, "labels.json")
        labels.write(run)
        write_fid_json(labels, corpus, queries, listed, labels_as_score=True)
        if scores_of(json.loads(listed.read_text())) != [scores.tolist() for *_, scores in Run.read(run)]:
            raise RuntimeError("the two files hold different scores")
        times = timed({"Run": lambda: Run.read(run), "JSON": lambda: json.loads(listed.read_text())}, arguments.repeats)
        taken = {"Run": run.stat().st_size, "JSON": listed.stat().st_size, "corpus": corpus.table.nbytes}
    ratio = ratios(times, "Run")
    facts = {
        "set": texts.name, "queries": len(queries), "candidates": arguments.candidates, "bytes": taken, **seconds_of(times),
        "ratio": ratio, "targets": [BYTES.found(taken["JSON"] / taken["Run"]), LOAD.found(ratio["JSON"])],
    }  # fmt: skip
    print_line("label_files", facts, argv=argv)


def random_labels(queries: Sequence[Query], passages: int, candidates: int) -> Run:
    """`candidates` of the passages for each query, with scores such as a reader gives."""
    rng = np.random.default_rng(0)
    rows = [rng.choice(passages, min(candidates, passages), replace=False) for _ in queries]
    scores = [rng.standard_normal(len(listed)).astype(np.float32) for listed in rows]
    return Run.build("labels", [query.id for query in queries], rows, scores)


def scores_of(records: Sequence[dict[str, Any]]) -> list[list[float]]:
    """The scores of each question in FiD's JSON."""
    return [np.array([one["score"] for one in record["ctxs"]], np.float32).tolist() for record in records]


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--queries", type=int, default=500, help="that are labelled (default 500)")
    parser.add_argument("--candidates", type=int, default=100, help="of each (default 100)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
