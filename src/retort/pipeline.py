"""The story of a run: prepare, then round by round retrieve, read, label, distil, encode, index, evaluate; then report.

Each stage reads the folders of the stages before it, calls the families, and writes its own folder, manifest last. The
families never meet but here. Which steps there are and when one is stale: plan.py. How results become a report: evidence.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from retort import compute
from retort.config import Config, Index, load
from retort.data import read_candidates, read_corpus, read_qrels, read_queries
from retort.distil.agreement import label_agreement
from retort.distil.loop import CHECKPOINT, Trained, train
from retort.distil.method import Method
from retort.evidence import answers_found, evaluate_round
from retort.gathering import gather_report
from retort.indexes.bm25 import BM25Index, BM25Settings
from retort.indexes.dense import DenseIndex
from retort.indexes.union import union
from retort.indexes.vectors import VectorParts
from retort.job import Bar, Bars, Job, no_bars
from retort.losses import build
from retort.plan import Step, plan
from retort.prepared import CANDIDATES, CORPUS, Prepared, limited, write_prepared
from retort.records import Corpus, Passage, Query, Run
from retort.store import locked, remove, write_atomic, write_json, write_parts
from retort.students.card import CardFacts, write_model_card
from retort.students.dense import DenseStudent
from retort.students.loading import load_student
from retort.teachers.fid.loading import load_reader, make_reader
from retort.teachers.fid.teacher import FidTeacher, answer_groups
from retort.teachers.fid.training import ReaderData, train_reader
from retort.tensors import Student
from retort.text import AnswerMatcher

LABELS, ANSWERS, MAPS, MODEL = "labels.parquet", "answers.json", "maps.json", "model"
Facts = Mapping[str, Any]


def run(
    config: Config,
    root: Path,
    *,
    bars: Bars = no_bars,
    only: Sequence[str] | None = None,
    force: bool = False,
    started: Callable[[Step, str], None] = lambda step, state: None,
) -> dict[str, Step]:
    """All steps of the run in `root`, done: finished ones are skipped, unfinished ones go on, stale ones are built again.

    `only` names steps ("round-1/read") whose inputs have to be done; `force` builds those (or all) again. `started` hears
    of every step and its state. ValueError, before any work, where the config asks for what cannot be.
    """
    check(config)
    steps = plan(config, root)
    job = Job(steps, compute.accelerator(config.compute, tracking=root / "trackers"), bars)
    main = job.accelerator.is_main_process
    with locked(root) if main else nullcontext():
        if main:
            write_json(root / "config.json", config.model_dump(mode="json"))
        for name in only or steps:
            step = steps[name]
            job.accelerator.wait_for_everyone()
            again = force and (only is None or name in only)
            state = "stale" if again else step.folder.state()
            started(step, state)
            if state == "done":
                continue
            for before in step.inputs:
                steps[before].folder.manifest()
            _perform(job, step, again)
    return steps


def _perform(job: Job, step: Step, again: bool) -> None:
    """Run one stage, in all processes or in the main one, and finish its folder."""
    main = job.accelerator.is_main_process
    if main:
        remove(step.path) if again else None
        step.folder.open()
    job.accelerator.wait_for_everyone()
    compute.seed_everything(step.config.seed)
    facts: Facts = {}
    if main or step.stage in SHARED:
        with compute.measured(step.path, UNITS.get(step.stage, "items"), write=main) as meter:
            facts = STAGES[step.stage](job, step)
            meter.items = int(facts.get("items", 0))
    job.accelerator.wait_for_everyone()
    if main:
        step.folder.finish(facts)


def check(config: Config) -> None:
    """Refuse what can be known to fail: models that are not there, splits and questions that a stage needs."""
    splits = config.prepare.queries
    if "train" not in splits or "dev" not in splits:
        raise ValueError(f"prepare.queries names {sorted(splits)}, expected train and dev (dev questions select models)")
    if "file" in config.retrieve.first and config.prepare.candidates is None:
        raise ValueError("retrieve.first holds 'file' but prepare.candidates is not set: name the file of candidates")
    for number in range(1, config.rounds + 1):
        settings = config.of_round(number)
        compute.model_path(settings.read.model, settings.read.sha256)
        compute.model_path(settings.distil.student.model, settings.distil.student.sha256)
        if min(settings.distil.candidates, settings.label.depth) < 2:
            raise ValueError("distil.candidates and label.depth must be at least 2: one candidate leaves nothing to rank")


def prepare(job: Job, step: Step) -> Facts:
    """The corpus, the questions and the grades, read once from the user's formats and checked."""
    settings = step.config.prepare
    splits: dict[str, list[Query]] = {}
    for split, source in settings.queries.items():
        found = read_queries(source, split, require_answers=split == "train" or split == "dev")
        splits[split] = limited(found, settings.limit.get(split))
    with job.bars("corpus", None) as bar, write_atomic(step.path / CORPUS) as path:
        count = Corpus.write(path, _counted(read_corpus(settings.corpus), bar))
    qrels = {split: read_qrels(source, split) for split, source in settings.qrels.items()}
    write_prepared(step.path, splits, qrels)
    prepared = Prepared(step.path)
    for grades in qrels.values():
        prepared.corpus.rows([passage for judged in grades.grades.values() for passage in judged])
    if settings.candidates:
        read_candidates(settings.candidates, prepared.queries, prepared.corpus).write(step.path / CANDIDATES)
    return {"items": count, **{f"{split} questions": len(queries) for split, queries in splits.items()}}


def read(job: Job, step: Step) -> Facts:
    """A reader trained on what the round before retrieved, the best by dev exact match."""
    settings, before = step.config.read, step.round - 1
    candidates = Run.read(job.path(before, "retrieve") / CANDIDATES)
    depth = max(20, *(phase.passages for phase in settings.phases), settings.evaluate_passages or 1)
    splits = job.prepared.splits
    data = ReaderData(*(job.prepared.groups(candidates, splits[split], depth) for split in ("train", "dev")))
    goes_on = settings.later_rounds == "continue" and step.round > 1
    reader = load_reader(job.path(before, "read") / MODEL, dropout=settings.dropout) if goes_on else make_reader(settings)
    with job.bars("reader steps", sum(phase.steps for phase in settings.phases)) as bar:
        best = train_reader(
            reader, data, settings, seed=step.config.seed, folder=step.path, accelerator=job.accelerator,
            progress=lambda number, facts: bar(1, facts),
        )  # fmt: skip
    _drop(job, step.path / "checkpoint")
    return {"items": sum(phase.steps * phase.batch for phase in settings.phases), "best": best}


def label(job: Job, step: Step) -> Facts:
    """The reader's raw scores of the candidates of all splits as a Run, its answers, and where it looked."""
    settings, prepared = step.config.label, job.prepared
    candidates = Run.read(job.path(step.round - 1, "retrieve") / CANDIDATES)
    reader = load_reader(job.path(step.round, "read") / MODEL)
    prompts = step.config.read.prompts
    teacher = FidTeacher(reader, prompts, batch=settings.batch, accelerator=job.accelerator)
    name = f"teacher-{step.round}"
    cuts = range(0, len(prepared.queries), settings.queries_per_part)
    with job.bars("questions labelled", len(prepared.queries)) as bar:

        def write(part: int, path: Path) -> None:
            queries = prepared.queries[cuts[part] : cuts[part] + settings.queries_per_part]
            groups = prepared.groups(candidates, queries, settings.depth)
            rows = [candidates.of(query.id)[0][: settings.depth] if query.id in candidates else [] for query in queries]
            Run.build(name, [query.id for query in queries], rows, teacher.score(groups)).write(path)
            bar(len(queries))

        parts = write_parts(step.path, len(cuts), write, mine=job.mine)
    job.accelerator.wait_for_everyone()
    measured = [query for split in ("dev", "test") for query in prepared.splits.get(split, []) if query.answers]
    asked = prepared.groups(candidates, measured, step.config.read.evaluate_passages or step.config.read.phases[-1].passages)
    answers = answer_groups(reader, asked, prompts, batch=settings.batch, accelerator=job.accelerator)
    if job.accelerator.is_main_process:
        runs = [Run.read(path) for path in parts]
        labels = _joined(name, runs)
        labels.write(step.path / LABELS)
        write_json(step.path / ANSWERS, dict(sorted(answers.items())))
        shown = prepared.groups(labels, prepared.splits.get("test", measured)[: step.config.report.maps], depth=6)
        write_json(step.path / MAPS, {group.query.id: teacher.looked_at(group) for group in shown if group.passages})
        remove(step.path / "parts")
    return {"items": sum(min(len(rows), settings.depth) for _, rows, _ in candidates), "teacher": name}


def distil(job: Job, step: Step) -> Facts:
    """A student trained on the labels of the train questions, the best by its agreement with those of dev."""
    settings, prepared = step.config.distil, job.prepared
    labels = Run.read(job.path(step.round, "label") / LABELS)
    if step.config.label.require_answer:
        labels = _with_answers(labels, prepared)
    of_split = {split: labels.select([q.id for q in prepared.splits[split] if q.id in labels]) for split in ("train", "dev")}
    goes_on = settings.later_rounds == "continue" and step.round > 1
    student = load_student(settings.student, folder=job.path(step.round - 1, "distil") / MODEL if goes_on else None)
    method = Method(objectives=build(settings.objectives))

    def validate(candidate: Student) -> float:
        if settings.selection != "labels":
            return answers_found(student, of_split["dev"], prepared, settings.selection, job)
        return label_agreement(
            candidate, of_split["dev"], prepared.corpus, prepared.splits["dev"], method=method,
            chunk_tokens=settings.chunk_tokens, accelerator=job.accelerator,
        )  # fmt: skip

    with job.bars("student steps", settings.steps) as bar:
        trained = train(
            student, of_split["train"], prepared.corpus, prepared.splits["train"], settings, method=method,
            seed=step.config.seed, folder=step.path, accelerator=job.accelerator, validate=validate,
            progress=lambda number, facts: bar(1, facts),
        )  # fmt: skip
    _drop(job, step.path / CHECKPOINT)
    if job.accelerator.is_main_process:
        write_model_card(step.path / MODEL, _card(step, trained, len(prepared.corpus)))
    items, dropped = trained.steps * settings.batch * settings.candidates, dict(trained.dropped)
    return {"items": items, "best_step": trained.best_step, "dropped": dropped}


def encode(job: Job, step: Step) -> Facts:
    """The corpus as float16 vectors of the round's student (round 0: of the untouched one), in parts."""
    settings, corpus = step.config.encode, job.prepared.corpus
    student = _student(job, step.round)
    student.model.to(job.accelerator.device)
    cuts = range(0, len(corpus), settings.passages_per_part)
    with job.bars("passages encoded", len(corpus)) as bar:

        def write(part: int, path: Path) -> None:
            rows = range(cuts[part], min(len(corpus), cuts[part] + settings.passages_per_part))
            passages = [corpus[row] for row in rows]
            vectors = student.embed(
                passages, "passage", batch_tokens=settings.batch_tokens, autocast=lambda: job.accelerator.autocast()
            )
            with path.open("wb") as file:
                np.save(file, vectors.astype(np.float16))
            bar(len(rows))

        write_parts(step.path, len(cuts), write, ending=".npy", mine=job.mine)
    return {"items": len(corpus), "dimensions": student.dimension}


def index(job: Job, step: Step) -> Facts:
    """What searches the vectors; in round 0 the BM25 index too."""
    vectors = VectorParts.open(job.path(step.round, "encode") / "parts")
    _built(vectors, step.config.index, step.config.seed).save(step.path)
    if step.round == 0:
        settings = step.config.retrieve.bm25
        BM25Index.build(job.prepared.corpus, settings=BM25Settings(**settings.model_dump())).save(step.path / "bm25")
    return {"items": len(vectors), "kind": step.config.index.kind}


def retrieve(job: Job, step: Step) -> Facts:
    """What BM25 (round 0) and the student find for all questions, and the candidates of the next round: their union."""
    settings, prepared = step.config.retrieve, job.prepared
    runs = {"student": search_dense(job, step.round, prepared.queries, settings.depth)}
    if step.round == 0:
        bm25 = BM25Index.load(job.path(0, "index") / "bm25")
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
    write_json(step.path / "best.json", {"round": best, "model": f"../round-{best}/distil/{MODEL}"})
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


def search_dense(job: Job, round_number: int, queries: Sequence[Query], k: int) -> Run:
    """What the student of a round finds in its own index."""
    student = _student(job, round_number)
    student.model.to(job.accelerator.device)
    vectors = VectorParts.open(job.path(round_number, "encode") / "parts")
    found = DenseIndex.load(job.path(round_number, "index"), vectors)
    scores, rows = found.search(student.embed(queries, "query", autocast=lambda: job.accelerator.autocast()), k)
    name = f"round-{round_number}" if round_number else "untouched"
    return Run.build(name, [query.id for query in queries], rows, scores)


def search_run(root: Path, question: str, k: int) -> list[dict[str, Any]]:
    """The best `k` passages for a question by the best student of the finished run in `root`, with title, text and score.

    ValueError where the run is not finished.
    """
    config = load(root / "config.json")
    steps = plan(config, root)
    best = steps["report"].folder.manifest()["best_round"]
    job = Job(steps, compute.accelerator(config.compute))
    _, rows, scores = next(iter(search_dense(job, best, [Query("question", question)], k)))
    passages = [job.prepared.corpus[row] for row in rows.tolist()]
    return [
        {"id": passage.id, "title": passage.title, "text": passage.text, "score": score}
        for passage, score in zip(passages, scores.tolist(), strict=True)
    ]


def _student(job: Job, round_number: int) -> DenseStudent:
    settings = job.steps[f"round-{round_number}/encode"].config.distil.student
    return load_student(settings, folder=job.path(round_number, "distil") / MODEL if round_number else None)


def _counted(passages: Iterable[Passage], bar: Bar) -> Iterator[Passage]:
    for passage in passages:
        bar()
        yield passage


def _joined(name: str, runs: Sequence[Run]) -> Run:
    """Runs over different queries as one."""
    lists = [one for run in runs for one in run]
    return Run.build(
        name, [query for query, _, _ in lists], [rows for _, rows, _ in lists], [scores for *_, scores in lists]
    )


def _with_answers(labels: Run, prepared: Prepared) -> Run:
    """The labels of those questions of which a candidate's text holds an answer."""
    corpus, matchers = prepared.corpus, {query.id: AnswerMatcher(query.answers) for query in prepared.queries}
    kept = [query for query, rows, _ in labels if any(matchers[query].matches(corpus[row].text) for row in rows.tolist())]
    return labels.select(kept)


def _drop(job: Job, folder: Path) -> None:
    """Remove the checkpoint of a finished training, once all processes have left it."""
    job.accelerator.wait_for_everyone()
    if job.accelerator.is_main_process:
        remove(folder)


def _built(vectors: VectorParts, settings: Index, seed: int) -> DenseIndex:
    return DenseIndex.build(
        vectors, kind=settings.kind, neighbours=settings.hnsw_links, ef_search=settings.hnsw_search,
        lists=settings.ivf_lists, probes=settings.ivf_probes, seed=seed,
    )  # fmt: skip


def _card(step: Step, trained: Trained, passages: int) -> CardFacts:
    """What the student's model card states; cost as counted work, seconds are in cost.json."""
    distil, read = step.config.distil, step.config.read
    return CardFacts(
        student=distil.student,
        round=step.round,
        teacher=f"Fusion-in-Decoder reader from `{read.model}`, its cross-attention at the first decoder position (FiD-KD)",
        objectives=", ".join(f"{weight:g} x {objective}" for weight, objective in build(distil.objectives).values()),
        data={"corpus": step.config.prepare.corpus, "passages": passages, "labelled questions": trained.queries},
        metrics={"dev agreement with the teacher (minus the loss)": trained.best_value or 0.0},
        cost={"steps": trained.steps, "kept step": trained.best_step, "questions a step": distil.batch,
              "candidates a question": distil.candidates},
    )  # fmt: skip
