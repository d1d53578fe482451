"""Distillation sets for other libraries, from a Run: sentence-transformers and PyLate, FlagEmbedding, ColBERT, Tevatron.

Scores are raw, and written so that they read back the same (`read_scores`). A query without passages leaves no line.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from retort.data.scores import full_text
from retort.records import Corpus, Passage, Qrels, Query, Run

WRITE_ROWS = 1_000  # of a parquet row group: some MB of lists
TABLES = {
    "queries": pa.schema([("query_id", pa.string()), ("text", pa.string())]),
    "documents": pa.schema([("document_id", pa.string()), ("text", pa.string())]),
    "scores": pa.schema(
        [("query_id", pa.string()), ("document_ids", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))]
    ),
}


def write_id_tables(
    run: Run, corpus: Corpus, queries: Sequence[Query], folder: Path, *, ending: Literal["jsonl", "parquet"] = "jsonl"
) -> None:
    """Three tables as sentence-transformers (`util.resolve_ids`) and PyLate (`KDProcessing`) join them by id.

    queries (query_id, text), documents (document_id, text; those of the Run, the title before the text) and scores
    (query_id, document_ids, scores; best first). ValueError: a query of the Run that is not among `queries`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = _listed(run, corpus, queries)
    rows = np.unique(run.passages).tolist()
    tables: dict[str, Iterator[dict[str, Any]]] = {
        "queries": ({"query_id": query.id, "text": query.text} for query, _, _ in listed),
        "documents": ({"document_id": p.id, "text": full_text(p)} for p in (corpus[row] for row in rows)),
        "scores": (
            {"query_id": query.id, "document_ids": [p.id for p in passages], "scores": scores}
            for query, passages, scores in _listed(run, corpus, queries)
        ),
    }
    for name, records in tables.items():
        path = folder / f"{name}.{ending}"
        _write_lines(path, records) if ending == "jsonl" else _write_parquet(path, records, TABLES[name])


def write_flag_embedding(
    run: Run, corpus: Corpus, queries: Sequence[Query], path: Path, *, positives: Qrels | None = None
) -> int:
    """How many lines {query, pos, neg, pos_scores, neg_scores} of texts were written, for FlagEmbedding.

    Positive is what `positives` grades above 0, or without any the teacher's best passage. A query without a positive or
    without a negative among its passages has no line: FlagEmbedding draws one of each.
    """
    return _write_lines(
        path,
        (
            {
                "query": query.text,
                "pos": [full_text(p) for p, _ in positive],
                "neg": [full_text(p) for p, _ in negative],
                "pos_scores": [score for _, score in positive],
                "neg_scores": [score for _, score in negative],
            }
            for query, positive, negative in _sided(run, corpus, queries, positives)
        ),
    )


def write_tevatron(run: Run, corpus: Corpus, queries: Sequence[Query], path: Path, *, positives: Qrels | None = None) -> int:
    """How many lines {query_id, query, positive_passages, negative_passages} were written, each passage with its score.

    Positives, and queries that have no line, as in `write_flag_embedding`.
    """
    return _write_lines(
        path,
        (
            {
                "query_id": query.id,
                "query": query.text,
                "positive_passages": [_tevatron(*pair) for pair in positive],
                "negative_passages": [_tevatron(*pair) for pair in negative],
            }
            for query, positive, negative in _sided(run, corpus, queries, positives)
        ),
    )


def write_colbert(run: Run, corpus: Corpus, path: Path) -> int:
    """How many lines [query, [passage, score], ...] were written, best first; ids that are whole numbers as numbers.

    ColBERT itself takes a passage's id for its line in collection.tsv, so it wants a corpus with the ids 0, 1, 2, ...
    """
    ids = iter(corpus.ids(run.passages))
    lines = ([_number(query_id), *([_number(next(ids)), s] for s in _decimals(scores))] for query_id, _, scores in run)
    return _write_lines(path, (line for line in lines if len(line) > 1))


def _listed(run: Run, corpus: Corpus, queries: Sequence[Query]) -> Iterator[tuple[Query, list[Passage], list[float]]]:
    """Each query of the Run that has passages, with them and their scores. ValueError where it is not among `queries`."""
    by_id = {query.id: query for query in queries}
    for query_id, rows, scores in run:
        if query_id not in by_id:
            raise ValueError(f"query {query_id!r} of run {run.name!r} is not among the {len(queries)} queries: add it")
        if len(rows):
            yield by_id[query_id], [corpus[row] for row in rows.tolist()], _decimals(scores)


def _sided(
    run: Run, corpus: Corpus, queries: Sequence[Query], positives: Qrels | None
) -> Iterator[tuple[Query, list[tuple[Passage, float]], list[tuple[Passage, float]]]]:
    """Each query that has both, with its positive and its negative passages and their scores."""
    for query, passages, scores in _listed(run, corpus, queries):
        best = {passages[0].id: 1}
        grades = best if positives is None else positives.grades.get(query.id, {})
        pairs = list(zip(passages, scores, strict=True))
        positive = [pair for pair in pairs if grades.get(pair[0].id, 0) > 0]
        negative = [pair for pair in pairs if grades.get(pair[0].id, 0) <= 0]
        if positive and negative:
            yield query, positive, negative


def _tevatron(passage: Passage, score: float) -> dict[str, str | float]:
    return {"docid": passage.id, "title": passage.title, "text": passage.text, "score": score}


def _decimals(scores: Float32[np.ndarray, "K"]) -> list[float]:
    """The shortest decimals that read back as the same float32."""
    return [float(str(score)) for score in scores]


def _number(name: str) -> str | int:
    """An id as a number, where that is written the same."""
    return int(name) if name.isdecimal() and str(int(name)) == name else name


def _write_lines(path: Path, records: Iterator[Any]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(path: Path, records: Iterator[Mapping[str, Any]], schema: pa.Schema) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while rows := list(islice(records, WRITE_ROWS)):
            writer.write_table(pa.Table.from_pylist(rows, schema))
