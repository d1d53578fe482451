"""A teacher's scores out of a file: a Run over the queries and the corpus at hand, with what had to be set aside.

The forms that are understood: a Run of this library, TREC runs, FiD and DPR candidates, ColBERT's and neural-ranking-kd's
examples, and the sets of sentence-transformers (also its pickled scores), PyLate, FlagEmbedding, SimLM and Tevatron.
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int8, Int32

from retort.data.formats import check_source
from retort.data.rows import open_parquet
from retort.data.score_listings import Listing, listings
from retort.records import Corpus, Passage, Qrels, Query, Run

UNKNOWN_QUERY, UNKNOWN_PASSAGE = "unknown query", "unknown passage"
CONTRADICTED, RESCORED = "positive among the negatives", "another score of the same pair"
SHOWN = 3  # names of what was set aside
NEGATIVE, POSITIVE, UNTOLD = 0, 1, 2


@dataclass(frozen=True)
class Aside:
    """How much of a file was set aside for one reason, and the first that were."""

    count: int
    first: tuple[str, ...]


@dataclass(frozen=True)
class TeacherScores:
    """A teacher's scores; grades of 1 for the passages that the file calls positive (often none); what was set aside.

    `aside` goes by its reason: an unknown query or passage (counted once each), a positive that its own query lists as a
    negative too, and a pair that comes again with another score (counted each time it comes).
    """

    run: Run
    grades: Qrels
    aside: Mapping[str, Aside]


def read_scores(source: str, queries: Sequence[Query], corpus: Corpus) -> TeacherScores:
    """The scores of exactly `queries` in `source`; a query that is not there has no passages.

    Ids are compared as strings. Where a file has none, as FlagEmbedding's, queries go by their text, and passages by their
    text alone or with the title before it, the first of several that read the same. Of a pair that comes twice the first
    score counts, of a positive that is also a negative the positive. The name is that in the file, else the file's.
    A Run of this library goes by row: it must come from the same corpus. ValueError: none of the queries or passages known,
    a score that is not finite, a form that is not understood.
    """
    path = Path(source)
    if not source.startswith("hf:"):
        check_source(source)
    if path.is_file() and _is_run(path):
        with open_parquet(path):
            run = Run.read(path)
        return _of_run(run, source, queries, corpus)
    found = _Found(queries)
    for listing in listings(source):
        found.add(listing)
    return found.scores(source, corpus)


def full_text(passage: Passage) -> str:
    """The passage with its title before it: how sets that hold texts write it, and how they are read back."""
    return f"{passage.title} {passage.text}".strip()


@dataclass
class _List:
    """What was found of one query, in the order of the file: passages by their place among all that were named."""

    places: array = field(default_factory=lambda: array("i"))
    scores: array = field(default_factory=lambda: array("f"))
    told: array = field(default_factory=lambda: array("b"))


class _Found:
    """Listings brought together by query; flat arrays, because published sets hold 10^8 pairs."""

    def __init__(self, queries: Sequence[Query]) -> None:
        self.lists = {query.id: _List() for query in queries}
        self.ids_of: dict[str, list[str]] = defaultdict(list)
        for query in queries:
            self.ids_of[query.text.strip()].append(query.id)
        self.named: dict[str, int] = {}  # passages by id or text
        self.unknown: dict[str, None] = {}
        self.texts, self.name = False, ""

    def add(self, listing: Listing) -> None:
        self.texts, self.name = listing.passages_are_texts, self.name or listing.name
        query = str(listing.query).strip()
        owners = self.ids_of.get(query, []) if listing.query_is_text else [query] if query in self.lists else []
        if not owners:
            self.unknown[query] = None
            return
        places = [self.named.setdefault(str(passage).strip(), len(self.named)) for passage in listing.passages]
        told = [UNTOLD] * len(places)
        if listing.positives is not None:
            told = [POSITIVE] * listing.positives + [NEGATIVE] * (len(places) - listing.positives)
        for owner in owners:
            found = self.lists[owner]
            found.places.extend(places)
            found.scores.extend(listing.scores)
            found.told.extend(told)

    def scores(self, source: str, corpus: Corpus) -> TeacherScores:
        if not self.named:
            raise ValueError(_none(f"{source} scores passages for none", "queries", self.lists, self.unknown))
        names = list(self.named)
        rows_of = _rows_by_text(self.named, corpus) if self.texts else _rows_by_id(names, corpus)
        missing = np.flatnonzero(rows_of < 0)
        if len(missing) == len(names):
            raise ValueError(_none(f"{source} scores none", "passages of the corpus", corpus, names))
        aside = {UNKNOWN_QUERY: list(self.unknown), UNKNOWN_PASSAGE: [names[place] for place in missing.tolist()]}
        rows, scores, grades = [], [], {}
        for query_id, found in self.lists.items():
            places, told = np.array(found.places, np.int32), np.array(found.told, np.int8)
            kept, positive, lost = _resolved(rows_of[places], np.array(found.scores, np.float32), told)
            for reason, which in lost.items():
                aside.setdefault(reason, []).extend(f"{query_id} {names[places[at]]}" for at in np.flatnonzero(which))
            rows.append(rows_of[places[kept]])
            scores.append(np.array(found.scores, np.float32)[kept])
            if positive.any():
                grades[query_id] = dict.fromkeys(corpus.ids(rows_of[places[positive]]), 1)
        name = self.name or Path(source).name.split(".")[0]
        return TeacherScores(Run.build(name, list(self.lists), rows, scores), Qrels(grades), _asides(aside))


def _resolved(
    rows: Int32[np.ndarray, "N"], scores: Float32[np.ndarray, "N"], told: Int8[np.ndarray, "N"]
) -> tuple[Bool[np.ndarray, "N"], Bool[np.ndarray, "N"], dict[str, Bool[np.ndarray, "N"]]]:
    """Which entries of one query stay, which of those are positive, and which go for what reason.

    >>> rows, scores = np.array([4, 7, 4, -1, 7], np.int32), np.array([3, 1, 2, 9, 5], np.float32)
    >>> kept, positive, lost = _resolved(rows, scores, np.array([1, 0, 0, 0, 0], np.int8))
    >>> np.flatnonzero(kept), np.flatnonzero(positive), {why: np.flatnonzero(which) for why, which in lost.items()}
    (array([0, 1]), array([0]), {'positive among the negatives': array([2]), 'another score of the same pair': array([4])})
    """
    contradicted = (told == NEGATIVE) & np.isin(rows, rows[told == POSITIVE]) & (rows >= 0)
    kept = (rows >= 0) & ~contradicted
    at = np.flatnonzero(kept)
    _, first, which = np.unique(rows[at], return_index=True, return_inverse=True)
    again = np.zeros(len(rows), bool)
    again[at] = scores[at] != scores[at[first[which]]]
    kept[:] = False
    kept[at[first]] = True
    return kept, kept & (told == POSITIVE), {CONTRADICTED: contradicted, RESCORED: again}


def _rows_by_id(ids: Sequence[str], corpus: Corpus) -> Int32[np.ndarray, "M"]:
    """The corpus rows of passage ids, -1 where the corpus has none."""
    known = pc.SetLookupOptions(value_set=corpus.table.column("id"))
    found = pc.call_function("index_in", [pa.array(ids, pa.string())], known)
    return found.fill_null(-1).to_numpy().astype(np.int32)


def _rows_by_text(texts: Mapping[str, int], corpus: Corpus) -> Int32[np.ndarray, "M"]:
    """The first corpus rows that read as `texts`, with or without title; -1 where none does. One pass over the corpus."""
    rows = np.full(len(texts), -1, np.int32)
    for row, passage in enumerate(corpus):
        for text in (full_text(passage), passage.text.strip()):
            place = texts.get(text, -1)
            if place >= 0 > rows[place]:
                rows[place] = row
    return rows


def _is_run(path: Path) -> bool:
    """Whether a file is a Run as `Run.write` leaves it."""
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            return False
    with open_parquet(path) as file:
        schema = file.schema_arrow
    return schema.names == ["query", "passages", "scores"] and b"name" in (schema.metadata or {})


def _of_run(run: Run, source: str, queries: Sequence[Query], corpus: Corpus) -> TeacherScores:
    """A Run's own lists for `queries`. ValueError where it holds rows that the corpus has not, or none of the queries."""
    if len(run.passages) and run.passages.max() >= len(corpus):
        raise ValueError(
            f"{source} holds passage row {run.passages.max()} of a corpus of {len(corpus)} passages: a Run goes by rows, so "
            "it must come from this corpus; write it as a TREC run where it was made"
        )
    lists = [run.of(query.id) if query.id in run else (run.passages[:0], run.scores[:0]) for query in queries]
    wanted = {query.id for query in queries}
    if not any(query_id in wanted for query_id in run.query_ids):
        raise ValueError(_none(f"{source} scores passages for none", "queries", queries, run.query_ids))
    chosen = Run.build(run.name, [query.id for query in queries], [rows for rows, _ in lists], [s for _, s in lists])
    unknown = [query_id for query_id in run.query_ids if query_id not in wanted]
    return TeacherScores(chosen, Qrels({}), _asides({UNKNOWN_QUERY: unknown}))


def _asides(aside: Mapping[str, Sequence[str]]) -> dict[str, Aside]:
    return {reason: Aside(len(names), tuple(names[:SHOWN])) for reason, names in aside.items() if names}


def _none(what: str, kind: str, expected: Sequence[object] | Mapping[str, object] | Corpus, found: object) -> str:
    """The message where nothing of a file is known here."""
    named = ", ".join(map(repr, list(found)[:SHOWN])) or "nothing"  # type: ignore[call-overload]
    return f"{what} of the {len(expected)} {kind}, it names {named:.200}: compare the ids (or texts) of both"
