"""How a round's search keeps up with its student: the corpus encoded anew, or old vectors, and fresh ones of what they find.

Between the pipeline and the families. With `encode.refresh: rerank` the vectors of the round before stay (Atlas, arXiv
2208.03299, section 2.4): the new student's queries search them for the first L passages, which are then ranked by vectors
of the new student. A passage that the stored vectors do not put among the first L is missed, however good it is now.
`auto` measures first how much that changes. Stored vectors may be several rounds old; fresh ones never stand among them.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from retort.config import Index
from retort.job import Job
from retort.plan import Step, refresh_of, rerank_depth, stored_round
from retort.prepared import limited
from retort.records import Query, Run
from retort.searching import BM25, Encodings, Found, kind_of, lost, passages_of, search_vectors, student_of
from retort.store import COST, MANIFEST, PARTS, STARTED, read_json, write_atomic, write_json, write_parts
from retort.students.loading import AnyStudent

PRECISION = "precision.json"  # that the vectors beside it were computed in, before they were rounded for the disk
FRESH, ROWS, CHOICE = "fresh", "rows.npy", "refresh.json"  # of the encode stage; fresh/ holds the rows and their parts
REFRESH, MADE_BY = "refresh", "vectors of round"  # facts that it leaves


def encode_passages(job: Job, step: Step) -> dict[str, Any]:
    """The facts of a round's encode stage: its parts are the corpus by its own student, or stored vectors, which stay.

    Where they stay to be re-ranked, fresh vectors of all that they find for the questions of the run lie beside them.
    """
    refresh, corpus, main = refresh_of(step.config, step.round), job.prepared.corpus, job.accelerator.is_main_process
    if refresh == "keep":
        if main:
            _keep(job, step)
        return {"items": 0, REFRESH: refresh, MADE_BY: _made_by(job, step)}
    student = student_of(job, step.round)
    facts = _chosen(job, step, student) if refresh == "auto" else {REFRESH: refresh}
    if facts[REFRESH] == "full":
        _write(job, step, student, step.path, range(len(corpus)))
        return {"items": len(corpus), "dimensions": student.dimension, **facts, MADE_BY: step.round}
    if main and not (step.path / FRESH / ROWS).exists():
        _keep(job, step)
        _write_rows(step.path / FRESH / ROWS, _found(job, step, student, job.prepared.queries)[1])
    job.accelerator.wait_for_everyone()
    rows = np.load(step.path / FRESH / ROWS)
    _write(job, step, student, step.path / FRESH, rows)
    job.accelerator.wait_for_everyone()
    measured = {} if refresh == "auto" else _staleness(job, step, student)
    return {"items": len(rows), **facts, **measured, MADE_BY: _made_by(job, step)}


def index_passages(job: Job, step: Step) -> dict[str, Any]:
    """The facts of a round's index stage: an index of its vectors, or a copy of the one that the kept vectors have."""
    kind, passages, kept = kind_of(job, step.round), passages_of(job, step.round), stored_round(step.config, step.round)
    stays = job.steps[f"round-{step.round}/encode"].folder.manifest().get(MADE_BY) != step.round
    before = job.steps[f"round-{kept}/index"] if kept is not None and stays else None
    if before and before.folder.state() == "done" and before.config.index == step.config.index:
        own = shutil.ignore_patterns(MANIFEST, STARTED, COST, BM25)
        shutil.copytree(before.path, step.path, ignore=own, dirs_exist_ok=True)
        built = kind.load(step.path, passages)
    else:
        built = kind.build(passages, step.config.index, step.config.seed)
        built.save(step.path)
    return {"items": len(passages), **lost(job, step.round, built, job.prepared.splits["dev"])}


def search_student(job: Job, number: int, queries: Sequence[Query], k: int) -> Run:
    """What the student of a round finds: in its index, and by fresh vectors where those of its index are kept to re-rank.

    Fresh vectors that are not stored, as of another question, are made here.
    """
    step, student = job.steps[f"round-{number}/encode"], student_of(job, number)
    asked = student.embed(queries, "query", autocast=job.precision)
    if step.folder.manifest().get(REFRESH) == "rerank":
        _, found = search_vectors(job, number, asked, max(k, rerank_depth(step.config)))
        scores, rows = _reranked(job, step, student, asked, found, k)
    else:
        scores, rows = search_vectors(job, number, asked, k)
    return Run.build(f"round-{number}" if number else "untouched", [query.id for query in queries], rows, scores)


def overlap(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """The mean share of each list of `before` that stands in that of `after` too; an empty list counts as 0.

    >>> overlap([np.array([4, 2]), np.array([7])], [np.array([2, 9]), np.array([7])])
    0.75
    """
    return float(np.mean([np.isin(old, new).mean() if len(old) else 0.0 for old, new in zip(before, after, strict=True)]))


def _chosen(job: Job, step: Step, student: AnyStudent) -> dict[str, Any]:
    """What the probe says, "full" or "rerank", and what it measured. Kept at once: a resumed stage does not ask again."""
    path = step.path / CHOICE
    if job.accelerator.is_main_process and not path.exists():
        measured = _staleness(job, step, student)
        stale = min(measured.values()) < step.config.encode.stale_below
        write_json(path, {REFRESH: "full" if stale else "rerank", **measured})
    job.accelerator.wait_for_everyone()
    return read_json(path)


def _staleness(job: Job, step: Step, student: AnyStudent) -> dict[str, float]:
    """How many of the first K by stored vectors stay among them by fresh ones, over some dev questions; K is in its name.

    No more of them could stay if the whole corpus were encoded anew: what is among the first K of all is so of any L.
    """
    settings = step.config.encode
    queries = limited(job.prepared.splits["dev"], settings.probe_questions)
    asked, found = _found(job, step, student, queries)
    _, fresh = _reranked(job, step, student, asked, found, settings.probe_depth)
    kept = overlap([rows[: settings.probe_depth] for rows in found], fresh)
    return {f"overlap@{settings.probe_depth}": kept}


def _found(
    job: Job, step: Step, student: AnyStudent, queries: Sequence[Query]
) -> tuple[Encodings, list[Int32[np.ndarray, "_"]]]:
    """The encoded queries, and the first L passages of each by the stored vectors."""
    asked = student.embed(queries, "query", autocast=job.precision)
    return asked, search_vectors(job, _stored(step), asked, rerank_depth(step.config))[1]


def _reranked(
    job: Job, step: Step, student: AnyStudent, asked: Encodings, found: Sequence[Int32[np.ndarray, "_"]], k: int
) -> Found:
    """Scores and rows of the best `k` of what was found for each query, by fresh vectors: an exact search among them."""
    kind, fresh = kind_of(job, step.round), _fresh(job, step, student, np.unique(np.concatenate(found)))
    scores, rows = [np.empty(0, np.float32)] * len(found), [np.empty(0, np.int32)] * len(found)
    for place, own in enumerate(map(np.sort, found)):
        if len(own):
            index = kind.build(fresh(own), Index(exact_up_to=len(own)), 0)
            best_scores, best = index.search(kind.one(asked, place), k)  # type: ignore[arg-type]
            scores[place], rows[place] = best_scores[0], own[best[0]]
    return scores, rows


def _fresh(
    job: Job, step: Step, student: AnyStudent, wanted: Int32[np.ndarray, "n"]
) -> Callable[[Int32[np.ndarray, "_"]], Any]:
    """What gives the fresh vectors of any of the wanted rows as parts: those that the stage left, others made in memory."""
    kind, folder, settings = kind_of(job, step.round), step.path / FRESH, step.config.encode
    kept = (folder / ROWS).exists() and read_json(folder / PRECISION) == job.precision_name  # else all are made anew
    stored = np.load(folder / ROWS) if kept else np.empty(0, np.int32)
    missing = np.setdiff1d(wanted, stored)
    held = [kind.open(folder / PARTS)] if len(stored) else []
    if len(missing):
        passages = [job.prepared.corpus[row] for row in missing.tolist()]
        made = student.embed(passages, "passage", batch_tokens=settings.batch_tokens, autocast=job.precision)
        held.append(kind.hold(made))
    parts = type(held[0])(tuple(part for one in held for part in one.parts)) if held else None
    rows = np.concatenate([stored, missing])
    order = np.argsort(rows)
    return lambda own: kind.hold(kind.take(parts, order[np.searchsorted(rows, own, sorter=order)]))


def _write(job: Job, step: Step, student: AnyStudent, folder: Path, rows: Sequence[int] | Int[np.ndarray, "n"]) -> None:
    """The parts of the vectors of corpus rows, in `folder`, by the processes together."""
    settings, kind, corpus = step.config.encode, kind_of(job, step.round), job.prepared.corpus
    _hold_precision(job, folder)
    cuts = range(0, len(rows), settings.passages_per_part)
    with job.bars("passages encoded", len(rows)) as bar:

        def write(part: int, path: Path) -> None:
            passages = [corpus[int(row)] for row in rows[cuts[part] : cuts[part] + settings.passages_per_part]]
            kind.write(path, student.embed(passages, "passage", batch_tokens=settings.batch_tokens, autocast=job.precision))
            bar(len(passages))

        write_parts(folder, len(cuts), write, ending=kind.ending, mine=job.mine)


def _hold_precision(job: Job, folder: Path) -> None:
    """ValueError where parts were begun in another precision, as vectors of two would be compared with each other."""
    path, now = folder / PRECISION, job.precision_name
    before = read_json(path) if path.exists() else now
    job.accelerator.wait_for_everyone()  # until here all look
    if before != now:
        raise ValueError(
            f"{folder} was begun in {before}, and this computes in {now}: set compute.precision to {before}, or build it "
            "again with --force"
        )
    if job.accelerator.is_main_process:
        write_json(path, now)


def _keep(job: Job, step: Step) -> None:
    """The stored vectors, copied: a round's folder can be used alone."""
    shutil.copytree(job.path(_stored(step), "encode") / PARTS, step.path / PARTS, dirs_exist_ok=True)


def _made_by(job: Job, step: Step) -> int:
    """The round whose student made the stored vectors, however many rounds have kept them."""
    stored = _stored(step)
    return job.steps[f"round-{stored}/encode"].folder.manifest().get(MADE_BY, stored)  # earlier versions do not say


def _write_rows(path: Path, found: Sequence[Int32[np.ndarray, "_"]]) -> None:
    """Every row that was found, once, in ascending order."""
    with write_atomic(path) as temporary, temporary.open("wb") as sink:
        np.save(sink, np.unique(np.concatenate(found)))


def _stored(step: Step) -> int:
    """The round whose vectors may stay; asked only where one may."""
    stored = stored_round(step.config, step.round)
    assert stored is not None
    return stored
