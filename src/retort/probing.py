"""How fast the models of a config work on this machine, tried on some of the run's own texts."""

import math
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
from retort.job import Job
from retort.labelling import fid_teacher
from retort.making import made_teacher
from retort.prepared import Prepared
from retort.records import Corpus, Group, Query
from retort.searching import KINDS, bm25_index
from retort.students.loading import AnyStudent, load_student
from retort.teachers.fid.loading import make_reader
from retort.teachers.fid.prompts import tokenise_passages, tokenise_targets
from retort.tensors import Batch

PASSAGES, QUESTIONS = 64, 8  # of the sample
FREE = ("bm25", "answers", "run")  # teachers that no model is run for
INDEXED = 2_000  # passages that BM25 is built of for its rate
PIECE = (64, 4096, 256)  # queries, passages and dimensions of a piece of a search
SEARCHED = math.prod(PIECE)


@dataclass(frozen=True)
class Speeds:
    """Items a second of each kind of work, and what a passage takes. 0 where the config has no such work."""

    encoded: float  # passages, by the student
    distilled: float  # candidate passages of a training step
    indexed: float  # passages, by BM25
    searched: float  # multiply-adds of a search through dense vectors
    read: float  # passages that a reader is trained on
    # passages, by each teacher that runs a model; several signals of the reader are one; 0: a remote one
    labelled: tuple[float, ...]
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
    batch, count = _batch(sample, prepared.corpus), len(texts)
    read, labelled, string_tokens = 0.0, [], 0.0
    step = next(step for step in job.steps.values() if step.stage == "label")
    if config.label.reads:
        reader = make_reader(config.read).to(job.accelerator.device)
        ids, mask = tokenise_passages(reader, sample, config.read.prompts)
        targets = tokenise_targets(reader, [(group.query.answers or ("",))[0] for group in sample], config.read.prompts)
        device, string_tokens = job.accelerator.device, float(mask.sum()) / max(1, int(mask.any(-1).sum()))

        def learn() -> None:
            with job.precision():
                loss = -reader(ids.to(device), mask.to(device), targets.to(device)).mean()
            loss.backward()
            reader.zero_grad()

        read = rate(learn, count, seconds)
        signals = fid_teacher(job, step, reader)
        labelled.append(rate(lambda: signals.signals(sample), count, seconds))
    for settings in config.label.teachers:
        if settings.server is not None:  # each call may cost money, so none is tried
            labelled.append(0.0)
        elif settings.kind not in (*FREE, "fid"):
            judge = made_teacher(job, settings)
            labelled.append(rate(lambda one=judge: one.score(sample), count, seconds))
    student_tokens = student.tokenise(texts, "passage").lengths.float().mean()
    return Speeds(
        encoded=rate(lambda: student.embed(texts, "passage", autocast=job.precision), count, seconds),
        distilled=rate(lambda: _step(student, config, batch), count, seconds),
        indexed=_indexing(config, prepared.corpus), searched=rate(_search, SEARCHED, seconds / 3), read=read,
        labelled=tuple(labelled), passage_tokens=float(student_tokens), string_tokens=string_tokens or float(student_tokens),
        vector_bytes=_stored(student, texts), dimension=student.dimension, peak_mb=peak_megabytes(),
    )  # fmt: skip


def rate(work: Callable[[], object], items: int, seconds: float) -> float:
    """Items a second of `work`, which does so many at each call; the first call warms up and does not count."""
    work()
    started, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - started < seconds:
        work()
        calls += 1
    return items * calls / (time.perf_counter() - started)


def _sample(prepared: Prepared) -> list[Group]:
    """Some train questions with passages drawn from the whole corpus: as long as the user's are."""
    rng = np.random.default_rng(0)
    rows = rng.choice(len(prepared.corpus), min(PASSAGES, len(prepared.corpus)), replace=False)
    queries: list[Query] = prepared.splits["train"][:QUESTIONS]
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


def _step(student: AnyStudent, config: Config, batch: Batch) -> None:
    """One step of training without a loss of its own: every score gets a gradient."""
    student.module.train()
    batch = batch.to(student.model.device)
    queries, passages = encode_batch(student, batch, config.distil.chunk_tokens, caching=config.distil.gradient_caching)
    scores = student.score(queries, passages, batch, frozenset({"scores"})).scores
    assert scores is not None
    scores.sum().backward()
    student.module.zero_grad()
    student.module.eval()


def _indexing(config: Config, corpus: Corpus) -> float:
    few = Corpus.from_passages([corpus[row] for row in range(min(INDEXED, len(corpus)))])
    started = time.perf_counter()
    bm25_index(few, config.retrieve.bm25)
    return len(few) / (time.perf_counter() - started)


def _search() -> None:
    """A piece of an exact search, of `SEARCHED` multiply-adds."""
    queries, passages, width = PIECE
    np.matmul(np.ones((queries, width), np.float32), np.ones((passages, width), np.float32).T)


def _stored(student: AnyStudent, texts: Sequence[Any]) -> float:
    """Bytes of an encoded passage in the format of the student's kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part"
        KINDS[student.settings.kind].write(path, student.embed(texts, "passage"))
        return path.stat().st_size / len(texts)
