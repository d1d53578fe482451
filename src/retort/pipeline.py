"""The story of a run: prepare, then round by round retrieve, read, label, distil, encode, index, evaluate; then report.

Each stage reads the folders of the stages before it, calls the families, and writes its own folder, manifest last. The
families never meet but here. Which steps there are and when one is stale: plan.py. How results become a report: evidence.py.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from retort import compute
from retort.auditing import AUDIT, audit_round, heed
from retort.candidates import curated, listed, to_label
from retort.checks import check_candidates, check_config, check_grades, check_questions, check_start
from retort.config import Config
from retort.costs import measured
from retort.data import read_corpus, read_qrels, read_queries
from retort.distil.agreement import label_agreement
from retort.distil.loop import CHECKPOINT, Trained, train
from retort.distil.method import Method
from retort.evidence import answers_found, evaluate_round
from retort.gathering import gather_report
from retort.indexes.bm25 import BM25Index
from retort.indexes.union import union
from retort.job import Bar, Bars, Job, by_step, no_bars
from retort.labelling import LABELS, MODEL, check_asked, check_files, labelled, looked_at, reader_answers, teacher_names
from retort.losses import build
from retort.plan import Step, answered_splits, finished_run, only_graded, plan
from retort.prepared import CANDIDATES, CORPUS, Prepared, asked_of, distinct, limited, repeated, write_prepared
from retort.records import Corpus, Passage, Query, Run
from retort.refreshing import encode_passages, index_passages, search_student
from retort.searching import BM25, bm25_index, in_training, placed, sparse_trouble
from retort.store import PARTS, disk_watched, locked, read_json, remove, write_atomic, write_json
from retort.students.card import CardFacts, write_model_card
from retort.teachers.fid.loading import load_reader, make_reader
from retort.teachers.fid.training import ReaderData, train_reader
from retort.tensors import Student

ANSWERS, MAPS = "answers.json", "maps.json"
Facts = Mapping[str, Any]


def run(
    config: Config,
    root: Path,
    *,
    bars: Bars = no_bars,
    only: Sequence[str] | None = None,
    force: bool = False,
    started: Callable[[Step, str], None] = lambda step, state: None,
    finished: Callable[[Step, Facts], None] = lambda step, facts: None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Step]:
    """All steps of the run in `root`, done: finished ones are skipped, unfinished ones go on, stale ones are built again.

    `only` names steps ("round-1/read") whose inputs have to be done; `force` builds those (or all) again. `started` hears
    of every step and its state ("forced" with `force`), `finished` what a step found, `say` what cannot wait for that.
    ValueError, before any work, where the config asks for what cannot be.
    """
    check_config(config)
    steps = plan(config, root)
    names = list(only or steps)
    check_start(steps, names, force=force)
    job = Job(steps, compute.accelerator(config.compute, tracking=root / "trackers"), bars, say)
    main = job.accelerator.is_main_process
    with locked(root) if main else nullcontext():
        if main:
            _keep_config(root / "config.json", config)
        for name in names:
            step, state = steps[name], "forced" if force else steps[name].folder.state()
            started(step, state)
            if state != "done":
                finished(step, _perform(job, step, force))
            elif main:
                _tidy(step)
    return steps


def _perform(job: Job, step: Step, again: bool) -> Facts:
    """What a stage found, run in all processes or in the main one; its folder is finished."""
    main = job.accelerator.is_main_process
    job.accelerator.wait_for_everyone()  # until here the others look at the folder's state
    if main:
        remove(step.path) if again else None
        step.folder.open()
    job.accelerator.wait_for_everyone()
    compute.seed_everything(step.config.seed)
    facts: Facts = {}
    if main or step.stage in SHARED:
        unit = UNITS.get(step.stage, "items")
        with disk_watched(step.path), measured(step.path, unit, write=main) as meter:
            facts = STAGES[step.stage](job, step)
            meter.items = int(facts.get("items", 0))
    job.accelerator.wait_for_everyone()
    if main:
        step.folder.finish(facts)
        _tidy(step)
    return facts


def prepare(job: Job, step: Step) -> Facts:
    """The corpus, the questions and the grades, read once from the user's formats and checked."""
    settings = step.config.prepare
    graded: dict[str, str] = {**settings.qrels, **({"train": settings.positives} if settings.positives else {})}
    qrels = {split: read_qrels(source, split) for split, source in graded.items()}
    splits: dict[str, list[Query]] = {}
    ungraded, strict, answered = 0, only_graded(step.config), answered_splits(step.config)
    for split, source in settings.queries.items():
        found = read_queries(source, split, require_answers=split in answered)
        kept = [query for query in found if split not in strict or query.id in qrels[split].grades]
        ungraded += len(found) - len(kept)
        if found and not kept:
            raise ValueError(f"{graded[split]} grades none of the {len(found)} {split} questions: expected grades of some")
        splits[split] = limited(kept, settings.limit.get(split))
    if again := repeated(splits):
        job.say(f"{step.name}: warning: {again} dev and test questions have the words of a train question: if they mean the "
                "same, take them out, as what was trained on measures nothing")  # fmt: skip
    with job.bars("corpus", None) as bar, write_atomic(step.path / CORPUS) as path:
        count = Corpus.write(path, _counted(read_corpus(settings.corpus, words=settings.words), bar))
    write_prepared(step.path, *distinct(splits, qrels))
    prepared = Prepared(step.path)
    check_grades(zip(graded.values(), qrels.values(), strict=True), prepared.corpus)
    check_questions(step.config, prepared)
    if settings.candidates:
        found = listed(settings.candidates, splits, prepared)
        if step.config.retrieve.first == ["file"]:
            check_candidates(found, prepared, step.config)
        found.write(step.path / CANDIDATES)
    check_files(step.config, prepared)
    asked = {f"{split} questions": len(queries) for split, queries in splits.items()}
    return {"items": count, **asked, "questions without grades left out": ungraded, "asked in train too": again}


def read(job: Job, step: Step) -> Facts:
    """A reader trained on what the round before retrieved, the best by dev exact match."""
    settings, before = step.config.read, step.round - 1
    candidates = Run.read(job.path(before, "retrieve") / CANDIDATES)
    check_candidates(candidates, job.prepared, step.config)
    depth = max(20, *(phase.passages for phase in settings.phases), settings.evaluate_passages or 1)
    splits = job.prepared.splits
    data = ReaderData(*(job.prepared.groups(candidates, splits[split], depth) for split in ("train", "dev")))
    earlier = [job.steps[name].path for name in step.inputs if name.endswith("/read")]  # where it goes on
    reader = load_reader(earlier[0] / MODEL, dropout=settings.dropout) if earlier else make_reader(settings)
    check_asked(step, reader, job.prepared.queries)
    tracking = compute.tracked(job.accelerator, f"round-{step.round}-read", settings.model_dump())
    with tracking, job.bars("reader steps", sum(phase.steps for phase in settings.phases)) as bar:
        best = train_reader(
            reader, data, settings, seed=step.config.seed, folder=step.path, accelerator=job.accelerator,
            progress=by_step(bar, job.accelerator.log),
        )  # fmt: skip
    return {"items": sum(phase.steps * phase.batch for phase in settings.phases), "best": best}


def label(job: Job, step: Step) -> Facts:
    """The teachers' raw scores of the candidates of all splits as a Run; of a reader its answers, and where it looked."""
    settings, name = step.config.label, f"teacher-{step.round}"
    candidates = to_label(job, step)
    if any(teacher.scores is None for teacher in settings.teachers):
        check_candidates(candidates, job.prepared, step.config)
    reader = load_reader(job.path(step.round, "read") / MODEL) if settings.reads else None
    labels = labelled(job, step, name, candidates, reader)
    found = Run.read(job.path(step.round - 1, "retrieve") / CANDIDATES)  # uncut: the reader is judged on what it reads
    asked = reader_answers(job, step, found, reader) if reader else {}
    if job.accelerator.is_main_process:
        labels.fused.write(step.path / LABELS)
        if len(labels.raw) > 1 or settings.entropy is not None:
            for number, run in enumerate(labels.raw):
                run.write(step.path / f"teacher-{number}.parquet")
        if reader:
            write_json(step.path / ANSWERS, asked)
            write_json(step.path / MAPS, looked_at(job, step, labels.fused, reader))
    return {"items": len(candidates.passages), "teacher": name, "set aside": dict(labels.aside)}


def distil(job: Job, step: Step) -> Facts:
    """A student trained on the labels of the train questions, the best by its agreement with those of dev."""
    settings, prepared = step.config.distil, job.prepared
    every = Run.read(job.path(step.round, "label") / LABELS)
    labels = prepared.answered(every) if step.config.label.require_answer else every
    of_split = {split: asked_of(labels, prepared.splits[split]) for split in ("train", "dev")}
    student = in_training(job, step, every)
    method = Method(objectives=build(settings.objectives))
    curation, of_dev = curated(job, step, "train"), curated(job, step, "dev")
    audit = audit_round(job.steps, step.round, prepared)
    if job.accelerator.is_main_process:
        write_json(step.path / AUDIT, audit.plain())
    heed(audit, refuse=settings.audit == "refuse", say=lambda text: job.say(f"{step.name}: warning: {text}"))

    def validate(candidate: Student) -> float:
        if trouble := sparse_trouble(student, prepared, job):
            warnings.warn(trouble, stacklevel=1)
        if settings.selection != "labels":
            return answers_found(student, of_split["dev"], prepared, settings.selection, job)
        return label_agreement(
            candidate, of_split["dev"], prepared.corpus, prepared.splits["dev"], method=method,
            chunk_tokens=settings.chunk_tokens, accelerator=job.accelerator, curation=of_dev,
        )  # fmt: skip

    with job.bars("student steps", settings.steps) as bar:
        trained = train(
            student, of_split["train"], prepared.corpus, prepared.splits["train"], settings, method=method,
            seed=step.config.seed, folder=step.path, accelerator=job.accelerator, validate=validate,
            curation=curation, place=placed(job, step), progress=by_step(bar),
        )  # fmt: skip
    if job.accelerator.is_main_process:
        write_model_card(step.path / MODEL, _card(step, trained, len(prepared.corpus)))
    items, dropped = trained.steps * settings.batch * settings.candidates, dict(trained.dropped)
    if missing := len(prepared.splits["train"]) - len(of_split["train"]):
        dropped["no candidate holds an answer" if step.config.label.require_answer else "not labelled"] = missing
    return {"items": items, "questions": trained.queries, "best_step": trained.best_step, "dropped": dropped,
            "removed": dict(trained.removed), "audit": audit.verdict}  # fmt: skip


def encode(job: Job, step: Step) -> Facts:
    """The corpus in half precision as the round's student sees it (round 0: the untouched one), in parts.

    By `encode.refresh`, or where only the query side is trained, vectors of an earlier round instead: refreshing.py.
    """
    return encode_passages(job, step)


def index(job: Job, step: Step) -> Facts:
    """What searches the vectors; in round 0 the BM25 index too."""
    if step.round == 0:
        bm25_index(job.prepared.corpus, step.config.retrieve.bm25, step.path).save(step.path / BM25)
    return index_passages(job, step)


def retrieve(job: Job, step: Step) -> Facts:
    """What BM25 (round 0) and the student find for all questions, and the candidates of the next round: their union."""
    settings, prepared = step.config.retrieve, job.prepared
    runs = {"student": search_student(job, step.round, prepared.queries, settings.depth)}
    if step.round == 0:
        bm25 = BM25Index.load(job.path(0, "index") / BM25)
        runs["bm25"] = bm25.search(prepared.queries, settings.depth, name="bm25")
        if "file" in settings.first:
            runs["file"] = Run.read(job.steps["prepare"].path / CANDIDATES)
    for kind, found in runs.items():
        found.write(step.path / f"{kind}.parquet")
    chosen = settings.first if step.round == 0 else settings.later
    if step.round and "bm25" in chosen:
        runs["bm25"] = Run.read(job.path(0, "retrieve") / "bm25.parquet")
    union("candidates", [runs[kind] for kind in chosen]).top(settings.depth).write(step.path / CANDIDATES)
    return {"items": len(prepared.queries)}


def evaluate(job: Job, step: Step) -> Facts:
    """Measures of every Run of the round on dev and test, for each question, with intervals and paired tests."""
    return {"items": evaluate_round(job.steps, step, job.prepared)}


def report(job: Job, step: Step) -> Facts:
    """The page, report.json, and best.json, which names the round to use."""
    best = gather_report(job.steps, step, job.prepared)
    model = f"../round-{best}/distil/{MODEL}" if best else step.config.distil.student.model
    write_json(step.path / "best.json", {"round": best, "model": model})
    return {"best_round": best}


STAGES: Mapping[str, Callable[[Job, Step], Facts]] = {
    "prepare": prepare,
    "read": read,
    "label": label,
    "distil": distil,
    "encode": encode,
    "index": index,
    "retrieve": retrieve,
    "evaluate": evaluate,
    "report": report,
}
LEFTOVERS = {"read": CHECKPOINT, "label": PARTS, "distil": CHECKPOINT}
SHARED = ("read", "label", "distil", "encode")  # stages that all processes work on; the others are the main one's
UNITS = {
    "prepare": "passages",
    "read": "questions",
    "label": "passages",
    "distil": "passages",
    "encode": "passages",
    "index": "passages",
    "retrieve": "questions",
    "evaluate": "runs",
}


def search_run(root: Path, question: str, k: int) -> list[dict[str, Any]]:
    """The best `k` passages for a question by the best student of the finished run in `root`, with title, text and score.

    ValueError as `finished_run`.
    """
    if not question.strip():
        raise ValueError("the question is empty, expected some words to search for")
    steps, best = finished_run(root)
    job = Job(steps, compute.accelerator(steps["prepare"].config.compute))
    _, rows, scores = next(iter(search_student(job, best, [Query("question", question)], k)))
    passages = [job.prepared.corpus[row] for row in rows.tolist()]
    return [
        {"id": passage.id, "title": passage.title, "text": passage.text, "score": score}
        for passage, score in zip(passages, scores.tolist(), strict=True)
    ]


def _counted(passages: Iterable[Passage], bar: Bar) -> Iterator[Passage]:
    for passage in passages:
        bar()
        yield passage


def _keep_config(path: Path, config: Config) -> None:
    """The resolved config at `path`; an equal one there keeps its time."""
    values = config.model_dump(mode="json")
    if not path.exists() or read_json(path) != values:
        write_json(path, values)


def _tidy(step: Step) -> None:
    """Remove what a finished stage only needed to go on after a kill; not before, so that no kill costs it."""
    if step.stage in LEFTOVERS:
        remove(step.path / LEFTOVERS[step.stage])


def _card(step: Step, trained: Trained, passages: int) -> CardFacts:
    """What the student's model card states; cost as counted work, seconds are in cost.json."""
    distil, agreement = step.config.distil, "agreement with the teacher (minus the loss)"
    return CardFacts(
        student=distil.student,
        round=step.round,
        teacher=teacher_names(step.config),
        objectives=", ".join(f"{term.coefficient:g} x {term.objective}" for term in build(distil.objectives).values()),
        data={"corpus": step.config.prepare.corpus, "passages": passages, "labelled questions": trained.queries},
        metrics={f"dev {agreement if distil.selection == 'labels' else distil.selection}": trained.best_value or 0.0},
        cost={"steps": trained.steps, "kept step": trained.best_step, "questions a step": distil.batch,
              "candidates a question": distil.candidates},
    )  # fmt: skip
