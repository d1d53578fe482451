"""Training the reader on retrieved passages: cross-entropy of the answer, in phases, resumed bit for bit.

Here: the only backward() of a reader. A step is a pure function of the weights and of (seed, step): its data and dropout
are drawn from them; model, optimiser and schedule come back from the checkpoint. Best dev exact match is kept (FiD), F1
decides between equals.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.scheduler import AcceleratedScheduler
from torch import Tensor, nn
from torch.optim import AdamW

from retort.compute import batch_rows, freeze_lowest, linear_schedule, load_checkpoint, save_checkpoint, share
from retort.config import Phase, Read
from retort.records import Group
from retort.store import StepLog, write_atomic
from retort.teachers.fid.decoding import IGNORED
from retort.teachers.fid.loading import save_reader
from retort.teachers.fid.model import Reader
from retort.teachers.fid.prompts import check_targets, tokenise_passages, tokenise_targets, trained_on
from retort.teachers.fid.teacher import answer_groups
from retort.text import AnswerMatcher, exact_match, f1

MODEL, CHECKPOINT, LOG = "model", "checkpoint", "log.jsonl"
Progress = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class ReaderData:
    """Training and dev questions with their candidates, best first. Dev questions need answers; so do those of train."""

    train: Sequence[Group]
    dev: Sequence[Group]


def train_reader(
    reader: Reader,
    data: ReaderData,
    settings: Read,
    *,
    seed: int,
    folder: Path,
    accelerator: Accelerator,
    progress: Progress = lambda step, facts: None,
) -> dict[str, float]:
    """The dev EM, F1 and step of the best reader, which is saved in `folder`/model; the log is in `folder`/log.jsonl.

    A killed run goes on at its last checkpoint, which stays until the caller removes it, and ends with the same bytes.
    ValueError, before any training, where a phase or the evaluation has no question to use, an answer is too long for the
    decoder, or a batch does not divide over the processes; FloatingPointError where the loss is not finite, with the step
    and the questions.
    """
    pools = [eligible(data.train, phase) for phase in settings.phases]
    steps = sum(phase.steps for phase in settings.phases)
    _answerable(data.dev)
    check_targets(reader, (group.query for pool in pools for group in pool), settings.prompts)
    for phase in settings.phases:
        share(range(phase.batch), accelerator)
    accelerator.free_memory()  # else checkpoints would hold the models of earlier trainings too
    chosen = settings.optimiser
    optimiser = AdamW(_parameter_groups(reader, settings), weight_decay=chosen.weight_decay)
    schedule = linear_schedule(optimiser, warmup_steps=chosen.warmup_steps, steps=chosen.decay_steps or steps)
    if settings.gradient_checkpointing:
        reader.model.get_encoder().activation_checkpointing_enable()  # as FiD: K passages, not one answer, fill the memory
    model, optimiser, schedule = accelerator.prepare(reader, optimiser, schedule)
    found = load_checkpoint(accelerator, folder / CHECKPOINT)
    step, best = (found["step"], found["best"]) if found else (0, {"EM": -1.0, "F1": -1.0, "step": 0})
    log = StepLog(folder / LOG, active=accelerator.is_main_process)
    log.truncate(step)
    while step < steps:
        at, phase, pool = _phase_of(step, settings.phases, pools)
        rows = batch_rows(len(pool), phase.batch, at, seed)
        groups = [training_group(pool[row], phase, np.random.default_rng([seed, step, int(row)])) for row in rows]
        torch.manual_seed(int(np.random.default_rng([seed, step, accelerator.process_index]).integers(2**63)))  # dropout
        facts = _update(model, optimiser, schedule, share(groups, accelerator), settings, phase, accelerator)
        if not all(map(math.isfinite, facts.values())):
            raise FloatingPointError(
                f"reader step {step} on questions {[g.query.id for g in groups[:3]]}...: {facts}, expected finite numbers; "
                "lower read.optimiser.learning_rate, or train in float32; the last checkpoint is kept"
            )
        step += 1
        if step % settings.evaluate_every == 0 or step == steps:
            scores = evaluate_reader(reader, data.dev, settings, accelerator)
            facts |= {f"dev {name}": value for name, value in scores.items()}
            if (scores["EM"], scores["F1"]) > (best["EM"], best["F1"]):
                best = {**scores, "step": step}
                _save_best(reader, folder / MODEL, accelerator)
        log.add(step, facts)
        progress(step, facts)
        if step % settings.checkpoint_every == 0 and step < steps:
            save_checkpoint(accelerator, folder / CHECKPOINT, {"step": step, "best": best})
    return best


def eligible(groups: Sequence[Group], phase: Phase) -> list[Group]:
    """The questions that a phase can train on: with an answer and candidates; for `select: answer`, one that holds it.

    The positives of the latter are marked: candidates whose text holds an answer (`has_answer`).
    """
    kept = [group for group in groups if trained_on(group.query) and group.passages]
    if phase.select == "answer":
        matchers = [AnswerMatcher(group.query.answers) for group in kept]
        holds = [[match.matches(one.text) for one in group.passages] for match, group in zip(matchers, kept, strict=True)]
        kept = [replace(group, positive=tuple(held)) for group, held in zip(kept, holds, strict=True) if any(held)]
    if not kept:
        raise ValueError(
            f"none of {len(groups)} training questions can be used in a phase with select {phase.select!r}: expected "
            "questions with answers and candidates" + (" that hold them" if phase.select == "answer" else "")
        )
    return kept


def training_group(group: Group, phase: Phase, rng: np.random.Generator) -> Group:
    """The question with the one answer and the passages that it is trained on in this step, as the candidates stand.

    The answer is the target that the data names, else drawn anew each time (FiD). top: the first of its candidates. answer:
    the best one that holds an answer, and others drawn from the best 2 (passages - 1) that hold none, so that the reader has
    to choose.
    """
    answers = trained_on(group.query)
    query = replace(group.query, answers=(answers[int(rng.integers(len(answers)))],))
    if phase.select == "top":
        return Group(query, group.passages[: phase.passages])
    first = group.positive.index(True)
    others = [k for k, holds in enumerate(group.positive) if not holds][: 2 * (phase.passages - 1)]
    drawn = rng.permutation(len(others))[: phase.passages - 1]
    chosen = sorted([first, *(others[int(i)] for i in drawn)])
    return Group(query, tuple(group.passages[k] for k in chosen))


def evaluate_reader(reader: Reader, groups: Sequence[Group], settings: Read, accelerator: Accelerator) -> dict[str, float]:
    """EM and F1 of greedy answers over all `groups` that have answers, in 0..1; 0 for a question without candidates.

    The same in every process. ValueError where no group has both answers and candidates.
    """
    depth = settings.evaluate_passages or settings.phases[-1].passages
    asked = [Group(group.query, group.passages[:depth]) for group in _answerable(groups)]
    batch = settings.phases[-1].microbatch or settings.phases[-1].batch
    predictions = answer_groups(reader, asked, settings.prompts, batch=batch, accelerator=accelerator)
    pairs = [(predictions[group.query.id], group.query.answers) for group in asked]
    count = sum(1 for group in groups if group.query.answers)
    return {
        "EM": sum(exact_match(found, answers) for found, answers in pairs) / count,
        "F1": sum(f1(found, answers) for found, answers in pairs) / count,
    }


def _answerable(groups: Sequence[Group]) -> list[Group]:
    kept = [group for group in groups if group.query.answers and group.passages]
    if not kept:
        raise ValueError(f"none of {len(groups)} dev questions has answers and candidates: the reader cannot be selected")
    return kept


def _phase_of(step: int, phases: Sequence[Phase], pools: Sequence[list[Group]]) -> tuple[int, Phase, list[Group]]:
    """The step within its phase, the phase, and the phase's questions."""
    for phase, pool in zip(phases, pools, strict=True):
        if step < phase.steps:
            return step, phase, pool
        step -= phase.steps
    raise IndexError("the step is behind the last phase")


def _update(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: AcceleratedScheduler,
    groups: Sequence[Group],
    settings: Read,
    phase: Phase,
    accelerator: Accelerator,
) -> dict[str, float]:
    """One optimiser step on this process's questions; the loss is the mean over the target tokens of the whole batch."""
    model.train()
    reader: Reader = accelerator.unwrap_model(model)
    answers = [group.query.answers[0] for group in groups]
    size = phase.microbatch or len(groups)
    cuts = range(0, len(groups), size)
    targets = [tokenise_targets(reader, answers[at : at + size], settings.prompts) for at in cuts]
    tokens = torch.tensor(float(sum(int((target != IGNORED).sum()) for target in targets)), device=accelerator.device)
    tokens = accelerator.reduce(tokens, "sum")
    total = torch.zeros((), device=accelerator.device)
    for number, (at, target) in enumerate(zip(cuts, targets, strict=True)):
        ids, mask = tokenise_passages(reader, groups[at : at + size], settings.prompts)
        last = number == len(targets) - 1
        with nullcontext() if last else accelerator.no_sync(model), accelerator.autocast():
            loss = -model(*_moved(accelerator, ids, mask, target)).sum() / tokens
            # processes average their gradients; this loss is a sum over the whole batch
            accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.optimiser.clip)
    rate = schedule.get_last_lr()[0]
    optimiser.step()
    schedule.step()
    optimiser.zero_grad()
    loss = torch.as_tensor(accelerator.reduce(total, "sum")).item()
    return {"loss": loss, "gradient_norm": torch.as_tensor(norm).item(), "learning_rate": float(rate)}


def _moved(accelerator: Accelerator, *tensors: Tensor) -> list[Tensor]:
    return [tensor.to(accelerator.device) for tensor in tensors]


def _parameter_groups(reader: Reader, settings: Read) -> list[dict[str, object]]:
    """The encoder's trained parameters at the learning rate, all others at `decoder_rate` times it; frozen ones left out."""
    encoder = reader.model.get_encoder()
    freeze_lowest(encoder, settings.frozen_layers, "read.frozen_layers")
    rate = settings.optimiser.learning_rate
    inside = {id(parameter) for parameter in encoder.parameters()}
    trained = [parameter for parameter in reader.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in inside], "lr": rate},
        {"params": [p for p in trained if id(p) not in inside], "lr": rate * settings.decoder_rate},
    ]


def _save_best(reader: Reader, folder: Path, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        with write_atomic(folder) as whole:
            save_reader(reader, whole)
    accelerator.wait_for_everyone()
