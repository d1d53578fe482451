"""How fast the models of a config work on this machine and what they hold, tried on some of the run's own texts.

A later round may have other models: every round's are tried, each once, however many rounds have it.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from retort.asking import wording
from retort.compute import freeze_lowest
from retort.config import Config, StudentModel, TeacherSettings
from retort.costs import forget_peak, peak_megabytes
from retort.distil.batches import make_batch
from retort.distil.caching import encode_batch
from retort.distil.sampling import Labelled
from retort.job import Job
from retort.labelling import fid_teacher
from retort.making import made_teacher, server_of
from retort.plan import Step
from retort.prepared import Prepared
from retort.records import Corpus, Group, Query
from retort.searching import KINDS, Encodings, bm25_index
from retort.speeds import ReaderTried, Speeds, StudentTried, TeacherTried, Tried, Weights, in_hand, in_step, working
from retort.spending import bytes_of
from retort.store import key_of
from retort.students.dense import DenseStudent
from retort.students.loading import AnyStudent, InTraining, load_student
from retort.students.query_side import QuerySideStudent
from retort.students.stock import transformers_of
from retort.teachers.fid.loading import make_reader
from retort.teachers.fid.prompts import tokenise_passages, tokenise_targets
from retort.teachers.remote.client import Client
from retort.teachers.remote.judge import JudgeTeacher
from retort.teachers.remote.likelihood import RemoteLikelihoodTeacher
from retort.tensors import Batch

PASSAGES, QUESTIONS = 64, 8  # of the sample
INDEXED = 2_000  # passages that BM25 is built of for its rate
PIECE = (64, 4096, 256)  # queries, passages and dimensions of a piece of a search
SEARCHED = math.prod(PIECE)
# settings that a reader's speed depends on, and a student's beside its model
READER = {"model", "sha256", "decoder_layers", "copies", "dropout", "frozen_layers", "prompts", "gradient_checkpointing"}
STUDENT = {"student", "chunk_tokens", "gradient_caching"}
VECTORS: Mapping[str, Callable[[Any], int]] = {  # of the encoded sample, by the kind of student
    "dense": len, "sparse": lambda parts: parts.nonzeros, "late_interaction": lambda parts: parts.tokens
}  # fmt: skip
T = TypeVar("T")


def probe(job: Job, config: Config, *, seconds: float = 3.0) -> dict[int, Speeds]:
    """What is found of each round's own models on some of the run's own texts; each kind of work is tried for `seconds`.

    Untrained models are as fast as trained ones. The prepare stage must be done. Models are loaded as the run would; no
    server is asked, as each call may cost money.
    """
    process, corpus = held_bytes(), job.prepared.corpus
    few = Corpus.from_passages([corpus[row] for row in range(min(INDEXED, len(corpus)))])
    started = time.perf_counter()
    index = bm25_index(few, config.retrieve.bm25)
    indexed = len(few) / (time.perf_counter() - started)
    machine = {
        "indexed": indexed, "posting_bytes": _saved_bytes(index.save) / len(few),
        "searched": rate(_search, SEARCHED, seconds / 3), "process_bytes": process, "device": job.accelerator.device.type,
    }  # fmt: skip
    trials, rounds = _Trials(job, _sample(job.prepared), seconds), sorted({step.round for step in job.steps.values()})
    return {number: Speeds(*trials.of_round(number), **machine) for number in rounds}


def held_bytes() -> float:
    """What is held in memory now; what was held at most where a process's peak cannot be set back."""
    forget_peak()
    return 1e6 * peak_megabytes()


def tried(work: Callable[[], object], items: int, seconds: float, *, hand: float | int, gradients: int = 0) -> Tried:
    """How fast `work` does its `items`, of which it has `hand` at once; so many bytes of `gradients` stay between calls."""
    before = held_bytes() + gradients
    per_second = rate(work, items, seconds)
    return Tried(per_second, max(0.0, 1e6 * peak_megabytes() - before) / hand)


def rate(work: Callable[[], object], items: int, seconds: float) -> float:
    """Items a second of `work`, which does so many at each call; the first call warms up and does not count."""
    work()
    started, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - started < seconds:
        work()
        calls += 1
    return items * calls / (time.perf_counter() - started)


@dataclass(frozen=True)
class _Trials:
    """The trials on a sample of a run; `known` keeps what was found, by the settings that it depends on."""

    job: Job
    sample: Sequence[Group]
    seconds: float
    known: dict[str, Any] = field(default_factory=dict)

    def of_round(self, number: int) -> tuple[StudentTried, ReaderTried | None, tuple[TeacherTried, ...]]:
        """What is found of a round's student, reader and teachers; of round 0 its student alone."""
        step = self.job.steps[f"round-{number}/{'label' if number else 'encode'}"]
        distil, label = step.config.distil, step.config.label
        texts = [distil.model_dump(mode="json", include=STUDENT), step.config.encode.batch_tokens]
        student = self._once(texts, lambda: self._student(step.config))
        if number == 0:
            return student, None, ()
        signals = [one.model_dump(mode="json") for one in label.teachers if one.kind == "fid"]
        read = [step.config.read.model_dump(mode="json", include=READER), label.batch, signals]
        reader = self._once(read, lambda: self._reader(step)) if label.reads else None
        teachers = [
            self._once([one.model_dump(mode="json"), texts], lambda one=one: self._teacher(one, step.config))
            for one in working(step.config)
        ]
        return student, reader, tuple(teachers)

    def _once(self, settings: list[Any], find: Callable[[], T]) -> T:
        key = key_of({"settings": settings}, [], 0)
        if key not in self.known:
            self.known[key] = find()
        return self.known[key]

    def _student(self, config: Config) -> StudentTried:
        job, most, device = self.job, config.encode.batch_tokens, self.job.accelerator.device
        student = load_student(config.distil.student)
        student.module.to(device)
        weights, batch = Weights.of(student.module), _batch(self.sample, job.prepared.corpus)
        asked, given = _tokens(student, batch)
        count = len(batch.passages)
        made = student.embed(batch.passages, "passage", autocast=job.precision)
        encoded = tried(
            lambda: student.embed(batch.passages, "passage", batch_tokens=most, autocast=job.precision), count,
            self.seconds, hand=in_hand(count, given, most, device.type),
        )  # fmt: skip
        learner = _learner(student, batch, made)
        items, tokens = (count, given) if learner is student else (len(batch.queries), asked)
        distilled = tried(
            lambda: _step(learner, config, batch.to(device), job), items, self.seconds,
            hand=in_step(items, tokens, config.distil, device.type), gradients=weights.trained,
        )  # fmt: skip
        kind = KINDS[student.settings.kind]
        stored = _saved_bytes(lambda folder: kind.write(folder / f"part{kind.ending}", made)) / count
        vectors = VECTORS[student.settings.kind](kind.hold(made)) / count
        return StudentTried(weights, encoded, distilled, asked, given, stored, vectors, student.dimension)

    def _reader(self, step: Step) -> ReaderTried:
        job, read, device = self.job, step.config.read, self.job.accelerator.device
        reader, count = make_reader(read).to(device), sum(len(group.passages) for group in self.sample)
        freeze_lowest(reader.model.get_encoder(), read.frozen_layers, "read.frozen_layers")
        if read.gradient_checkpointing:
            reader.model.get_encoder().activation_checkpointing_enable()
        ids, mask = tokenise_passages(reader, self.sample, read.prompts)
        targets = tokenise_targets(reader, [(group.query.answers or ("",))[0] for group in self.sample], read.prompts)
        weights = Weights.of(reader)

        def learn() -> None:
            with job.precision():
                loss = -reader(ids.to(device), mask.to(device), targets.to(device)).mean()
            loss.backward()

        reader.train()
        learnt = tried(learn, count, self.seconds, hand=count, gradients=weights.trained)
        reader.zero_grad()
        teacher, at_once = fid_teacher(job, step, reader), min(1.0, step.config.label.batch / len(self.sample))
        labelled = tried(lambda: teacher.signals(self.sample), count, self.seconds, hand=count * at_once)
        return ReaderTried(weights, learnt, labelled, float(mask.sum()) / max(1, int(mask.any(-1).sum())))

    def _teacher(self, settings: TeacherSettings, config: Config) -> TeacherTried:
        if settings.server is not None:
            unasked = Client(replace(server_of(settings), key_variable=None))
            teacher = made_teacher(self.job, settings, unasked)
            assert isinstance(teacher, JudgeTeacher | RemoteLikelihoodTeacher)
            student = config.distil.student
            count = self._once([student.model_dump(mode="json"), "tokenizer"], lambda: _counting(student))
            return TeacherTried(words=wording(teacher, self.sample, count))
        before, items = held_bytes(), sum(len(group.passages) for group in self.sample)
        teacher = made_teacher(self.job, settings)
        weights = max(0.0, held_bytes() - before)
        scored = tried(lambda: teacher.score(self.sample), items, self.seconds, hand=items)
        return TeacherTried(scored.per_second, weights + items * scored.bytes_each)


def _sample(prepared: Prepared) -> list[Group]:
    """Some train questions with passages drawn from the whole corpus: as long as the user's are. None without a passage."""
    rng = np.random.default_rng(0)
    rows = rng.choice(len(prepared.corpus), min(PASSAGES, len(prepared.corpus)), replace=False)
    queries: list[Query] = prepared.splits["train"][: min(QUESTIONS, len(rows))]
    return [
        Group(query, tuple(prepared.corpus[int(row)] for row in part))
        for query, part in zip(queries, np.array_split(rows, len(queries)), strict=True)
    ]


def _batch(sample: Sequence[Group], corpus: Corpus) -> Batch:
    """The sample as a step of training has it, with labels that say nothing."""
    rows = corpus.rows([passage.id for group in sample for passage in group.passages])
    lists = np.split(rows, np.cumsum([len(group.passages) for group in sample])[:-1])
    drawn = [
        Labelled(group.query, own, np.zeros(len(own), np.float32), np.zeros(len(own), bool))
        for group, own in zip(sample, lists, strict=True)
    ]
    return make_batch(drawn, corpus)


def _tokens(student: AnyStudent, batch: Batch) -> tuple[float, float]:
    """Tokens of a question and of a passage as the student reads them, in the mean."""
    sides = student.tokenise(batch.queries, "query"), student.tokenise(batch.passages, "passage")
    asked, given = (float(side.lengths.float().mean()) for side in sides)
    return asked, given


def _learner(student: AnyStudent, batch: Batch, made: Encodings) -> InTraining:
    """What is trained: the student, or its query side over passages that are made already."""
    if student.settings.query_side is None:
        return student
    assert isinstance(student, DenseStudent)
    rows = {passage.id: row for row, passage in enumerate(batch.passages)}
    return QuerySideStudent(student, KINDS["dense"].hold(made).take, rows)


def _step(student: InTraining, config: Config, batch: Batch, job: Job) -> None:
    """One step of training without a loss of its own: every score gets a gradient, which stays."""
    student.module.train()
    with job.precision():
        queries, passages = encode_batch(student, batch, config.distil.chunk_tokens, caching=config.distil.gradient_caching)
        scores = student.score(queries, passages, batch, frozenset({"scores"})).scores
    assert scores is not None
    scores.sum().backward()


def _counting(settings: StudentModel) -> Callable[[str], int]:
    """What counts the tokens of a text, uncut, by the student's tokenizer."""
    tokenizer: Any = transformers_of(load_student(settings).model)[0].tokenizer
    return lambda text: len(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])


def _search() -> None:
    """A piece of an exact search, of `SEARCHED` multiply-adds."""
    queries, passages, width = PIECE
    np.matmul(np.ones((queries, width), np.float32), np.ones((passages, width), np.float32).T)


def _saved_bytes(save: Callable[[Path], object]) -> int:
    """How large the files are that `save` leaves in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return bytes_of(Path(folder))
