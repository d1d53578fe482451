"""The records that flow through every stage: queries, passages, the corpus, relevance grades, and the Run.

A Run is the one table of the house: candidates, results and a teacher's labels are all Runs. Nothing here needs torch.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float32, Int32, Int64

CORPUS_SCHEMA = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.large_string())])
WRITE_ROWS = 10_000  # passages per Arrow record batch: a few MB, so that a row is found without reading much


@dataclass(frozen=True, slots=True)
class Query:
    """A question, with the answers that evaluation and the reader may use (empty where only retrieval is wanted)."""

    id: str
    text: str
    answers: tuple[str, ...] = ()
    target: str | None = None  # the one answer to train a reader on, where FiD's data names it beside the others


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of the corpus that can be retrieved."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """One query and its candidates: what a teacher sees, because a reader scores all K together."""

    query: Query
    passages: tuple[Passage, ...]
    positive: tuple[bool, ...] = ()


class Corpus:
    """Passages by row number, memory-mapped: 21 million passages never become 21 million Python objects.

    >>> corpus = Corpus.from_passages([Passage("a", "Snow", "It is cold."), Passage("b", "", "Water is wet.")])
    >>> len(corpus), corpus[1].text, corpus.rows(["b", "a"]).tolist()
    (2, 'Water is wet.', [1, 0])
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._starts = np.cumsum([0] + [len(chunk) for chunk in table.column("id").chunks])

    @classmethod
    def open(cls, path: Path) -> "Corpus":
        """The corpus in an Arrow file that `write` made; nothing is read until it is asked for."""
        with pa.memory_map(str(path)) as source:
            return cls(pa.ipc.open_file(source).read_all())

    @classmethod
    def from_passages(cls, passages: Iterable[Passage]) -> "Corpus":
        """A corpus in memory, checked like a written one. For small sets and tests."""
        return cls(_checked(pa.Table.from_batches(list(_batches(passages)), schema=CORPUS_SCHEMA)))

    @staticmethod
    def write(path: Path, passages: Iterable[Passage]) -> int:
        """How many passages went to `path`, streamed. ValueError: empty corpus, duplicate id, empty text."""
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, CORPUS_SCHEMA) as writer:
            for batch in _batches(passages):
                writer.write_batch(batch)
        return _checked(Corpus.open(path).table).num_rows

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, row: int) -> Passage:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside the corpus of {len(self)} passages")
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        return Passage(*(column.chunk(chunk)[row - self._starts[chunk]].as_py() for column in self.table.columns))

    def __iter__(self) -> Iterator[Passage]:
        for batch in self.table.to_batches():
            yield from map(Passage, *(column.to_pylist() for column in batch.columns))

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """The passage ids at `rows`, in that order; one call for many rows is much faster than many calls."""
        return self.table.column("id").take(pa.array(np.asarray(rows, dtype=np.int64))).to_pylist()

    def rows(self, ids: Sequence[str]) -> Int32[np.ndarray, "N"]:
        """The rows of `ids`, in that order. ValueError names the first id that the corpus does not hold."""
        wanted = pa.array(ids, pa.string()).dictionary_encode()
        known = pc.SetLookupOptions(value_set=wanted.dictionary)
        places = np.full(len(wanted.dictionary), -1, np.int32)
        # the corpus is looked up in the wanted ids, not they in it: a table of its ids would not fit where it is large
        for start, chunk in zip(self._starts, self.table.column("id").chunks, strict=False):
            found = pc.call_function("index_in", [chunk], known)
            places[found.drop_null().to_numpy()] = start + np.flatnonzero(found.is_valid())
        rows = places[wanted.indices.to_numpy()]
        if (rows < 0).any():
            raise ValueError(
                f"passage id {ids[int(rows.argmin())]!r} is not in the corpus of {len(self)} passages ({(rows < 0).sum()} "
                f"of {len(ids)} ids are unknown): give the corpus that the ids come from"
            )
        return rows


def _batches(passages: Iterable[Passage]) -> Iterator[pa.RecordBatch]:
    """Arrow batches of WRITE_ROWS passages."""
    rows = map(_with_text, passages)
    while batch := list(islice(rows, WRITE_ROWS)):
        columns = zip(*((p.id, p.title, p.text) for p in batch), strict=True)
        yield pa.record_batch(dict(zip(CORPUS_SCHEMA.names, columns, strict=True)), schema=CORPUS_SCHEMA)


def _with_text(passage: Passage) -> Passage:
    """The passage. ValueError where its text is empty, which no later stage could repair."""
    if not passage.text.strip():
        raise ValueError(f"passage {passage.id!r} has an empty text: drop it from the corpus or give it a text")
    return passage


def _checked(table: pa.Table) -> pa.Table:
    """The corpus. ValueError where it is empty or an id stands twice; 8 bytes a passage are held, not the ids."""
    if not table.num_rows:
        raise ValueError("the corpus is empty: found 0 passages, expected at least 1; check the path of the corpus")
    chunks = table.column("id").chunks
    hashes = np.concatenate([np.fromiter(map(hash, chunk.to_pylist()), np.int64, len(chunk)) for chunk in chunks])
    ordered = np.sort(hashes)
    repeated = np.isin(hashes, ordered[1:][ordered[1:] == ordered[:-1]])
    counts = table.column("id").filter(pa.array(repeated)).value_counts()
    twice = counts.filter(pa.array(counts.field("counts").to_numpy() > 1))
    if len(twice):
        raise ValueError(
            f"passage id {twice[0]['values'].as_py()!r} appears {twice[0]['counts'].as_py()} times in the corpus "
            f"({len(twice)} ids are repeated): every passage needs an id of its own"
        )
    return table


@dataclass(frozen=True)
class Qrels:
    """Relevance grades: query id -> passage id -> grade. For evaluation; in training only where a user asks for it."""

    grades: Mapping[str, Mapping[str, int]]

    def __len__(self) -> int:
        return len(self.grades)


@dataclass(frozen=True)
class Run:
    """Ranked passages of queries: int32 corpus rows and raw float32 scores, flat, with `starts` marking the queries.

    Within a query the scores are finite and descending, each passage is unique, and equal scores stand in corpus order.
    A query may have no passage. `Run.build` sorts; the constructor only checks.

    >>> run = Run.build("demo", ["q1", "q2"], [[3, 1], [2]], [[0.5, 2.0], [1.0]])
    >>> run.passages.tolist(), run.scores.tolist(), run.starts.tolist()
    ([1, 3, 2], [2.0, 0.5, 1.0], [0, 2, 3])
    >>> run.of("q1")[0].tolist()
    [1, 3]
    """

    name: str
    query_ids: tuple[str, ...]
    starts: Int64[np.ndarray, "S"]  # Q + 1 borders: query i owns rows starts[i] to starts[i + 1]
    passages: Int32[np.ndarray, "N"]
    scores: Float32[np.ndarray, "N"]

    def __post_init__(self) -> None:
        _check_run(self)
        object.__setattr__(self, "_position", {query_id: i for i, query_id in enumerate(self.query_ids)})

    @classmethod
    def build(
        cls,
        name: str,
        query_ids: Sequence[str],
        passages: Sequence[Sequence[int] | np.ndarray],
        scores: Sequence[Sequence[float] | np.ndarray],
    ) -> "Run":
        """A Run from one list of corpus rows and one list of scores for each query, in any order."""
        lengths = [len(rows) for rows in passages]
        for query_id, length, given in zip(query_ids, lengths, scores, strict=True):
            if length != len(given):
                raise ValueError(f"run {name!r}, query {query_id!r}: {length} passages but {len(given)} scores; one each")
        flat_rows = np.concatenate([np.asarray(rows, np.int32) for rows in passages] or [np.empty(0, np.int32)])
        flat_scores = np.concatenate([np.asarray(s, np.float32) for s in scores] or [np.empty(0, np.float32)])
        owner = np.repeat(np.arange(len(lengths)), lengths)
        order = np.lexsort((flat_rows, -flat_scores, owner))
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(name, tuple(query_ids), starts, flat_rows[order], flat_scores[order])

    def __len__(self) -> int:
        return len(self.query_ids)

    def __iter__(self) -> Iterator[tuple[str, Int32[np.ndarray, "n"], Float32[np.ndarray, "n"]]]:
        for query_id in self.query_ids:
            yield query_id, *self.of(query_id)

    def of(self, query_id: str) -> tuple[Int32[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
        """The rows and scores of one query, best first. KeyError where the Run does not hold the query."""
        i = self._position[query_id]  # type: ignore[attr-defined]
        span = slice(self.starts[i], self.starts[i + 1])
        return self.passages[span], self.scores[span]

    def __contains__(self, query_id: str) -> bool:
        return query_id in self._position  # type: ignore[attr-defined]

    def top(self, depth: int) -> "Run":
        """The first `depth` passages of each query."""
        rank = np.arange(len(self.passages)) - np.repeat(self.starts[:-1], np.diff(self.starts))
        keep = rank < depth
        starts = np.concatenate([[0], np.cumsum(np.minimum(np.diff(self.starts), depth))]).astype(np.int64)
        return Run(self.name, self.query_ids, starts, self.passages[keep], self.scores[keep])

    def select(self, query_ids: Sequence[str]) -> "Run":
        """The same lists for `query_ids`, in that order. KeyError for a query that the Run does not hold."""
        lists = [self.of(query_id) for query_id in query_ids]
        return Run.build(self.name, query_ids, [rows for rows, _ in lists], [scores for _, scores in lists])

    def write(self, path: Path) -> None:
        """One parquet file, a row for each query: `query`, and its lists `passages` (corpus rows) and `scores`."""
        lists = {"passages": self.passages, "scores": self.scores}
        columns = {name: pa.LargeListArray.from_arrays(self.starts, pa.array(values)) for name, values in lists.items()}
        table = pa.table({"query": pa.array(self.query_ids, pa.string()), **columns})
        pq.write_table(table.replace_schema_metadata({"name": self.name}), path, compression="lz4", use_dictionary=False)

    @classmethod
    def read(cls, path: Path) -> "Run":
        """The Run that `write` put at `path`, checked again. ValueError where the file holds something else."""
        table = pq.ParquetFile(path).read().combine_chunks()
        if table.column_names != ["query", "passages", "scores"] or b"name" not in (table.schema.metadata or {}):
            raise ValueError(f"{path} is no Run: it has columns {table.column_names}; expected query, passages, scores")
        passages, scores = (pa.concat_arrays(table.column(name).chunks) for name in ("passages", "scores"))
        lengths = [0] if not len(table) else np.concatenate([[0], passages.value_lengths().to_numpy()])
        return cls(
            table.schema.metadata[b"name"].decode(),
            tuple(table.column("query").to_pylist()),
            np.cumsum(lengths, dtype=np.int64),
            passages.flatten().to_numpy(),
            scores.flatten().to_numpy(),
        )


def _check_run(run: Run) -> None:
    """ValueError that names the run, the query and the value where a promise of the Run does not hold."""
    if len(set(run.query_ids)) != len(run.query_ids):
        twice = next(query for query, count in Counter(run.query_ids).items() if count > 1)
        raise ValueError(f"run {run.name!r} lists query {twice!r} twice: give each query once, with all its passages")
    if len(run.starts) != len(run.query_ids) + 1 or run.starts[-1] != len(run.passages):
        raise ValueError(f"run {run.name!r}: starts do not match {len(run.query_ids)} queries and {len(run.passages)} rows")
    owner = np.repeat(np.arange(len(run.query_ids)), np.diff(run.starts))
    if len(run.passages) and run.passages.min() < 0:
        raise ValueError(f"run {run.name!r} holds passage row {run.passages.min()}: rows count from 0; drop missing hits")
    bad = ~np.isfinite(run.scores)
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(
            f"run {run.name!r}, query {run.query_ids[owner[at]]!r}, passage row {run.passages[at]}: score is "
            f"{run.scores[at]}, expected a finite number; look at what scored it (overflow in half precision is usual)"
        )
    rises, level = np.diff(run.scores) > 0, run.scores[1:] == run.scores[:-1]
    moved = np.flatnonzero((np.diff(owner) == 0) & (rises | (level & (np.diff(run.passages) < 0))))
    if len(moved):
        query = run.query_ids[owner[moved[0]]]
        raise ValueError(f"run {run.name!r}, query {query!r} is not in descending order: use Run.build")
    pairs = np.sort(owner.astype(np.int64) << 32 | run.passages.astype(np.int64))
    if (again := np.diff(pairs) == 0).any():
        pair = int(pairs[again.argmax()])
        raise ValueError(
            f"run {run.name!r}, query {run.query_ids[pair >> 32]!r} holds passage row {pair & 0xFFFFFFFF} twice"
        )


@runtime_checkable
class Teacher(Protocol):
    """Gives one raw score for each passage of each group; a reader sees all passages of a group together."""

    def score(self, groups: Sequence[Group]) -> list[Float32[np.ndarray, "K"]]:
        """Raw scores, one array for each group, in the order of its passages."""
        ...


class Retriever(Protocol):
    """Finds the best `k` passages of the corpus for each query."""

    def search(self, queries: Sequence[Query], k: int, *, name: str) -> Run:
        """The best `k` passages of each query as a Run called `name`; fewer where the corpus or the index has fewer."""
        ...
