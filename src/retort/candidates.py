"""Which candidates a round labels, and what is known of them beside the labels: positives, ranks, allowed negatives.

Between the pipeline and the families; who labels them is in labelling.py.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int32

from retort.config import Split
from retort.data import read_candidates, read_scores
from retort.distil.curation import Curation, Positives, answer_bearing, graded, positive_rows
from retort.job import Job
from retort.plan import Step, marks_of, reads
from retort.prepared import CANDIDATES, Prepared
from retort.records import Qrels, Query, Run

NONE = np.zeros(0, np.int32)


def listed(source: str | Mapping[Split, str], splits: Mapping[str, Sequence[Query]], prepared: Prepared) -> Run:
    """The user's candidates for the prepared questions: of one file, or of a file for each split.

    `splits` are the questions as they were read: a split's own file knows them by those ids.
    """
    if isinstance(source, str):
        return read_candidates(source, prepared.queries, prepared.corpus)
    lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, file in source.items():
        found = read_candidates(file, splits[split], prepared.corpus)
        lists |= {new.id: found.of(old.id) for old, new in zip(splits[split], prepared.splits[split], strict=True)}
    ids = [query.id for query in prepared.queries if query.id in lists]
    return Run.build("file", ids, [lists[query][0] for query in ids], [lists[query][1] for query in ids])


def to_label(job: Job, step: Step) -> Run:
    """The candidates that a round's teachers score: the first of the round before, and all known positives in training."""
    found = Run.read(job.path(step.round - 1, "retrieve") / CANDIDATES).top(step.config.label.depth)
    return with_positives(found, known_positives(job, step))


def known_positives(job: Job, step: Step) -> Positives:
    """The passages of train questions that are marked as positives; none unless the round reads such marks."""
    marked = _grades(job, step, "train")
    return {} if marked is None else positive_rows(marked, job.prepared.corpus)


def with_positives(run: Run, positives: Positives) -> Run:
    """The Run with the positives that it lacks behind its last passage, at its lowest score (0 where it has none)."""
    if not positives:
        return run
    lists = {query: (rows, scores) for query, rows, scores in run}
    for query, wanted in positives.items():
        rows, scores = lists.get(query, (NONE, np.zeros(0, np.float32)))
        new = np.setdiff1d(wanted, rows)
        lists[query] = np.concatenate([rows, new]), np.append(scores, np.full(len(new), scores.min(initial=np.inf)))
    finite = [(rows, np.where(np.isfinite(scores), scores, 0.0)) for rows, scores in lists.values()]
    return Run.build(run.name, list(lists), [rows for rows, _ in finite], [scores for _, scores in finite])


def cut(run: Run, depth: int, positives: Positives) -> Run:
    """The first `depth` passages of each question, and its positives wherever they stand."""
    kept = [
        (query, (np.arange(len(rows)) < depth) | np.isin(rows, positives.get(query, NONE)), rows, scores)
        for query, rows, scores in run
    ]
    ids, passages = [query for query, *_ in kept], [rows[keep] for _, keep, rows, _ in kept]
    return Run.build(run.name, ids, passages, [scores[keep] for _, keep, _, scores in kept])


def within(run: Run, candidates: Run) -> Run:
    """What a Run says of the candidates; a question that it lacks has an empty list."""
    ids, passages, values = [], [], []
    for query, rows, _ in candidates:
        found, scores = _list(run, query)
        keep = np.isin(found, rows)
        ids.append(query)
        passages.append(found[keep])
        values.append(scores[keep])
    return Run.build(run.name, ids, passages, values)


def as_ranked(run: Run, candidates: Run, name: str) -> Run:
    """The candidates with the scores of a Run; one that it lacks gets the lowest that it gave for the question, or 0."""
    ids, passages, values = [], [], []
    for query, rows, _ in candidates:
        found, scores = _list(run, query)
        known = dict(zip(found.tolist(), scores.tolist(), strict=True))
        lowest = min(known.values(), default=0.0)
        ids.append(query)
        passages.append(rows)
        values.append(np.array([known.get(row, lowest) for row in rows.tolist()], np.float32))
    return Run.build(name, ids, passages, values)


def _grades(job: Job, step: Step, split: str) -> Qrels | None:
    """What marks the positives of a split's questions, None where answers do or nothing reads them."""
    prepared, marks = job.prepared, marks_of(step.config)
    if marks == "scores":
        files = [teacher.scores for teacher in step.config.label.teachers if teacher.scores is not None]
        found = [read_scores(file, prepared.queries, prepared.corpus).grades.grades for file in files]
        asked = [query.id for query in prepared.splits[split] if any(query.id in grades for grades in found)]
        return Qrels({query: {k: v for grades in found for k, v in grades.get(query, {}).items()} for query in asked})
    if marks != "qrels":
        return None
    grades = prepared.qrels(split) or Qrels({})  # a file may grade other splits too, and questions beyond the limit
    return Qrels({query.id: grades.grades[query.id] for query in prepared.splits[split] if query.id in grades.grades})


def _list(run: Run, query: str) -> tuple[Int32[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
    """The passages and scores of a question, none where the Run lacks it."""
    return run.of(query) if query in run else (NONE, np.zeros(0, np.float32))


def curated(job: Job, step: Step, split: str) -> Curation:
    """What the objectives need to know of the candidates of a split, and which train candidates may be negatives."""
    settings, before, needed = step.config.distil, job.path(step.round - 1, "retrieve"), reads(step.config)
    mark = ranking = shortlist = None
    if "positive" in needed:
        qrels, corpus = _grades(job, step, split), job.prepared.corpus
        mark = answer_bearing(corpus) if qrels is None else graded(positive_rows(qrels, corpus))
    if "ranks" in needed and (settings.ranks_every is None or split != "train"):  # those of dev are not renewed
        ranking = Run.read(before / "student.parquet")
    negatives = settings.negatives
    if split == "train" and mark is not None and negatives.window:
        folder = before if negatives.system == "student" else job.path(0, "retrieve")
        shortlist = Run.read(folder / f"{negatives.system}.parquet")
    margin = negatives.teacher_margin if split == "train" else None
    return Curation(mark=mark, ranking=ranking, shortlist=shortlist, window=negatives.window, teacher_margin=margin)
