"""What the prepare stage leaves, and how the stages after it read it: corpus, questions of each split, grades."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retort.records import Corpus, Group, Qrels, Query, Run
from retort.store import write_atomic
from retort.text import AnswerMatcher

CORPUS, QUERIES, QRELS, CANDIDATES = "corpus.arrow", "queries.parquet", "qrels.parquet", "candidates.parquet"


@dataclass(frozen=True)
class Prepared:
    """The prepare folder, opened: nothing is read until it is asked for."""

    folder: Path

    @cached_property
    def corpus(self) -> Corpus:
        """The passages, memory-mapped."""
        return Corpus.open(self.folder / CORPUS)

    @cached_property
    def splits(self) -> dict[str, list[Query]]:
        """The questions of each split."""
        splits: dict[str, list[Query]] = {}
        for row in pq.read_table(self.folder / QUERIES).to_pylist():
            query = Query(row["id"], row["text"], tuple(row["answers"]), row.get("target"))  # older folders have none
            splits.setdefault(row["split"], []).append(query)
        return splits

    @cached_property
    def queries(self) -> list[Query]:
        """The questions of all splits."""
        return [query for split in self.splits.values() for query in split]

    def qrels(self, split: str) -> Qrels | None:
        """The grades of a split, None where it has none."""
        grades: dict[str, dict[str, int]] = {}
        for row in pq.read_table(self.folder / QRELS, filters=[("split", "=", split)]).to_pylist():
            grades.setdefault(row["query"], {})[row["passage"]] = row["grade"]
        return Qrels(grades) if grades else None

    def groups(self, candidates: Run, queries: Sequence[Query], depth: int | None = None) -> list[Group]:
        """Each question with the passages of its first `depth` candidates (None: all), none where the Run lacks it."""
        corpus, groups = self.corpus, []
        for query in queries:
            rows = candidates.of(query.id)[0][:depth].tolist() if query.id in candidates else []
            groups.append(Group(query, tuple(corpus[row] for row in rows)))
        return groups

    def answered(self, labels: Run) -> Run:
        """The lists of those questions of which a candidate's text holds an answer."""
        matchers = {query.id: AnswerMatcher(query.answers) for query in self.queries}

        def holds(query_id: str, rows: np.ndarray) -> bool:
            return any(matchers[query_id].matches(self.corpus[row].text) for row in rows.tolist())

        return labels.select([query_id for query_id, rows, _ in labels if holds(query_id, rows)])


def asked_of(run: Run, queries: Sequence[Query]) -> Run:
    """What a Run holds of these questions, in their order; those that it lacks are left out."""
    return run.select([query.id for query in queries if query.id in run])


def distinct(
    splits: Mapping[str, Sequence[Query]], qrels: Mapping[str, Qrels]
) -> tuple[dict[str, list[Query]], dict[str, Qrels]]:
    """The same questions and grades with ids that are unique over all splits: "train-q0" where splits share an id.

    Files without ids are numbered by place, so that each split has a q0. ValueError where two splits hold one question
    under one id, because a question that was trained on measures nothing.

    >>> splits, _ = distinct({"train": [Query("q0", "who?")], "dev": [Query("q0", "why?")]}, {})
    >>> [query.id for queries in splits.values() for query in queries]
    ['train-q0', 'dev-q0']
    """
    owner: dict[str, tuple[str, str]] = {}
    clash = False
    for split, query in ((split, query) for split, queries in splits.items() for query in queries):
        before, text = owner.setdefault(query.id, (split, query.text))
        if before != split and text == query.text:
            raise ValueError(
                f"query {query.id!r} ({text!r:.60}) stands in {before} and in {split}, expected different questions in each "
                "split: take it out of one, or, for a single file, give it a column `split`"
            )
        clash = clash or before != split
    if not clash:
        return {split: list(queries) for split, queries in splits.items()}, dict(qrels)
    return (
        {split: [replace(query, id=f"{split}-{query.id}") for query in queries] for split, queries in splits.items()},
        {split: Qrels({f"{split}-{i}": grades for i, grades in found.grades.items()}) for split, found in qrels.items()},
    )


def repeated(splits: Mapping[str, Sequence[Query]]) -> int:
    """How many dev and test questions have the words of a train question.

    >>> repeated({"train": [Query("a", "Who sang?")], "test": [Query("b", "who  sang?"), Query("c", "Who ran?")]})
    1
    """
    asked = {split: [" ".join(query.text.casefold().split()) for query in queries] for split, queries in splits.items()}
    trained = set(asked.pop("train", []))
    return sum(text in trained for texts in asked.values() for text in texts)


def write_prepared(folder: Path, splits: Mapping[str, Sequence[Query]], qrels: Mapping[str, Qrels]) -> None:
    """Write the questions and the grades of all splits; the ids are unique over all of them (`distinct`)."""
    rows = [(split, query) for split, queries in splits.items() for query in queries]
    answers = pa.array([list(query.answers) for _, query in rows], pa.list_(pa.string()))
    columns = {
        "split": [split for split, _ in rows],
        "id": [query.id for _, query in rows],
        "text": [query.text for _, query in rows],
        "target": [query.target for _, query in rows],
    }
    _write(
        folder / QUERIES, {**{name: pa.array(values, pa.string()) for name, values in columns.items()}, "answers": answers}
    )
    graded = [
        (split, query, passage, grade)
        for split, grades in qrels.items()
        for query, judged in grades.grades.items()
        for passage, grade in judged.items()
    ]
    kinds = (("split", pa.string()), ("query", pa.string()), ("passage", pa.string()), ("grade", pa.int32()))
    _write(folder / QRELS, {name: pa.array([row[i] for row in graded], kind) for i, (name, kind) in enumerate(kinds)})


def limited(queries: Sequence[Query], count: int | None) -> list[Query]:
    """`count` of the queries, in their order, drawn by a hash of their ids; all of them where count is None."""
    if count is None or count >= len(queries):
        return list(queries)
    drawn = sorted(queries, key=lambda query: hashlib.sha256(query.id.encode()).digest())[:count]
    kept = {query.id for query in drawn}
    return [query for query in queries if query.id in kept]


def _write(path: Path, columns: Mapping[str, pa.Array]) -> None:
    with write_atomic(path) as temporary:
        pq.write_table(pa.table(dict(columns)), temporary, compression="zstd")
