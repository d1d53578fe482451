"""How fast the models of a config work on this machine, tried on some of the run's own texts."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retort.compute import peak_megabytes
from retort.config import Config
from retort.distil.batches import make_batch
from retort.distil.caching import encode_batch
from retort.distil.sampling import Labelled
from retort.indexes.bm25 import BM25Index, BM25Settings
from retort.job import Job
from retort.labelling import fid_teacher
from retort.making import made_teacher
from retort.prepared import Prepared
from retort.records import Corpus, Group, Query
from retort.searching import KINDS
from retort.students.loading import AnyStudent, load_student
from retort.teachers.fid.loading import make_reader
from retort.teachers.fid.prompts import tokenise_passages, tokenise_targets

PASSAGES, QUESTIONS = 64, 8  # of the sample
FREE = ("bm25", "answers", "run")  # teachers that no model is run for
INDEXED = 2_000  # passages that BM25 is built of for its rate


@dataclass(frozen=True)
class Speeds:
    """Items a second of each kind of work, and what a passage takes. 0 where the config has no such work."""

    encoded: float  # passages, by the student
    distilled: float  # candidate passages of a training step
    indexed: float  # passages, by BM25
    searched: float  # multiply-adds of a search through dense vectors
    read: float  # passages that a reader is trained on
    labelled: tuple[
        float, ...
    ]  # passages, by each teacher that runs a model; several signals of the reader are one; 0: remote
    passage_tokens: float  # of the student's passage
    string_tokens: float  # of a string that the reader or another teacher sees
    vector_bytes: float  # of an encoded passage, on disk
    dimension: int
    peak_mb: float  # memory while probing


def probe(job: Job, config: Config, *, seconds: float = 3.0) -> Speeds:
    """The speeds of the config's own models on some of the run's own texts; each kind of work is tried for `seconds`.

    Untrained readers are as fast as trained ones. The prepare stage must be done. Models are loaded as the run would.
    """
    prepared = job.prepared
    sample = _sample(prepared)
    student = load_student(config.distil.student)
    student.module.to(job.accelerator.device)
    texts = [passage for group in sample for passage in group.passages]

    def encode() -> int:
        student.embed(texts, "passage", autocast=job.precision)
        return len(texts)

    read, labelled, string_tokens = 0.0, [], 0.0
    step = next(step for step in job.steps.values() if step.stage == "label")
    if config.label.reads:
        reader = make_reader(config.read).to(job.accelerator.device)
        ids, mask = tokenise_passages(reader, sample, config.read.prompts)
        targets = tokenise_targets(reader, [(group.query.answers or ("",))[0] for group in sample], config.read.prompts)
        device, string_tokens = job.accelerator.device, float(mask.sum()) / max(1, int(mask.any(-1).sum()))

        def learn() -> int:
            with job.precision():
                loss = -reader(ids.to(device), mask.to(device), targets.to(device)).mean()
            loss.backward()
            reader.zero_grad()
            return len(texts)

        read = rate(learn, seconds)
        signals = fid_teacher(job, step, reader)
        labelled.append(rate(lambda: len(signals.signals(sample)) and len(texts), seconds))
    for settings in config.label.teachers:
        if settings.server is not None:  # each call may cost money, so none is tried
            labelled.append(0.0)
        elif settings.kind not in (*FREE, "fid"):
            judge = made_teacher(job, settings)
            labelled.append(rate(lambda one=judge: len(one.score(sample)) and len(texts), seconds))
    student_tokens = student.tokenise(texts, "passage").lengths.float().mean()
    return Speeds(
        encoded=rate(encode, seconds), distilled=rate(lambda: _step(student, config, sample, prepared.corpus), seconds),
        indexed=_indexing(config, prepared.corpus), searched=rate(_searching, seconds / 3), read=read,
        labelled=tuple(labelled), passage_tokens=float(student_tokens), string_tokens=string_tokens or float(student_tokens),
        vector_bytes=_stored(student, texts), dimension=student.dimension, peak_mb=peak_megabytes(),
    )  # fmt: skip


def rate(work: Callable[[], int], seconds: float) -> float:
    """Items a second of `work`, which does some and says how many; its first call warms up and does not count."""
    work()
    started, done = time.perf_counter(), 0
    while not done or time.perf_counter() - started < seconds:
        done += work()
    return done / (time.perf_counter() - started)


def _sample(prepared: Prepared) -> list[Group]:
    """Some train questions with passages drawn from the whole corpus: as long as the user's are."""
    rng = np.random.default_rng(0)
    rows = rng.choice(len(prepared.corpus), min(PASSAGES, len(prepared.corpus)), replace=False)
    queries: list[Query] = prepared.splits["train"][:QUESTIONS]
    return [
        Group(query, tuple(prepared.corpus[int(row)] for row in part))
        for query, part in zip(queries, np.array_split(rows, len(queries)), strict=True)
    ]


def _step(student: AnyStudent, config: Config, sample: Sequence[Group], corpus: Corpus) -> int:
    """One step of training without a loss of its own: every score gets a gradient."""
    drawn = []
    for group in sample:
        rows = corpus.rows([passage.id for passage in group.passages])
        drawn.append(Labelled(group.query, rows, np.zeros(len(rows), np.float32), np.zeros(len(rows), bool)))
    batch = make_batch(drawn, corpus).to(student.model.device)
    student.module.train()
    queries, passages = encode_batch(student, batch, config.distil.chunk_tokens, caching=config.distil.gradient_caching)
    scores = student.score(queries, passages, batch, frozenset({"scores"})).scores
    assert scores is not None
    scores.sum().backward()
    student.module.zero_grad()
    student.module.eval()
    return len(batch.passages)


def _indexing(config: Config, corpus: Corpus) -> float:
    few = Corpus.from_passages([corpus[row] for row in range(min(INDEXED, len(corpus)))])
    settings = BM25Settings(**config.retrieve.bm25.model_dump())
    started = time.perf_counter()
    BM25Index.build(few, settings=settings)
    return len(few) / (time.perf_counter() - started)


def _searching() -> int:
    """A piece of an exact search: multiply-adds."""
    queries, passages = np.ones((64, 256), np.float32), np.ones((4096, 256), np.float32)
    np.matmul(queries, passages.T)
    return 64 * 4096 * 256


def _stored(student: AnyStudent, texts: Sequence[Any]) -> float:
    """Bytes of an encoded passage in the format of the student's kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part"
        KINDS[student.settings.kind].write(path, student.embed(texts, "passage"))
        return path.stat().st_size / len(texts)
