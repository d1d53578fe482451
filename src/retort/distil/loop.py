"""The training loop of a student: the only backward() of one. Resumes bit for bit, keeps the best by dev, on any processes.

A step is a pure function of the weights and of (seed, step): its data and its random state are drawn from them. Here: steps,
evaluation, checkpoints. Not here: what a step costs (method.py), its data (batches.py), encoding in chunks (caching.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.scheduler import AcceleratedScheduler
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer

from retort.compute import (
    linear_schedule,
    load_checkpoint,
    mean_gradients,
    of_main_process,
    save_checkpoint,
    tracked,
)
from retort.config import Distil
from retort.distil.batches import Examples, examples, make_batch, sampled
from retort.distil.caching import encode_batch
from retort.distil.curation import Curation
from retort.distil.method import Method, RowLosses
from retort.distil.ranks import Renewal
from retort.distil.roster import Roster
from retort.distil.sampling import SAMPLERS
from retort.distil.topics import BATCHES, Place, Topics
from retort.records import Corpus, Query, Run
from retort.store import StepLog, write_atomic
from retort.tensors import Batch, Student

MODEL, CHECKPOINT, LOG, TOPICS = "model", "checkpoint", "log.jsonl", "topics.npy"
Validate = Callable[[Student], float]
Progress = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Trained:
    """What a training came to: the step of the model that was kept, its dev value, the steps done, and its queries."""

    best_step: int
    best_value: float | None
    steps: int
    queries: int
    dropped: Mapping[str, int]
    removed: Mapping[str, int]


@dataclass(frozen=True)
class Position:
    """How far a training is, and which model it would keep now. `stale`: evaluations since the best one."""

    step: int = 0
    best_step: int = 0
    best_value: float | None = None
    stale: int = 0

    def judged(self, value: float) -> "Position":
        """The position after an evaluation of the model of this step; equal values keep the earlier model."""
        if self.best_value is None or value > self.best_value:
            return replace(self, best_step=self.step, best_value=value, stale=0)
        return replace(self, stale=self.stale + 1)


def train(
    student: Student,
    labels: Run,
    corpus: Corpus,
    queries: Sequence[Query],
    settings: Distil,
    *,
    method: Method,
    seed: int,
    folder: Path,
    accelerator: Accelerator,
    validate: Validate | None = None,
    curation: Curation | None = None,
    place: Place | None = None,
    progress: Progress = lambda step, facts: None,
) -> Trained:
    """What the training came to; `folder`/model holds the best student by `validate` (higher is better), or else the last.

    The untouched student, step 0, takes part in that choice. `folder`/log.jsonl has a line for each step. A killed run goes
    on at its last checkpoint in `folder`/checkpoint, which stays until the caller removes it, and ends with the same bytes.
    `place` says where passages stand, by corpus row, where batches are to be of one topic.
    `validate` is called in every process; the main process's value counts. ValueError before any training: labels that
    nothing can be learnt from, or a signal that the student cannot give. FloatingPointError: a loss that is not finite.
    """
    method.check(student)
    _check_known(method, curation or Curation(), settings)
    data = examples(labels, queries, corpus, curation)
    if settings.batches == "topics":
        assert place is not None
        data = _by_topic(data, place, settings, seed, folder / TOPICS, accelerator)
    run = _Training.prepared(Roster.of(student), method, settings, seed, folder, accelerator)
    found = load_checkpoint(accelerator, folder / CHECKPOINT)
    position = Position(**found) if found else Position()
    run.log.truncate(position.step if found else -1)
    with tracked(accelerator, f"{folder.parent.name}-{folder.name}", settings.model_dump()):  # "round-1-distil"
        if validate and not found:
            position = run.evaluated(position, validate, {}, progress)
        while not run.done(position):
            data = run.renewal(student, data, corpus, position.step) if run.renewal else data
            batch = run.batch(data, corpus, position.step)
            facts = run.update(batch, position.step)
            position = replace(position, step=position.step + 1)
            due = position.step % settings.evaluate_every == 0 or position.step == settings.steps
            if validate and due:
                position = run.evaluated(position, validate, facts, progress)
            else:
                run.record(position, facts, progress)
            if run.saves(position):
                if not validate and run.done(position):
                    position = replace(position, best_step=position.step)
                    run.keep_model()
                save_checkpoint(accelerator, folder / CHECKPOINT, asdict(position))
    run.release()
    return Trained(position.best_step, position.best_value, position.step, len(data), data.dropped, data.removed)


def _by_topic(data: Examples, place: Place, settings: Distil, seed: int, path: Path, accelerator: Accelerator) -> Examples:
    """The examples in batches of one topic, which the main process finds once and keeps.

    K-means is not the same on all machines to the last bit, and batches have to be, in all processes and after a kill.
    """
    if accelerator.is_main_process and not path.exists():
        found = data.topics_of(place, settings.topics or len(data) // (BATCHES * settings.batch), seed)
        with write_atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, found)
    accelerator.wait_for_everyone()
    data = replace(data, topics=Topics(np.load(path)))
    data.rows(settings.batch, 0, seed)  # refuses too few questions for a batch before anything is trained
    return data


@dataclass(frozen=True)
class _Training:
    """The parts of a running training that stay the same from step to step."""

    roster: Roster
    method: Method
    settings: Distil
    seed: int
    folder: Path
    accelerator: Accelerator
    optimiser: Optimizer
    schedule: AcceleratedScheduler
    log: StepLog
    renewal: Renewal | None

    @classmethod
    def prepared(
        cls, roster: Roster, method: Method, settings: Distil, seed: int, folder: Path, accelerator: Accelerator
    ) -> "_Training":
        """Models on their device and under the precision asked for, with an optimiser and a schedule.

        The models get no DistributedDataParallel wrapper: a chunked gradient is exchanged once, when it is whole.
        """
        accelerator.free_memory()
        for model in roster.models.values():
            accelerator.prepare_model(model.module, evaluation_mode=True)
        chosen = settings.optimiser
        optimiser = AdamW(roster.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay)
        steps = chosen.decay_steps or settings.steps
        schedule = linear_schedule(optimiser, warmup_steps=chosen.warmup_steps, steps=steps)
        optimiser, schedule = accelerator.prepare(optimiser, schedule)
        log = StepLog(folder / LOG, active=accelerator.is_main_process)
        renewal = Renewal(settings, folder, seed, accelerator) if settings.ranks_every and "ranks" in method.reads else None
        return cls(roster, method, settings, seed, folder, accelerator, optimiser, schedule, log, renewal)

    def release(self) -> None:
        """Give the models back as they came, and forget them."""
        for model in self.roster.models.values():
            self.accelerator.unwrap_model(model.module, keep_fp32_wrapper=False)
            model.module.eval()
        self.accelerator.free_memory()

    def done(self, position: Position) -> bool:
        """Whether all steps are done, or patience is over."""
        patience = self.settings.patience
        return position.step >= self.settings.steps or (patience is not None and position.stale >= patience)

    def saves(self, position: Position) -> bool:
        """Whether a checkpoint is due: at its interval, before ranks are renewed, and at the end."""
        renewed = self.renewal is not None and self.renewal.due(position.step)
        due = renewed or position.best_step == position.step or position.step % self.settings.checkpoint_every == 0
        return due or self.done(position)

    def batch(self, data: Examples, corpus: Corpus, step: int) -> Batch:
        """The batch of `step`, the same in all processes; only their dropout differs."""
        rows, sampler = data.rows(self.settings.batch, step, self.seed), SAMPLERS[self.settings.sample]
        drawn = sampled(data, rows, sampler, self.settings.candidates, seed=self.seed, step=step)
        batch = self.method.view(make_batch(drawn, corpus, step), self.roster, np.random.default_rng([self.seed, step]))
        own = np.random.default_rng([self.seed, step, self.accelerator.process_index])
        torch.manual_seed(int(own.integers(2**63)))
        return batch.to(self.accelerator.device)

    def update(self, batch: Batch, step: int) -> Mapping[str, float]:
        """What one optimiser step found; the weights have moved."""
        for name, model in self.roster.models.items():
            model.module.train(self.roster.rules[name].trained)
        chosen = self.settings
        queries, passages = encode_batch(
            self.roster.student, batch, chosen.chunk_tokens, caching=chosen.gradient_caching, accelerator=self.accelerator
        )
        rows = self.method.row_losses(batch, self.roster, queries, passages)
        _check_finite(rows, batch, step)
        loss = rows.total.mean()
        self.accelerator.backward(loss)
        parameters = self.roster.parameters()
        mean_gradients(parameters, self.accelerator)
        norm = float(clip_grad_norm_(parameters, self.settings.optimiser.clip))
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: the gradient is not finite ({norm}); {_ADVICE}")
        facts = {"loss": loss.item()}
        if len(rows.named) > 1:
            facts |= {name: row.mean().item() for name, row in rows.named.items()}
        facts |= {"learning_rate": float(self.schedule.get_last_lr()[0]), "gradient_norm": norm}
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad()
        self.roster.after_step(step)
        return facts

    def evaluated(self, position: Position, validate: Validate, facts: Mapping[str, float], progress: Progress) -> Position:
        """The position after a dev evaluation; the model is on disk where it is the best so far."""
        value = of_main_process(validate(self.roster.student), self.accelerator)
        if not math.isfinite(value):
            raise FloatingPointError(f"step {position.step}: the dev value is {value}, expected a finite number; {_ADVICE}")
        judged = position.judged(value)
        if judged.best_step == position.step:
            self.keep_model()
        self.record(position, {**facts, "dev": value}, progress)
        return judged

    def record(self, position: Position, facts: Mapping[str, float], progress: Progress) -> None:
        """The facts of a step to the log, the trackers and the caller."""
        self.log.add(position.step, facts)
        self.accelerator.log(dict(facts), step=position.step)
        progress(position.step, facts)

    def keep_model(self) -> None:
        """The student as it is now becomes `folder`/model, at once or not at all."""
        if self.accelerator.is_main_process:
            with write_atomic(self.folder / MODEL) as path:
                self.roster.student.save(path)
        self.accelerator.wait_for_everyone()


def _check_known(method: Method, curation: Curation, settings: Distil) -> None:
    """ValueError where an objective reads positives or ranks that nobody gives."""
    if "positive" in method.reads and curation.mark is None:
        raise ValueError(
            f"the objectives {list(method.objectives)} read positives, but nothing marks them: give a curation with a mark "
            "(answer_bearing or graded), or take an objective that reads none"
        )
    if "ranks" in method.reads and curation.ranking is None and settings.ranks_every is None:
        raise ValueError(
            f"the objectives {list(method.objectives)} read ranks, but none are known: give a curation with a ranking, or "
            "set ranks_every, or alpha to 0"
        )


_ADVICE = "lower the learning rate, or train in float32; the last checkpoint is kept"


def _check_finite(rows: RowLosses, batch: Batch, step: int) -> None:
    """FloatingPointError that names the step and the queries, before anything moves."""
    bad = ~torch.isfinite(rows.total.detach())
    if bad.any():
        ids = [batch.queries[int(row)].id for row in bad.nonzero().flatten()]
        raise FloatingPointError(
            f"step {step}: the loss of {len(ids)} of {len(bad)} queries is not finite, among them {ids[:5]}; {_ADVICE}"
        )
