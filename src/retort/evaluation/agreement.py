"""How far a student orders a query's candidates as its teacher does: FiD's inversions, avg_topk and idx_topk.

The teacher's scores are the gold here, not relevance grades: those are for metrics.py.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64

from retort.evaluation.metrics import PerQuery
from retort.records import Run

DEPTHS = (1, 2, 5)  # the k of FiD's avg_topk and idx_topk


def agreement(
    student: Float[np.ndarray, "K"], teacher: Float[np.ndarray, "K"], *, depths: Sequence[int] = DEPTHS
) -> dict[str, float]:
    """`inversions` (0..K(K-1)/2, lower is better), and for each depth k `avg_topk@k` (0..1) and `idx_topk@k` (k..K).

    inversions: pairs that the student orders against the teacher. avg_topk@k: share of the student's first k that are in
    the teacher's first k. idx_topk@k: how many of the student's passages hold the teacher's first k. The candidates may
    come in any order (the released code wants them sorted by gold). Passages that the teacher ties have no order: they
    make no inversion, and are in its first k together. Passages that the student ties count in the worst order, so that
    a student without preferences does not look perfect. A k beyond K is left out.
    ValueError: scores that are not finite, and a teacher who gives every candidate the same score (unlabelled passages).
    Source: Izacard and Grave 2021 (FiD-KD), released evaluation.

    >>> agreement(np.array([3.0, 1.0, 2.0]), np.array([0.9, 0.5, 0.1]), depths=(1, 2))
    {'inversions': 1.0, 'avg_topk@1': 1.0, 'idx_topk@1': 1.0, 'avg_topk@2': 0.5, 'idx_topk@2': 3.0}
    """
    _check_scores(student, teacher)
    if min(depths, default=1) < 1:
        raise ValueError(f"found depths {tuple(depths)}, expected each to be at least 1")
    better = len(teacher) - np.searchsorted(np.sort(teacher), teacher, side="right")  # passages above, for the teacher
    predicted = better[np.lexsort((-better, -student))]
    found = {"inversions": float(count_inversions(predicted))}
    for k in (k for k in depths if k <= len(predicted)):
        found[f"avg_topk@{k}"] = float((predicted[:k] < k).mean())
        found[f"idx_topk@{k}"] = float(np.flatnonzero(predicted < k)[-1] + 1)
    return found


def run_agreement(student: Run, teacher: Run, *, depths: Sequence[int] = DEPTHS) -> PerQuery:
    """`agreement` of two Runs over the same pairs, for each query of the teacher: `labels` and the student's scores.

    Measures that one of the queries has too few candidates for are left out. ValueError names the query whose candidates
    differ, that the student lacks, or that is unlabelled.
    """
    rows: list[dict[str, float]] = []
    for query_id, passages, gold in teacher:
        if query_id not in student:
            raise ValueError(f"run {student.name!r} lacks query {query_id!r} of {teacher.name!r}: score the same pairs")
        own, scores = student.of(query_id)
        order, gold_order = np.argsort(own), np.argsort(passages)
        if not np.array_equal(own[order], passages[gold_order]):
            raise ValueError(
                f"query {query_id!r}: run {student.name!r} scores {len(own)} passages that are not the {len(passages)} of"
                f" {teacher.name!r}: score the same pairs"
            )
        try:
            rows.append(agreement(scores[order], gold[gold_order], depths=depths))
        except ValueError as error:
            raise ValueError(f"query {query_id!r} of {teacher.name!r}: {error}") from error
    shared = [measure for measure in rows[0] if all(measure in row for row in rows)] if rows else []
    values: dict[str, Float64[np.ndarray, "Q"]] = {m: np.array([row[m] for row in rows]) for m in shared}
    return PerQuery(student.name, teacher.query_ids, values)


def count_inversions(order: Int64[np.ndarray, "K"]) -> int:
    """How many pairs i < j have `order[i] > order[j]`, in O(K log K): a merge sort from blocks of 1 upwards.

    >>> count_inversions(np.array([2, 0, 1]))
    2
    """
    if len(order) < 2:
        return 0
    blocks = np.full(1 << (len(order) - 1).bit_length(), order.max())  # padding at the end inverts nothing
    blocks[: len(order)] = order
    width, inversions = 1, 0
    while width < blocks.size:
        blocks = blocks.reshape(-1, 2 * width)
        merged = np.argsort(blocks, axis=1, kind="stable")
        # a right-half value would stand at width + its own place if nothing on the left were greater than it
        places = np.nonzero(merged >= width)[1]
        inversions += len(blocks) * (width * width + width * (width - 1) // 2) - int(places.sum())
        blocks = np.take_along_axis(blocks, merged, axis=1)
        width *= 2
    return inversions


def _check_scores(student: Float[np.ndarray, "K"], teacher: Float[np.ndarray, "K"]) -> None:
    for who, scores in (("student", student), ("teacher", teacher)):
        if not np.isfinite(scores).all():
            at = int((~np.isfinite(scores)).argmax())
            raise ValueError(f"the {who}'s score of candidate {at} is {scores[at]}, expected a finite number: label again")
    if not len(teacher) or (teacher == teacher[0]).all():
        shown = f"all {teacher[0]}" if len(teacher) else "none"
        raise ValueError(
            f"the teacher's scores of the {len(teacher)} candidates are {shown}, expected at least two different ones:"
            " unlabelled passages have no order to agree with; label them first"
        )
