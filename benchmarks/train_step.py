"""How much faster a step of knowledge distillation is than one of sentence-transformers' trainer with `DistillKLDivLoss`.

Both train the same student on the same questions with the same candidates (BM25's, scored by BM25), lengths, loss, AdamW,
schedule and clipping, in float32 without dropout, so their losses must agree step by step: the largest difference is told.
Theirs is the trainer as its defaults leave it, and with bf16 where the machine multiplies that natively (ours then computes
in it, too); ours is `distil.loop.train` with gradient caching, its default, and without. Each training runs in a fresh
process, by turns. Its first step is warm-up; a step's seconds are those between the ends of two steps, with tokenising and
optimiser. At 16 x 32 all but the first take some 15 to 20 GB. Prints one line of JSON.

    python benchmarks/train_step.py [--queries 16] [--candidates 32] [--steps 1] [--repeats 5]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from rows import print_line
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
from speed import MINILM, Spent, Target, Times, alone, has_bfloat16, in_turn, options, ratios, real_texts, seconds_of
from transformers import TrainerCallback

from retort.compute import accelerator, model_path
from retort.config import Compute, Distil, Optimiser, StudentModel
from retort.distil.loop import train
from retort.distil.method import Method
from retort.indexes.bm25 import BM25Index
from retort.losses.objectives import KL
from retort.records import Corpus, Passage, Query, Run
from retort.students.loading import load_student
from retort.tensors import Term
from retort.text import passage_text

FORMAT = "{title} {text}"
LEARNING_RATE = 5e-5  # the trainer's default
OURS, UNCACHED, THEIRS, THEIRS_LOW = "retort", "retort-uncached", "trainer", "trainer-bf16"
BEFORE = {THEIRS: "sentence-transformers' trainer", THEIRS_LOW: "sentence-transformers' trainer, bf16"}


@dataclass(frozen=True)
class Case:
    """Questions with K candidates each and a teacher's scores, and the student's model and length."""

    queries: tuple[Query, ...]
    candidates: tuple[tuple[Passage, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    model: str
    tokens: int

    @property
    def distinct(self) -> dict[str, Passage]:
        """Every passage once, by its id."""
        return {passage.id: passage for row in self.candidates for passage in row}


@dataclass(frozen=True)
class Steps:
    """The ends of a training's steps on the clock, and their losses."""

    ends: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median step; the first, which nothing was warm for, does not count."""
        return median(after - before for before, after in pairwise(self.ends))


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    case = real_case(arguments.queries, arguments.candidates, arguments.model, arguments.tokens)
    given = {"steps": arguments.steps + 1, "chunk_tokens": arguments.chunk_tokens}
    works = {
        OURS: partial(retort, case, caching=True, **given),
        UNCACHED: partial(retort, case, caching=False, **given),
        THEIRS: partial(sentence_transformers, case, steps=given["steps"]),
    }
    if has_bfloat16():
        works[THEIRS_LOW] = partial(sentence_transformers, case, steps=given["steps"], bf16=True)
    kept = {name: work for name, work in works.items() if name not in arguments.leave_out}
    spent = in_turn({name: partial(alone, work) for name, work in kept.items()}, arguments.repeats)
    times = {name: Times(tuple(one.value.seconds for one in rounds)) for name, rounds in spent.items()}
    facts = {
        "queries": arguments.queries,
        "candidates": arguments.candidates,
        "texts": real_texts().name,
        "distinct passages": len(case.distinct),
        **seconds_of(times),
        "ratio": ratios(times, OURS),
        "peak megabytes": {name: round(median(one.megabytes for one in rounds)) for name, rounds in spent.items()},
        "largest difference of losses": difference_of_losses(spent),
        "targets": targets(times, f"KD step, {arguments.queries} x {arguments.candidates}"),
    }
    print_line("train_step", facts, argv=argv)


def targets(times: dict[str, Times], what: str) -> list[dict[str, Any]]:
    """The verdicts on both of our ways against both of theirs, as far as they were timed."""
    entries = []
    for ours in (OURS, UNCACHED):
        for theirs, bound in ((THEIRS, 2.0), (THEIRS_LOW, 1.2)):
            target = Target(f"{what}, {'cached' if ours == OURS else 'uncached'}", BEFORE[theirs], at_least=bound)
            if ours in times and theirs in times:
                entries.append(target.found(times[theirs].median / times[ours].median))
            else:
                entries.append(target.unmeasured("no native bfloat16 here" if theirs == THEIRS_LOW else "left out"))
    return entries


def difference_of_losses(spent: dict[str, list[Spent]]) -> float:
    """How far the float32 losses of any two trainings lie apart at any step."""
    losses = [one.value.losses for name, rounds in spent.items() if name != THEIRS_LOW for one in rounds]
    return max(max(step) - min(step) for step in zip(*losses, strict=True))


def real_case(queries: int, candidates: int, model: str, tokens: int) -> Case:
    """The first questions for which BM25 finds that many candidates. ValueError where they are too few."""
    texts = real_texts()
    run = BM25Index.build(texts.passages).search(texts.queries[: 8 * queries], candidates, name="bm25")
    known = {query.id: query for query in texts.queries}
    found = [(known[name], rows, scores) for name, rows, scores in run if len(rows) == candidates][:queries]
    if len(found) < queries:
        raise ValueError(
            f"{len(found)} questions with {candidates} candidates in {texts.name}, expected {queries}: ask fewer"
        )
    return Case(
        tuple(query for query, _, _ in found),
        tuple(tuple(texts.passages[row] for row in rows) for _, rows, _ in found),
        tuple(tuple(scores.tolist()) for _, _, scores in found),
        model_path(model),
        tokens,
    )


def retort(case: Case, *, steps: int, caching: bool, chunk_tokens: int | None) -> Callable[[], Steps]:
    """Our training, ready to be run."""
    student = StudentModel(
        model=case.model, query_prefix="", passage_format=FORMAT, query_tokens=case.tokens, passage_tokens=case.tokens,
        scale=1.0, dropout=0.0,
    )  # fmt: skip
    settings = Distil(
        student=student, candidates=len(case.scores[0]), sample="top", batch=len(case.queries), steps=steps,
        gradient_caching=caching, optimiser=Optimiser(learning_rate=LEARNING_RATE, weight_decay=0.0, warmup_steps=0),
        checkpoint_every=steps, **({"chunk_tokens": chunk_tokens} if chunk_tokens else {}),
    )  # fmt: skip
    loaded, engine = load_student(student), accelerator(Compute())
    corpus = Corpus.from_passages(case.distinct.values())
    rows = [corpus.rows([passage.id for passage in row]) for row in case.candidates]
    labels = Run.build("bm25", [query.id for query in case.queries], rows, list(map(list, case.scores)))
    method = Method(objectives={"kl": Term(KL())})

    def work() -> Steps:
        seen: list[tuple[float, float]] = []
        with tempfile.TemporaryDirectory() as folder:
            train(
                loaded, labels, corpus, case.queries, settings, method=method, seed=0, folder=Path(folder),
                accelerator=engine, progress=lambda step, facts: seen.append((time.perf_counter(), facts["loss"])),
            )  # fmt: skip
        return Steps(*zip(*seen, strict=True))

    return work


def sentence_transformers(case: Case, *, steps: int, bf16: bool = False) -> Callable[[], Steps]:
    """Their training, ready to be run: the trainer's defaults, but for files and reports that ours does not write either."""
    model = SentenceTransformer(case.model, device=None if torch.cuda.is_available() else "cpu")
    model.max_seq_length = case.tokens
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    columns: dict[str, list[Any]] = {"query": [query.text for query in case.queries]}
    for place, passages in enumerate(zip(*case.candidates, strict=True)):
        columns[f"passage_{place}"] = [passage_text(passage, FORMAT) for passage in passages]
    loss, ends, losses = DistillKLDivLoss(model), _Ends(), []
    loss.register_forward_hook(lambda module, inputs, output: losses.append(float(output.detach())))

    def work() -> Steps:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):  # the trainer prints, too
            settings = SentenceTransformerTrainingArguments(
                output_dir=folder, max_steps=steps, per_device_train_batch_size=len(case.queries), bf16=bf16,
                use_cpu=not torch.cuda.is_available(), report_to="none", save_strategy="no", logging_strategy="no",
                disable_tqdm=True,
            )  # fmt: skip
            data = Dataset.from_dict({**columns, "label": [list(row) for row in case.scores]})
            SentenceTransformerTrainer(model, args=settings, train_dataset=data, loss=loss, callbacks=[ends]).train()
        return Steps(tuple(ends.seen), tuple(losses))

    return work


class _Ends(TrainerCallback):
    """The clock at the end of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.seen.append(time.perf_counter())


def training_options(text: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark that trains a student."""
    parser = options(text)
    parser.add_argument("--queries", type=int, default=16, help="of a batch (default 16)")
    parser.add_argument("--steps", type=int, default=1, help="that are timed in each training (default 1)")
    parser.add_argument("--model", default=MINILM, help="the student (default MiniLM)")
    parser.add_argument("--tokens", type=int, default=256, help="that texts are cut to (default 256)")
    parser.add_argument("--chunk-tokens", type=int, help="of ours that are encoded at once (default: Distil's)")
    return parser


def _options() -> argparse.ArgumentParser:
    parser = training_options(__doc__)
    parser.add_argument("--candidates", type=int, default=32, help="of a query (default 32)")
    sides = (UNCACHED, THEIRS, THEIRS_LOW)
    parser.add_argument("--leave-out", nargs="*", choices=sides, default=[], help="sides that there is no memory for")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
