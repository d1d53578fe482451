"""Measures, one value per query: ir-measures where grades exist, has_answer@k, EM and F1 where only answers do.

A mean hides which queries moved, so everything here gives back all values and `PerQuery.means` comes last.
Chance is in floors.py, doubt in significance.py, the comparison of two sets of scores in agreement.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, Int64

from retort.evaluation.measure_names import answer_depths, check_measures
from retort.records import Corpus, Qrels, Query, Run
from retort.text import KEPT_TEXTS, AnswerMatcher, exact_match, f1


@dataclass(frozen=True)
class PerQuery:
    """Values of measures for each query: `measures[m][i]` belongs to `query_ids[i]`. Finite, and at least one query.

    >>> result = PerQuery("bm25", ("q1", "q2"), {"R@5": np.array([1.0, 0.0])})
    >>> result.means(), result.select(["q2"]).measures["R@5"].tolist()
    ({'R@5': 0.5}, [0.0])
    """

    name: str
    query_ids: tuple[str, ...]
    measures: Mapping[str, Float64[np.ndarray, "Q"]]

    def __post_init__(self) -> None:
        _check_per_query(self)

    def __len__(self) -> int:
        return len(self.query_ids)

    def means(self) -> dict[str, float]:
        """The mean of each measure over the queries."""
        return {measure: float(values.mean()) for measure, values in self.measures.items()}

    def select(self, query_ids: Sequence[str]) -> "PerQuery":
        """The values of `query_ids`, in that order. ValueError names the first query that is not here."""
        place = {query_id: i for i, query_id in enumerate(self.query_ids)}
        missing = next((query_id for query_id in query_ids if query_id not in place), None)
        if missing is not None:
            raise ValueError(
                f"{self.name!r} has no value for query {missing!r}, only for {len(self)} others: evaluate the same queries"
            )
        rows = [place[query_id] for query_id in query_ids]
        return PerQuery(self.name, tuple(query_ids), {m: values[rows] for m, values in self.measures.items()})

    def write(self, path: Path) -> None:
        """One parquet file: a column `query`, then one column for each measure; the name in its metadata."""
        columns = {"query": pa.array(self.query_ids, pa.string()), **self.measures}
        pq.write_table(pa.table(columns).replace_schema_metadata({"name": self.name}), path, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> "PerQuery":
        """The values that `write` put at `path`, checked again."""
        table = pq.read_table(path)
        measures = {m: table.column(m).to_numpy() for m in table.column_names if m != "query"}
        return cls(table.schema.metadata[b"name"].decode(), tuple(table.column("query").to_pylist()), measures)


def evaluate(
    run: Run, corpus: Corpus, *, queries: Sequence[Query], measures: Sequence[str], qrels: Qrels | None = None
) -> PerQuery:
    """Each measure of `run` for each of `queries`, in their order; 0 where the Run does not answer the query.

    Measures are ir-measures names (`nDCG@10`, `R@100`, `RR@10`; a grade of 1 or more is relevant, `R(rel=2)@100` asks
    for more), which need `qrels`, and `has_answer@k`, which needs answers. Passages that the qrels do not judge count as
    not relevant. The order is the Run's own, also among equal scores, whatever the tie-breaking of the library below.
    ValueError: no query, an unknown measure, a query without grades or answers, a Run of another corpus.

    >>> from retort.records import Passage
    >>> corpus = Corpus.from_passages([Passage("a", "", "It is cold."), Passage("b", "", "Water is wet.")])
    >>> run, query = Run.build("demo", ["q"], [[0, 1]], [[2.0, 1.0]]), Query("q", "what is wet", ("water",))
    >>> names = ["RR@10", "has_answer@1", "has_answer@2"]
    >>> evaluate(run, corpus, queries=[query], measures=names, qrels=Qrels({"q": {"b": 1}})).means()
    {'RR@10': 0.5, 'has_answer@1': 0.0, 'has_answer@2': 1.0}
    """
    names = check_measures(measures)
    check_inputs(run, corpus, queries)
    depths = answer_depths(names)
    judged = [name for name in names if name not in depths]
    values: dict[str, Float64[np.ndarray, "Q"]] = {}
    if depths:
        ranks = answer_ranks(run, corpus, queries=queries, depth=max(depths.values()))
        values |= {name: hits_within(ranks, k) for name, k in depths.items()}
    if judged:
        values |= _judge(run, corpus, queries, judged, qrels)
    return PerQuery(run.name, tuple(query.id for query in queries), {name: values[name] for name in names})


def answer_ranks(run: Run, corpus: Corpus, *, queries: Sequence[Query], depth: int) -> Int64[np.ndarray, "Q"]:
    """The rank (from 1) of the first of `depth` passages whose text has an answer (`text.has_answer`), -1 without one.

    Only the text is searched, not the title (DPR). One pass gives has_answer@k for every k up to `depth`, by
    `hits_within`. ValueError: depth below 1, no query, a question without answers, a Run of another corpus.
    """
    if depth < 1:
        raise ValueError(f"found depth {depth}, expected at least 1: say how many passages of each query to look at")
    check_inputs(run, corpus, queries)
    _check_answers(queries)
    text = lru_cache(maxsize=KEPT_TEXTS)(lambda row: corpus[row].text)  # queries share passages
    return np.array([_first_hit(query, run, depth, text) for query in queries], dtype=np.int64)


def hits_within(ranks: Int64[np.ndarray, "*shape"], k: int) -> Float64[np.ndarray, "*shape"]:
    """has_answer@k: 1 where a rank from `answer_ranks` is at most `k`, else 0.

    >>> hits_within(np.array([1, 20, 21, -1]), 20).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    return ((ranks >= 1) & (ranks <= k)).astype(np.float64)


def answer_scores(predictions: Mapping[str, str], *, queries: Sequence[Query], name: str = "reader") -> PerQuery:
    """`EM` and `F1` (0..1) of a reader's predictions by query id; 0 for a query without a prediction.

    ValueError: no query, a question without answers, no prediction for any of the queries.

    >>> answer_scores({"q": "the blue house"}, queries=[Query("q", "which house", ("tall blue house",))]).means()
    {'EM': 0.0, 'F1': 0.8}
    """
    _check_known(predictions, queries, f"the predictions of {name!r}")
    _check_answers(queries)
    given = [(predictions[query.id], query.answers) if query.id in predictions else ("", ()) for query in queries]
    measures = {
        "EM": np.array([exact_match(text, answers) for text, answers in given], dtype=np.float64),
        "F1": np.array([f1(text, answers) for text, answers in given], dtype=np.float64),
    }
    return PerQuery(name, tuple(query.id for query in queries), measures)


def check_inputs(run: Run, corpus: Corpus, queries: Sequence[Query]) -> None:
    """ValueError where there is no query, where the Run answers none of them, or where it is of another corpus."""
    _check_known(run, queries, f"run {run.name!r}")
    if len(run.passages) and not 0 <= run.passages.min() <= run.passages.max() < len(corpus):
        raise ValueError(
            f"run {run.name!r} holds passage rows {run.passages.min()} to {run.passages.max()}, expected rows of the corpus"
            f" of {len(corpus)} passages: give the corpus that the run was made from"
        )


def _judge(
    run: Run, corpus: Corpus, queries: Sequence[Query], names: Sequence[str], qrels: Qrels | None
) -> dict[str, Float64[np.ndarray, "Q"]]:
    """The ir-measures of the Run. Queries and passages go in as numbers, since gdeval takes nothing else.

    Scores are made from ranks: pytrec_eval puts equal scores in descending order of id, other providers in ascending.
    One evaluator for each measure: together, an nDCG without `gains` may be given the gains of another (ir-measures 0.4).
    """
    grades = _grades(queries, names, qrels)
    judged: dict[str, dict[str, int]] = {}
    ranked: dict[str, dict[str, float]] = {}
    found = [run.of(query.id)[0].tolist() if query.id in run else [] for query in queries]
    ids_in_order = iter(corpus.ids(list(chain.from_iterable(found))))  # one look-up in the corpus for all queries
    for i, (rows, graded) in enumerate(zip(found, grades, strict=True)):
        ids = list(islice(ids_in_order, len(rows)))
        number = {passage_id: str(n) for n, passage_id in enumerate(dict.fromkeys([*ids, *graded]))}
        judged[str(i)] = {number[passage_id]: int(grade) for passage_id, grade in graded.items()}
        ranked[str(i)] = {number[passage_id]: float(len(ids) - place) for place, passage_id in enumerate(ids)}
    values = {}
    for name in names:
        measure = ir_measures.parse_measure(name)
        value = {m.query_id: m.value for m in ir_measures.evaluator([measure], judged).iter_calc(ranked)}
        values[name] = np.array([value.get(str(i), measure.DEFAULT) for i in range(len(queries))], dtype=np.float64)
    return values


def _first_hit(query: Query, run: Run, depth: int, text: Callable[[int], str]) -> int:
    matcher = AnswerMatcher(query.answers)
    rows = run.of(query.id)[0][:depth].tolist() if query.id in run else []
    return next((rank for rank, row in enumerate(rows, start=1) if matcher.matches(text(row))), -1)


def _grades(queries: Sequence[Query], names: Sequence[str], qrels: Qrels | None) -> list[Mapping[str, int]]:
    if qrels is None:
        raise ValueError(f"measure {names[0]!r} needs qrels and none were given: give qrels, or ask for has_answer@k")
    missing = [query.id for query in queries if query.id not in qrels.grades]
    if missing:
        raise ValueError(
            f"query {missing[0]!r} has no grades in the qrels ({len(missing)} of {len(queries)} have none), and {names[0]}"
            " needs them: evaluate the judged queries only"
        )
    return [qrels.grades[query.id] for query in queries]


def _check_known(known: Run | Mapping[str, str], queries: Sequence[Query], what: str) -> None:
    """ValueError where there is no query, or where none of them is known: then the ids are of another set."""
    if not queries:
        raise ValueError(f"no queries to evaluate {what} on: found 0, expected at least 1; check the split")
    if not any(query.id in known for query in queries):
        raise ValueError(
            f"none of the {len(queries)} queries is in {what}, not even {queries[0].id!r}: give the queries of its split"
        )


def _check_answers(queries: Sequence[Query]) -> None:
    without = [query.id for query in queries if not query.answers]
    if without:
        raise ValueError(
            f"query {without[0]!r} has no answers ({len(without)} of {len(queries)} have none): has_answer@k, EM and F1 need"
            " them; leave such queries out or use qrels"
        )


def _check_per_query(result: PerQuery) -> None:
    if not result.query_ids:
        raise ValueError(f"{result.name!r} holds no queries, expected at least 1: check what was evaluated")
    if len(set(result.query_ids)) != len(result.query_ids):
        twice = next(q for i, q in enumerate(result.query_ids) if q in result.query_ids[:i])
        raise ValueError(f"{result.name!r} lists query {twice!r} twice: give each query once")
    for measure, values in result.measures.items():
        if values.shape != (len(result),):
            raise ValueError(
                f"{result.name!r}: {measure} has shape {values.shape}, expected ({len(result)},): one value for each query"
            )
        if not np.isfinite(values).all():
            at = int((~np.isfinite(values)).argmax())
            raise ValueError(
                f"{result.name!r}: {measure} of query {result.query_ids[at]!r} is {values[at]}, expected a finite number:"
                " the measure is not defined for this query, so leave one of the two out"
            )
