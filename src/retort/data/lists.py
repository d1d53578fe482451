"""Passages listed for queries: relevance grades (Qrels), and candidates with scores (a Run)."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32

from retort.data.formats import BUILDERS, is_beir, qrels_files, read_rows
from retort.data.passages import paragraph_id
from retort.data.queries import identified
from retort.data.rows import CANDIDATES, FLAG, GRADE, PARAGRAPH, PASSAGE_ID, QUERY_ID, QUESTION, RANK, SCORE, Row
from retort.records import Corpus, Qrels, Query, Run


def read_qrels(source: str, split: str | None = None) -> Qrels:
    """The grades of `source`: TREC or BEIR qrels, or a BEIR folder's for `split` (None: for all its splits together).

    Two other files hold grades of 0 and 1: FiD and DPR candidates their has_answer flags, SQuAD its paragraphs' questions.
    A file has no splits: there `split` selects nothing. ValueError: nothing found, a grade that is no integer, or two.
    """
    builder, _, specification = source.partition(":")
    if builder in BUILDERS:
        return BUILDERS[builder].qrels(specification, split)
    files = qrels_files(Path(source), split) if is_beir(Path(source)) else [source]
    grades: dict[str, dict[str, int]] = {}
    for file in files:
        for row, query_id, passage_id, grade in _grades(read_rows(str(file), "qrels")):
            known = grades.setdefault(query_id, {}).setdefault(passage_id, grade)
            if known != grade:
                raise ValueError(
                    f"{row.where}: query {query_id!r} gives passage {passage_id!r} grade {grade} after grade {known}, "
                    "expected one: drop the wrong line"
                )
    if not grades:
        raise ValueError(f"{source} holds no grades, expected at least one: look at what wrote it")
    return Qrels(grades)


def read_candidates(source: str, queries: Sequence[Query], corpus: Corpus) -> Run:
    """A Run over exactly `queries`, from FiD or DPR candidates or a ranking; a query that is not there has no passages.

    Candidates with scores stand by score; without any by scores of 1/rank, the file's ranks or else its order. The name is
    that in a TREC run, else the file's. Flags are not read: `read_qrels` reads them, evaluation computes them anew.
    ValueError: unknown passage, a passage twice, a score that is no finite number, none of `queries` found.
    """
    texts = {query.id: query.text for query in queries}
    places = {query.id: array("i") for query in queries}  # in `known`, whose rows are looked up once for all
    scores = {query.id: array("d") for query in queries}
    known: dict[str, tuple[int, str]] = {}
    name = ""
    for query_id, row in identified(read_rows(source, "candidates")):
        if query_id in texts:
            _check_question(query_id, row, texts[query_id])
            name = name or row.get(("name",))
            for passage_id, score in _scored(row, len(places[query_id])):
                places[query_id].append(known.setdefault(passage_id, (len(known), row.where))[0])
                scores[query_id].append(score)
    if not known:
        raise ValueError(
            f"{source} lists passages for none of the {len(queries)} queries: compare the query ids; where the files of "
            "splits number their questions alike, give prepare.candidates a file for each split"
        )
    rows = _rows(known, corpus)
    listed = {query_id: rows[np.asarray(place, np.int32)] for query_id, place in places.items()}
    for query_id, found in listed.items():
        if len(np.unique(found)) < len(found):
            _refuse_twice(source, query_id)
    try:
        return Run.build(
            name or Path(source).name.split(".")[0],
            list(texts),
            list(listed.values()),
            [np.asarray(score, np.float32) for score in scores.values()],
        )
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _grades(rows: Iterable[Row]) -> Iterator[tuple[Row, str, str, int]]:
    """Row, query id, passage id and grade, by what a row holds: flagged candidates, a paragraph, or a grade."""
    paragraphs: dict[tuple[str, str], str] = {}
    for query_id, row in identified(rows):
        if row.get(CANDIDATES) is not None:
            for candidate in row.candidates():
                yield row, query_id, candidate.string(PASSAGE_ID), int(bool(candidate.need(FLAG)))
        elif row.get(PARAGRAPH) is not None:
            yield row, query_id, paragraph_id(row, paragraphs), 1
        else:
            grade = row.number(GRADE)
            if not grade.is_integer():
                raise ValueError(f"{row.where}: grade {grade} is no integer, expected 0, 1, 2, ...: round it")
            yield row, row.string(QUERY_ID), row.string(PASSAGE_ID), int(grade)


def _check_question(query_id: str, row: Row, text: str) -> None:
    """ValueError where a query found by its place alone has another text: then the orders differ."""
    question = row.get(QUESTION)
    if row.get(QUERY_ID) is None and question != text:
        raise ValueError(
            f"{row.where}: query {query_id!r} is {question!r:.60}, expected {text!r:.60}: both files go by place without "
            "ids, so give them the same order, or ids"
        )


def _scored(row: Row, before: int) -> Iterator[tuple[str, float]]:
    """Passage ids and scores of a row, behind `before` others of its query: one of a ranking, all of a list."""
    alone = row.get(CANDIDATES) is None
    listed = _listed(row)
    scored = [candidate.get(SCORE) is not None for candidate in listed]
    if any(scored) and not all(scored):
        raise ValueError(f"{row.where}: {sum(scored)} of {len(scored)} candidates have a score, expected all or none")
    start = _rank(row) if alone and not all(scored) else None
    for rank, candidate in enumerate(listed, start=start or before + 1):
        yield candidate.string(PASSAGE_ID), candidate.number(SCORE) if all(scored) else 1 / rank


def _listed(row: Row) -> list[Row]:
    """What a row lists: its candidates, or itself in a ranking."""
    return [row] if row.get(CANDIDATES) is None else row.candidates()


def _refuse_twice(source: str, query_id: str) -> None:
    """ValueError for a query that lists a passage twice; both places are found by reading the source again."""
    first: dict[str, str] = {}
    for candidate in (c for i, row in identified(read_rows(source, "candidates")) if i == query_id for c in _listed(row)):
        passage_id = candidate.string(PASSAGE_ID)
        if passage_id in first:
            raise ValueError(
                f"{candidate.where}: query {query_id!r} lists passage {passage_id!r} a second time, first at "
                f"{first[passage_id]}, expected each passage once: drop one of the two"
            )
        first[passage_id] = candidate.where


def _rank(row: Row) -> int | None:
    """The rank that a row without score gives its passage, None where it gives none. ValueError: 0, or a grade instead."""
    if row.get(("grade",)) is not None:
        raise ValueError(
            f"{row.where}: a grade without a score, expected candidates with scores, in lists, or with ranks that count up "
            "from 1: triples and grades are none"
        )
    if row.get(RANK) is None:
        return None
    rank = row.number(RANK)
    if rank < 1 or not rank.is_integer():
        raise ValueError(f"{row.where}: rank {rank:g}, expected 1, 2, 3, ...: correct it")
    return int(rank)


def _rows(known: dict[str, tuple[int, str]], corpus: Corpus) -> Int32[np.ndarray, "N"]:
    """The corpus rows of passage ids. ValueError names the line of the first that the corpus does not hold."""
    ids = list(known)
    try:
        return corpus.rows(ids)
    except ValueError as error:
        options = pc.SetLookupOptions(value_set=corpus.table.column("id"))
        inside = pc.call_function("is_in", [pa.array(ids, pa.string())], options).to_pylist()
        raise ValueError(f"{known[ids[inside.index(False)]][1]}: {error}") from error
