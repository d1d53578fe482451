"""Candidates of several Runs as one Run. Not here: fusing scores, which belongs to teachers."""

from collections.abc import Sequence

from retort.records import Run


def union(name: str, runs: Sequence[Run]) -> Run:
    """Candidates of several Runs as one: every passage that any of them holds, scored by its best reciprocal rank.

    Scores of different systems do not compare, ranks do. Passages at the same best rank stand in corpus order.

    >>> a, b = Run.build("a", ["q"], [[1, 2]], [[9.0, 8.0]]), Run.build("b", ["q"], [[3, 1]], [[0.2, 0.1]])
    >>> [values.tolist() for values in union("both", [a, b]).of("q")]
    [[1, 3, 2], [1.0, 1.0, 0.5]]
    """
    query_ids = list(dict.fromkeys(query_id for run in runs for query_id in run.query_ids))
    passages, scores = [], []
    for query_id in query_ids:
        best: dict[int, float] = {}
        for run in runs:
            for rank, row in enumerate(run.of(query_id)[0].tolist() if query_id in run else [], start=1):
                best[row] = max(best.get(row, 0.0), 1.0 / rank)
        passages.append(list(best))
        scores.append(list(best.values()))
    return Run.build(name, query_ids, passages, scores)
