"""What chance gives has_answer@k: answers that any text holds ("two", "the king") make it high for any system."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from retort.evaluation.measure_names import answer_depths, check_measures
from retort.evaluation.metrics import PerQuery, answer_ranks, check_inputs, hits_within
from retort.records import Corpus, Query, Run

SHUFFLED, RANDOM = "shuffled answers", "random passages"  # the names of the floors, also in the report


def answer_floors(
    run: Run,
    corpus: Corpus,
    *,
    queries: Sequence[Query],
    measures: Sequence[str],
    rng: np.random.Generator,
    shuffles: int = 5,
) -> dict[str, PerQuery]:
    """Two floors under each `has_answer@k` of `measures`: "shuffled answers" and "random passages".

    Shuffled answers: the passages that `run` found, each query judged with the answers of another; the value of a query
    is the share of `shuffles` draws that hit. Random passages: its own answers in k passages drawn from the corpus. A
    system well above both has found something. Other measures are passed over, and no has_answer@k gives no floors.
    ValueError: as `evaluate`, and fewer than two queries, since there is then no other answer.

    >>> from retort.records import Passage
    >>> corpus = Corpus.from_passages([Passage("a", "", "It is cold."), Passage("b", "", "Water is wet.")])
    >>> run = Run.build("demo", ["q1", "q2"], [[0], [1]], [[1.0], [1.0]])
    >>> queries = [Query("q1", "what is it", ("is",)), Query("q2", "what is wet", ("water",))]
    >>> floors = answer_floors(run, corpus, queries=queries, measures=["has_answer@1"], rng=np.random.default_rng(0))
    >>> floors["shuffled answers"].measures["has_answer@1"].tolist()  # "is" stands in any text
    [0.0, 1.0]
    """
    depths = answer_depths(check_measures(measures))
    if not depths:
        return {}
    if shuffles < 1:
        raise ValueError(f"found {shuffles} shuffles, expected at least 1")
    check_inputs(run, corpus, queries)
    deepest, ids = max(depths.values()), tuple(query.id for query in queries)
    chance = random_run(corpus, queries=queries, depth=deepest, rng=rng)
    drawn = answer_ranks(chance, corpus, queries=queries, depth=deepest)
    shuffled = _shuffled_ranks(run, corpus, queries, deepest, shuffles, rng)
    of_others = {measure: hits_within(shuffled, k).mean(axis=1) for measure, k in depths.items()}
    by_chance = {measure: hits_within(drawn, k) for measure, k in depths.items()}
    return {name: PerQuery(name, ids, m) for name, m in ((SHUFFLED, of_others), (RANDOM, by_chance))}


def random_run(corpus: Corpus, *, queries: Sequence[Query], depth: int, rng: np.random.Generator) -> Run:
    """A Run of `depth` passages of the corpus for each query, drawn without repeats; all of them where it has fewer.

    >>> from retort.records import Passage
    >>> corpus = Corpus.from_passages([Passage("a", "", "It is cold."), Passage("b", "", "Water is wet.")])
    >>> len(random_run(corpus, queries=[Query("q", "")], depth=1, rng=np.random.default_rng(0)).of("q")[0])
    1
    """
    k = min(depth, len(corpus))
    drawn = [rng.choice(len(corpus), size=k, replace=False) for _ in queries]
    return Run.build(RANDOM, [query.id for query in queries], drawn, [np.arange(k, 0, -1)] * len(queries))


def _shuffled_ranks(
    run: Run, corpus: Corpus, queries: Sequence[Query], depth: int, shuffles: int, rng: np.random.Generator
) -> Int64[np.ndarray, "Q D"]:
    """The rank of the first hit of each query with the answers of another, for each draw.

    The draws of one query stand side by side in one Run, so that a passage is tokenised once for all of them.
    """
    if len(queries) < 2:
        raise ValueError(f"found {len(queries)} query, expected at least 2: there is no other answer to shuffle in")
    donors = np.stack([_other(len(queries), rng) for _ in range(shuffles)], axis=1)
    found = [run.of(query.id) if query.id in run else (np.empty(0, np.int32), np.empty(0)) for query in queries]
    judged = [
        Query(f"{i}/{draw}", query.text, queries[donors[i, draw]].answers)
        for i, query in enumerate(queries)
        for draw in range(shuffles)
    ]
    lists = [lists for lists in found for _ in range(shuffles)]
    copies = Run.build(SHUFFLED, [query.id for query in judged], [rows for rows, _ in lists], [s for _, s in lists])
    return answer_ranks(copies, corpus, queries=judged, depth=depth).reshape(len(queries), shuffles)


def _other(count: int, rng: np.random.Generator) -> Int64[np.ndarray, "Q"]:
    """For each of `count` things another one, each taken once: the next in a random circle."""
    circle = rng.permutation(count)
    other = np.empty(count, dtype=np.int64)
    other[circle] = np.roll(circle, 1)
    return other
