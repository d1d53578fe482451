"""What a run will cost before it starts: items, tokens, hours and disk of each step, from a short probe on this machine.

`probe` measures how fast the config's own models work on some of the user's own texts; `bill` multiplies. Not estimated, as
they are short beside the rest: reading the sources, building an index other than BM25's, measuring, the report.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retort.compute import accelerator, peak_megabytes
from retort.config import Config
from retort.distil.batches import make_batch
from retort.distil.caching import encode_batch
from retort.distil.sampling import Labelled
from retort.indexes.bm25 import BM25Index, BM25Settings
from retort.job import Job
from retort.labelling import fid_teacher
from retort.making import made_teacher
from retort.pipeline import run
from retort.plan import Step
from retort.prepared import Prepared
from retort.records import Corpus, Group, Query
from retort.searching import KINDS
from retort.store import BILL, write_json
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


@dataclass(frozen=True)
class Line:
    """The cost of a step: items of a unit, how many tokens they come to, seconds, and bytes on disk."""

    step: str
    items: int
    unit: str
    tokens: int
    seconds: float
    disk: int = 0


def bill(
    steps: Mapping[str, Step], questions: Mapping[str, int], passages: int, speeds: Speeds, *, deepest: int | None = None
) -> list[Line]:
    """A line for each step that takes long, in the order of the run; labels of no more than the `deepest` candidates.

    `questions` are those of each split.
    """
    lines = []
    for step in steps.values():
        config, every = step.config, sum(questions.values())
        depth = min(config.label.depth, deepest or config.label.depth)
        if step.stage == "index" and step.round == 0:
            lines.append(Line(step.name, passages, "passages (BM25)", 0, _over(passages, speeds.indexed)))
        if step.stage == "retrieve":
            work = every * passages * speeds.dimension
            lines.append(
                Line(step.name, every, "questions", 0, _over(work, speeds.searched), 16 * every * config.retrieve.depth)
            )
        if step.stage == "encode":
            lines.append(_encoding(step, passages, speeds))
        if step.stage == "read":
            lines.append(_reading(step, questions["dev"], speeds))
        if step.stage == "label":
            pairs, teachers = every * depth, max(1, len(config.label.teachers))
            seconds, calls = sum((_over(pairs, one) for one in speeds.labelled), 0.0), pairs * len(speeds.labelled)
            lines.append(
                Line(step.name, calls, "teacher calls", round(calls * speeds.string_tokens), seconds, 8 * pairs * teachers)
            )
        if step.stage == "distil":
            lines.append(_distilling(step, min(passages, questions["dev"] * depth), speeds))
    return lines


def _encoding(step: Step, passages: int, speeds: Speeds) -> Line:
    kept = step.round > 0 and step.config.distil.student.query_side is not None
    items, disk = 0 if kept else passages, round(passages * speeds.vector_bytes)
    return Line(step.name, items, "passages", round(items * speeds.passage_tokens), _over(items, speeds.encoded), disk)


def _reading(step: Step, dev: int, speeds: Speeds) -> Line:
    read = step.config.read
    items = sum(phase.steps * phase.batch * phase.passages for phase in read.phases)
    times = sum(phase.steps for phase in read.phases) // read.evaluate_every
    seen = times * dev * (read.evaluate_passages or read.phases[-1].passages)
    seconds = _over(items, speeds.read) + _over(seen, 3 * speeds.read)  # a step costs three forward passes
    return Line(step.name, items, "passages read", round(items * speeds.string_tokens), seconds)


def _distilling(step: Step, dev: int, speeds: Speeds) -> Line:
    """`dev` passages are encoded at every evaluation."""
    distil = step.config.distil
    items, times = distil.steps * distil.batch * distil.candidates, distil.steps // distil.evaluate_every + 1
    seconds = _over(items, speeds.distilled) + _over(times * dev, speeds.encoded)
    return Line(step.name, items, "candidates", round(items * speeds.passage_tokens), seconds)


def refreshes(config: Config, questions: int, passages: int, speeds: Speeds) -> dict[str, float]:
    """Seconds of bringing a search up to date with a changed student, by policy (Atlas, section 2.4).

    Encoding the corpus anew; encoding only the first `retrieve.depth` of each train question anew; and, where the query side
    alone is trained (`student.query_side`), nothing.
    """
    return {
        "encode the corpus anew": _over(passages, speeds.encoded),
        f"re-rank the first {config.retrieve.depth}": _over(questions * config.retrieve.depth, speeds.encoded),
        "train the query side alone": 0.0,
    }


def depth_within(
    hours: float, steps: Mapping[str, Step], questions: Mapping[str, int], passages: int, speeds: Speeds
) -> int | None:
    """The greatest label depth, up to the config's own, with which the whole run takes no longer; None: not even 2 does."""
    for depth in range(max(step.config.label.depth for step in steps.values()), 1, -1):
        if sum(line.seconds for line in bill(steps, questions, passages, speeds, deepest=depth)) <= 3600 * hours:
            return depth
    return None


@dataclass(frozen=True)
class Bill:
    """What a run will cost, what keeping its search fresh would, and the label depth that fits the hours, if asked."""

    lines: Sequence[Line]
    speeds: Speeds
    refresh_seconds: Mapping[str, float]
    hours: float | None = None
    depth: int | None = None

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(line.seconds for line in self.lines)

    def plain(self) -> dict[str, Any]:
        """The bill as JSON, which the report compares with what was spent."""
        facts = asdict(self)
        return {"steps": {line.pop("step"): line for line in facts.pop("lines")}, "seconds": self.seconds, **facts}

    def notes(self) -> list[str]:
        """What the table does not say: memory, refresh policies, and what fits."""
        fresh = "; ".join(f"{policy}: {seconds / 60:.1f} min" for policy, seconds in self.refresh_seconds.items())
        said = [
            f"memory while trying the models: {self.speeds.peak_mb:,.0f} MB",
            f"keeping a search fresh, each time: {fresh}",
        ]
        if self.hours is not None:
            fits = f"--set label.depth={self.depth}" if self.depth else "no label depth does: train for fewer steps as well"
            said.append(f"within {self.hours:g} h: {fits}")
        return said


def planned(config: Config, root: Path, hours: float | None = None) -> Bill:
    """The bill of a run in `root`, which is also left there as bill.json; the prepare stage is done for it, and is kept."""
    steps = run(config, root, only=["prepare"])
    job = Job(steps, accelerator(config.compute))
    speeds = probe(job, config)
    questions = {split: len(queries) for split, queries in job.prepared.splits.items()}
    passages = len(job.prepared.corpus)
    found = Bill(
        bill(steps, questions, passages, speeds), speeds, refreshes(config, questions["train"], passages, speeds), hours,
        depth_within(hours, steps, questions, passages, speeds) if hours is not None else None,
    )  # fmt: skip
    write_json(root / BILL, found.plain())
    return found


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


def _over(items: float | int, per_second: float) -> float:
    return items / per_second if per_second else 0.0


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
