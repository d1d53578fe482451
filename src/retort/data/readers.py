"""Passages, queries, grades and candidates out of anything that `formats.py` recognises, by the columns of its rows.

Queries without ids are called q0, q1, ... by their place in the file; SQuAD's paragraphs p0, p1, ... likewise.
"""

import ast
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retort.data import docstrings
from retort.data.formats import is_beir, read_rows
from retort.data.prose import cut
from retort.data.rows import (
    ANSWERS,
    CANDIDATES,
    FLAG,
    GRADE,
    PAIR_PASSAGE,
    PAIR_QUERY,
    PARAGRAPH,
    PASSAGE_ID,
    QUERY_ID,
    QUESTION,
    TEXT,
    TITLE,
    Row,
)
from retort.records import Corpus, Passage, Qrels, Query, Run

BUILDERS = {"docstrings": docstrings}  # sets that code makes: a source "name" or "name:specification"
SPLITS = {"validation": "dev", "valid": "dev", "val": "dev"}  # other words for our splits


def read_corpus(source: str, *, words: int = 100) -> Iterator[Passage]:
    """The passages of `source`, streamed in its order; prose is cut into at most `words` words at sentence ends.

    Candidates (FiD, DPR, Atlas) give their distinct passages, SQuAD its distinct paragraphs. Passage ids are checked
    for doubles by `Corpus`. ValueError: nothing found, no or empty id or text, one id with two texts in candidates.
    """
    builder, _, specification = source.partition(":")
    if builder in BUILDERS:
        return BUILDERS[builder].passages(specification)
    return _passages(read_rows(source, "corpus"), source, words)


def read_queries(source: str, split: str | None = None, *, require_answers: bool = False) -> list[Query]:
    """The queries of `source` in its order; those of `split` by their column "split", or by the qrels of a BEIR folder.

    ValueError: nothing found, an id twice, an empty question or answer, an unknown split, no answers where required.
    """
    builder, _, specification = source.partition(":")
    if builder in BUILDERS:
        found = [(query, "", source) for query in BUILDERS[builder].questions(specification, split)]
    else:
        found = _of_split(list(_queries(read_rows(source, "queries"))), source, split)
    seen: dict[str, str] = {}
    for query, _, where in found:
        if query.id in seen:
            raise ValueError(f"{where}: query id {query.id!r} was given at {seen[query.id]}: give each an id of its own")
        if require_answers and not query.answers:
            raise ValueError(f"{where}: query {query.id!r} has no answers, expected at least one: add one or drop it")
        seen[query.id] = where
    if not found:
        raise ValueError(f"{source} holds no queries, expected at least one: look at what wrote it")
    return [query for query, _, _ in found]


def read_qrels(source: str, split: str | None = None) -> Qrels:
    """The grades of `source`: TREC or BEIR qrels; a BEIR folder's `split`, or all its splits without one.

    Files with labels of their own serve as well: the has_answer flags of FiD and DPR candidates, SQuAD's gold paragraph.
    A file has no splits, so there `split` chooses nothing. ValueError: nothing found, a broken or contradicted grade.
    """
    builder, _, specification = source.partition(":")
    if builder in BUILDERS:
        return BUILDERS[builder].qrels(specification, split)
    sources = _qrels_files(Path(source), split) if is_beir(Path(source)) else [source]
    grades: dict[str, dict[str, int]] = {}
    for row, query_id, passage_id, grade in (found for file in sources for found in _grades(read_rows(file, "qrels"))):
        known = grades.setdefault(query_id, {}).setdefault(passage_id, grade)
        if known != grade:
            raise ValueError(
                f"{row.where}: passage {passage_id!r} has grade {grade} for query {query_id!r}, but {known} before: keep one"
            )
    if not grades:
        raise ValueError(f"{source} holds no grades, expected at least one: look at what wrote it")
    return Qrels(grades)


def read_candidates(source: str, queries: Sequence[Query], corpus: Corpus) -> Run:
    """A Run over exactly `queries`, from FiD or DPR candidates or a TREC run; a query that is not there has no passages.

    Candidates without any score keep their order, by scores 1/rank. The Run has the name in a TREC run, else the file's.
    ValueError: unknown passage id, a score that is no finite number, a passage twice, none of `queries` found.
    """
    texts = {query.id: query.text for query in queries}
    places = {query.id: array("i") for query in queries}  # rows are looked up once for all, in the end
    scores = {query.id: array("d") for query in queries}
    known: dict[str, tuple[int, str]] = {}
    name = Path(source).name.split(".")[0]
    for row, query_id, question in _listed_queries(read_rows(source, "candidates")):
        if query_id not in texts:
            continue
        if question is not None and question != texts[query_id]:
            raise ValueError(
                f"{row.where}: query {query_id!r} is {question!r:.60} here and {texts[query_id]!r:.60} in the queries: "
                "without ids both need the same order; add ids"
            )
        name = row.get(("name",)) or name
        for passage_id, score in _scored(row):
            places[query_id].append(known.setdefault(passage_id, (len(known), row.where))[0])
            scores[query_id].append(score)
    if not known:
        raise ValueError(f"{source} holds candidates for none of the {len(queries)} queries: the query ids differ")
    rows = _rows(known, corpus)
    try:
        return Run.build(name, list(texts), [rows[list(p)] for p in places.values()], list(scores.values()))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _passages(rows: Iterable[Row], source: str, words: int) -> Iterator[Passage]:
    seen: dict[str, int] = {}
    paragraphs: dict[tuple[str, str], str] = {}
    row = None
    for row in rows:
        if row.get(CANDIDATES) is not None:
            for passage in map(_passage, _candidates(row)):
                content = hash((passage.title, passage.text))
                if seen.setdefault(passage.id, content) != content:
                    raise ValueError(f"{row.where}: passage id {passage.id!r} had another text before: give ids apart")
                ...
