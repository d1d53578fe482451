"""Who labels a round's candidates, how the labels come about, and what else is known of the candidates.

Between the pipeline and the families: makes teachers from their settings, writes each one's scores in parts, fuses them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retort.config import Config, TeacherSettings
from retort.data import read_scores
from retort.distil.curation import Curation, answer_bearing, graded
from retort.distil.method import Method
from retort.job import Job
from retort.plan import Step
from retort.prepared import CANDIDATES
from retort.records import Run, Teacher
from retort.store import PARTS, write_parts
from retort.teachers.answers import AnswersTeacher
from retort.teachers.cross_encoder import CrossEncoderTeacher
from retort.teachers.fid.loading import load_reader
from retort.teachers.fid.teacher import FidTeacher, answer_groups
from retort.teachers.fused import calibrated, fuse, unshared
from retort.teachers.loading import load_cross_encoder, load_retriever
from retort.teachers.raw import check_raw
from retort.teachers.retriever import RetrieverTeacher

LABELS, MODEL = "labels.parquet", "model"
MOST_MAPS = 20  # questions whose heat-map is kept; report.maps says how many are shown


def to_label(job: Job, step: Step) -> Run:
    """The candidates that a round's teachers score: the first of the round before, and all known positives in training."""
    found = Run.read(job.path(step.round - 1, "retrieve") / CANDIDATES).top(step.config.label.depth)
    qrels, corpus = job.prepared.qrels("train"), job.prepared.corpus
    if qrels is None:
        return found
    lists = {query: (rows, scores) for query, rows, scores in found}
    for query, judged in qrels.grades.items():
        rows, scores = lists.get(query, (np.zeros(0, np.int32), np.zeros(0, np.float32)))
        positives = corpus.rows([passage for passage, grade in judged.items() if grade > 0])
        new = np.setdiff1d(positives, rows)
        behind = np.full(len(new), scores.min(initial=0.0), np.float32)  # where a search did not find them
        lists[query] = np.concatenate([rows, new]), np.concatenate([scores, behind])
    asked = [query.id for query in job.prepared.queries if query.id in lists]
    return Run.build(found.name, asked, [lists[query][0] for query in asked], [lists[query][1] for query in asked])


def labelled(job: Job, step: Step, name: str, candidates: Run) -> list[Run]:
    """Each teacher's raw scores, in the order of the settings; written in parts, which processes share.

    The main process alone gets them whole.
    """
    return [
        _scores_of(job, step, teacher, folder=step.path / PARTS / str(number), name=name, candidates=candidates)
        for number, teacher in enumerate(step.config.label.teachers)
    ]


def fused(step: Step, name: str, runs: Sequence[Run]) -> tuple[Run, dict[str, int]]:
    """The teachers' scores as one Run, and how many pairs of each teacher another one has not scored.

    One teacher's are as they are. Where an entropy is asked for, each question is brought to it.
    """
    settings, left_out = step.config.label, {}
    whole = runs[0]
    if len(runs) > 1:
        whole = fuse(runs, weights=[teacher.weight for teacher in settings.teachers], how=settings.fuse, name=name)
        left_out = {f"scored by teacher {number} alone": count for number, count in enumerate(unshared(runs)) if count}
    return whole if settings.entropy is None else calibrated(whole, settings.entropy), left_out


def reader_of(job: Job, step: Step) -> FidTeacher:
    """The round's own reader as a teacher."""
    settings = step.config.label
    reader = load_reader(job.path(step.round, "read") / MODEL)
    prompts = step.config.read.prompts
    return FidTeacher(reader, prompts, batch=settings.batch, accelerator=job.accelerator, signal=settings.signal)


def reader_answers(job: Job, step: Step, candidates: Run) -> dict[str, str]:
    """The reader's answers to the dev and test questions that have answers, by question."""
    read, prepared = step.config.read, job.prepared
    measured = [query for split in ("dev", "test") for query in prepared.splits.get(split, []) if query.answers]
    asked = prepared.groups(candidates, measured, read.evaluate_passages or read.phases[-1].passages)
    reader = load_reader(job.path(step.round, "read") / MODEL)
    found = answer_groups(reader, asked, read.prompts, batch=step.config.label.batch, accelerator=job.accelerator)
    return dict(sorted(found.items()))


def looked_at(job: Job, step: Step, labels: Run) -> dict[str, list[Any]]:
    """Where the reader looked in the first passages of some test questions, or of dev questions where there are none."""
    splits = job.prepared.splits
    shown = job.prepared.groups(labels, (splits.get("test") or splits["dev"])[:MOST_MAPS], depth=6)
    teacher = reader_of(job, step)
    return {group.query.id: teacher.looked_at(group) for group in shown if group.passages}


def curated(job: Job, step: Step, method: Method, split: str) -> Curation:
    """What the objectives need to know of the candidates of a split, and which train candidates may be negatives."""
    settings, before = step.config.distil, job.path(step.round - 1, "retrieve")
    mark = ranking = None
    if "positive" in method.reads:
        qrels = job.prepared.qrels(split) if settings.positives == "qrels" else None
        mark = answer_bearing(job.prepared.corpus) if qrels is None else graded(qrels, job.prepared.corpus)
    if "ranks" in method.reads:
        ranking = Run.read(before / "student.parquet")
    if split != "train" or mark is None:
        return Curation(mark=mark, ranking=ranking)
    negatives = settings.negatives
    folder = job.path(0, "retrieve") if negatives.system == "bm25" else before
    shortlist = Run.read(folder / f"{negatives.system}.parquet") if negatives.window else None
    return Curation(
        mark=mark, ranking=ranking, shortlist=shortlist, window=negatives.window, teacher_margin=negatives.teacher_margin
    )


def teacher_names(config: Config) -> str:
    """The teachers of a round, for the model card."""
    fid = f"Fusion-in-Decoder reader from `{config.read.model}`, its cross-attention at the first decoder position"
    named = {"fid": fid, "bm25": "BM25", "answers": "answer strings", "run": "scores in"}
    sources = [(teacher.kind, teacher.model or teacher.scores) for teacher in config.label.teachers]
    texts = [named.get(kind, kind.replace("_", "-")) + (f" `{source}`" if source else "") for kind, source in sources]
    return " + ".join(texts) + (f", fused by {config.label.fuse}" if len(texts) > 1 else "")


def _scores_of(job: Job, step: Step, settings: TeacherSettings, *, folder: Path, name: str, candidates: Run) -> Run:
    """One teacher's scores of the candidates of all questions; of a file, its own lists."""
    prepared, label = job.prepared, step.config.label
    if settings.scores is not None:
        found = read_scores(settings.scores, prepared.queries, prepared.corpus)
        if not settings.squashed:
            check_raw(found.run.scores, settings.scores)
        return replace(found.run.top(label.depth), name=name)
    if settings.kind == "bm25":
        return as_ranked(Run.read(job.path(0, "retrieve") / "bm25.parquet"), candidates, name)
    teacher = _teacher(job, step, settings)
    cuts = range(0, len(prepared.queries), label.queries_per_part)
    with job.bars("questions labelled", len(prepared.queries)) as bar:

        def write(part: int, path: Path) -> None:
            queries = prepared.queries[cuts[part] : cuts[part] + label.queries_per_part]
            groups = prepared.groups(candidates, queries)
            rows = [candidates.of(query.id)[0] if query.id in candidates else [] for query in queries]
            Run.build(name, [query.id for query in queries], rows, teacher.score(groups)).write(path)
            bar(len(queries))

        parts = write_parts(folder, len(cuts), write, mine=job.mine)
    job.accelerator.wait_for_everyone()
    return joined(name, [Run.read(path) for path in parts]) if job.accelerator.is_main_process else candidates


def _teacher(job: Job, step: Step, settings: TeacherSettings) -> Teacher:
    if settings.kind == "fid":
        return reader_of(job, step)
    if settings.kind == "answers":
        return AnswersTeacher()
    assert settings.model is not None
    given = {"passage_format": settings.passage_format, "tokens": settings.tokens, "autocast": job.precision}
    if settings.kind == "retriever":
        retriever = load_retriever(settings.model, settings.sha256).to(job.accelerator.device)
        return RetrieverTeacher(retriever, **given)
    cross_encoder = load_cross_encoder(settings.model, settings.sha256).to(job.accelerator.device)
    return CrossEncoderTeacher(cross_encoder, squashed=settings.squashed, **given)


def as_ranked(run: Run, candidates: Run, name: str) -> Run:
    """The candidates with the scores of a Run; one that it lacks gets the lowest that it gave for the question, or 0."""
    query_ids, passages, scores = [], [], []
    for query_id, rows, _ in candidates:
        found, values = run.of(query_id) if query_id in run else (np.zeros(0, np.int32), np.zeros(0, np.float32))
        known = dict(zip(found.tolist(), values.tolist(), strict=True))
        lowest = min(known.values(), default=0.0)
        query_ids.append(query_id)
        passages.append(rows)
        scores.append(np.array([known.get(row, lowest) for row in rows.tolist()], np.float32))
    return Run.build(name, query_ids, passages, scores)


def joined(name: str, runs: Sequence[Run]) -> Run:
    """Runs over different queries as one."""
    lists = [one for run in runs for one in run]
    return Run.build(
        name, [query for query, _, _ in lists], [rows for _, rows, _ in lists], [scores for *_, scores in lists]
    )
