"""Files for others: TREC runs and qrels, FiD/DPR candidates, BEIR folders. What is written here reads back the same."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retort.records import Corpus, Qrels, Query, Run
from retort.text import AnswerMatcher


def write_trec_run(run: Run, corpus: Corpus, path: Path) -> None:
    """Lines `query Q0 passage rank score name`, rank from 1. A query without passages leaves no line.

    ValueError: white space in an id or in the Run's name, which would break the columns.
    """
    ids = iter(corpus.ids(run.passages.tolist()))  # one look-up for all: each costs a pass over a large corpus
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for query_id, _, scores in run:
            for rank, (score, passage_id) in enumerate(zip(scores, ids, strict=False), start=1):
                file.write(_columns(query_id, "Q0", passage_id, str(rank), str(score), run.name))


def write_trec_qrels(qrels: Qrels, path: Path) -> None:
    """Lines `query 0 passage grade`. ValueError: white space in an id."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for query_id, grades in qrels.grades.items():
            for passage_id, grade in grades.items():
                file.write(_columns(query_id, "0", passage_id, str(grade)))


def write_fid_json(run: Run, corpus: Corpus, queries: Sequence[Query], path: Path, labels_as_score: bool = False) -> None:
    """FiD/DPR data `{id, question, answers, target?, ctxs}` of the Run's queries, a list in .json, one a line in .jsonl.

    The ctxs stand in the Run's order, with `has_answer` where the query has answers (DPR's rule, on the text alone).
    Scores are strings as FiD's retrieval script writes them, or with `labels_as_score` numbers as its label script does.
    ValueError: another ending, a query of the Run that is not among `queries`.
    """
    if path.suffix not in (".json", ".jsonl"):
        raise ValueError(f"{path} ends in {path.suffix!r}, expected .json (a list) or .jsonl (lines): rename it")
    by_id = {query.id: query for query in queries}
    start, between, end = ("[\n", ",\n", "\n]\n") if path.suffix == ".json" else ("", "\n", "\n" if len(run) else "")
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(start)
        for number, (query_id, rows, scores) in enumerate(run):
            if query_id not in by_id:
                raise ValueError(f"query {query_id!r} of run {run.name!r} is not among the {len(queries)} queries: add it")
            record = _fid_record(by_id[query_id], corpus, rows.tolist(), scores, labels_as_score)
            file.write((between if number else "") + json.dumps(record, ensure_ascii=False))
        file.write(end)


def answers_of(query: Query) -> dict[str, Any]:
    """The columns of a query's answers: `answers`, and FiD's `target` where it has one."""
    return {"answers": query.answers} | ({} if query.target is None else {"target": query.target})


def write_beir(
    folder: Path,
    corpus: Corpus,
    queries_by_split: Mapping[str, Sequence[Query]],
    qrels_by_split: Mapping[str, Qrels],
) -> None:
    """A BEIR folder: corpus.jsonl, queries.jsonl (with answers, target and split) and qrels/SPLIT.tsv.

    ValueError: a query in two splits, which one line of queries.jsonl cannot say.
    """
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    splits: dict[str, str] = {}
    for split, queries in queries_by_split.items():
        for query in queries:
            if splits.setdefault(query.id, split) != split:
                raise ValueError(f"query {query.id!r} is in splits {splits[query.id]} and {split}, expected one: drop it")
    _write_lines(folder / "corpus.jsonl", ({"_id": p.id, "title": p.title, "text": p.text} for p in corpus))
    _write_lines(
        folder / "queries.jsonl",
        (
            {"_id": query.id, "text": query.text, **answers_of(query), "split": split}
            for split, queries in queries_by_split.items()
            for query in queries
        ),
    )
    for split, qrels in qrels_by_split.items():
        with (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8", newline="\n") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            for query_id, grades in qrels.grades.items():
                file.writelines(f"{query_id}\t{passage_id}\t{grade}\n" for passage_id, grade in grades.items())


def _fid_record(query: Query, corpus: Corpus, rows: list[int], scores: np.ndarray, labels_as_score: bool) -> dict[str, Any]:
    """One entry; a float32 prints as the shortest decimal that reads back the same."""
    matcher = AnswerMatcher(query.answers)
    ctxs = []
    for passage, score in zip((corpus[row] for row in rows), map(str, scores), strict=True):
        entry = {"id": passage.id, "title": passage.title, "text": passage.text}
        flag = {"has_answer": matcher.matches(passage.text)} if query.answers else {}
        ctxs.append({**entry, "score": float(score) if labels_as_score else score, **flag})
    return {"id": query.id, "question": query.text, **answers_of(query), "ctxs": ctxs}


def _columns(*fields: str) -> str:
    """The fields parted by spaces, as a line."""
    for field in fields:
        if len(field.split()) != 1:
            raise ValueError(f"{field!r} has white space or is empty, expected one word in a TREC file: rename it")
    return " ".join(fields) + "\n"


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
