"""Queries with their answers out of anything that `formats.py` recognises."""

import ast
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from retort.data.formats import BUILDERS, is_beir, qrels_files, read_rows
from retort.data.rows import ANSWERS, PARAGRAPH, QUERY_ID, QUESTION, SPLITS, TARGET, Row, Value
from retort.records import Query


@dataclass(frozen=True, slots=True)
class _Found:
    query: Query
    split: str
    where: str


def read_queries(source: str, split: str | None = None, *, require_answers: bool = False) -> list[Query]:
    """The queries of `source` in its order: all, or those of `split` by their column "split" or by a BEIR folder's qrels.

    A file that knows no splits is all of the one that it is given for.
    Without ids they are called q0, q1, ... by their place in the file. The answers in a cell may be a JSON or Python list.
    ValueError: nothing found, an id twice, an empty question or answer, an unknown split, no answers where required.
    """
    builder, _, specification = source.partition(":")
    if builder in BUILDERS:
        found = [_Found(query, "", source) for query in BUILDERS[builder].questions(specification, split)]
    else:
        found = _of_split([_found(*pair) for pair in identified(read_rows(source, "queries"))], source, split)
    if not found:
        raise ValueError(f"{source} holds no queries, expected at least one: look at what wrote it")
    seen: dict[str, str] = {}
    for query, where in ((f.query, f.where) for f in found):
        if query.id in seen:
            raise ValueError(f"{where}: query id {query.id!r} stands at {seen[query.id]} too: give each its own id")
        if require_answers and not query.answers:
            raise ValueError(f"{where}: query {query.id!r} has no answers, expected at least one: add one or drop it")
        seen[query.id] = where
    return [f.query for f in found]


def identified(rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """Each row about a query with the query's id; q0, q1, ... where the first row has none."""
    number, named = 0, True
    for row in rows:
        if row.get(PARAGRAPH) is None or row.get(QUESTION) is not None:
            named = named if number else row.get(QUERY_ID) is not None
            yield row.string(QUERY_ID) if named else f"q{number}", row
            number += 1


def _found(query_id: str, row: Row) -> _Found:
    """A target stands beside the answers; where there are none, or an empty cell of them, it is the only answer."""
    split = str(row.get(("split",)) or "")
    answers, target = _answers(row, ANSWERS), row.get(TARGET)
    if not answers:
        answers, target = _answers(row, TARGET), None
    said = target and isinstance(target, str | list | dict)  # a number is a label of another kind
    target = row.string(TARGET) if said else None
    return _Found(Query(query_id, row.string(QUESTION), answers, target), SPLITS.get(split, split), row.where)


def _answers(row: Row, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The answers in the columns: a list, one alone, SQuAD's {"text": [...]} (each once), or a list written as a string."""
    value = row.get(columns)
    once = isinstance(value, dict)
    if once:
        value = Row(value, row.where).need(("text",))
    if isinstance(value, str):
        value = _listed(value)
    if not isinstance(value, list):
        value = [] if value is None else [value]
    answers = [Row({"answer": answer}, row.where).string(("answer",)) for answer in value]
    return tuple(dict.fromkeys(answers) if once else answers)


def _listed(cell: str) -> list[Value]:
    """The list that a cell spells in JSON or Python, else the cell as the one answer; none where it is blank."""
    for parse in (json.loads, ast.literal_eval) if cell.lstrip().startswith("[") else ():
        try:
            value = parse(cell.strip())
        except (ValueError, SyntaxError):
            continue
        return value if isinstance(value, list) else [cell]
    return [cell] if cell.strip() else []


def _of_split(found: list[_Found], source: str, split: str | None) -> list[_Found]:
    """The queries of one split, all where there are no splits. ValueError where it is not there, with those that are."""
    splits = dict.fromkeys(f.split for f in found if f.split)
    if split is None:
        return found
    if not splits and is_beir(Path(source)):
        files = qrels_files(Path(source), split)
        judged = {row.string(QUERY_ID) for file in files for row in read_rows(str(file), "qrels")}
        return [f for f in found if f.query.id in judged]
    if not splits:
        return found
    if SPLITS.get(split, split) not in splits:
        named = ", ".join(splits)
        raise ValueError(f"{source} has the splits {named}, expected {split!r}: name one that is there, or none for all")
    return [f for f in found if f.split == SPLITS.get(split, split)]
