"""A cross-encoder fine-tuned on the GOLD passages of train questions, by sentence-transformers' own trainer.

It starts from the recipe's student model with a new head of one logit, and learns by binary cross-entropy to tell the gold
passage of a question from passages that BM25 ranks high for it. After an interruption it goes on at its last checkpoint.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from transformers.trainer_utils import get_last_checkpoint

from retort import compute
from retort.config import Config
from retort.costs import measured
from retort.data import fingerprint, read_corpus, read_qrels, read_queries
from retort.indexes.bm25 import BM25Index, BM25Settings
from retort.records import Corpus, Qrels, Query
from retort.store import StageFolder, key_of, remove
from retort.text import passage_text

NEGATIVES = 3  # of BM25's beside each gold passage
WINDOW = 20  # of BM25's ranking that they are drawn from
PASSAGE = "{title} {text}"
CHECKPOINT_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long it is trained, and on how much at once: pairs of a question and a passage, and tokens of both together."""

    steps: int
    batch: int
    learning_rate: float
    tokens: int
    frozen_layers: int


def trained(config: Config, grades: Path, out: Path, budget: Budget) -> StageFolder:
    """The folder of the fine-tuned cross-encoder (in model/); trained unless it is there for the same data and budget."""
    questions = config.prepare.queries["train"]
    sources = [fingerprint(source) for source in (config.prepare.corpus, questions, str(grades))]
    section = {"model": config.distil.student.model, "seed": config.seed, "drawn": [NEGATIVES, WINDOW], **asdict(budget)}
    stage = StageFolder(out, key_of(section, sources, 1), 1)
    if stage.state() == "done":
        return stage
    stage.open()
    compute.seed_everything(config.seed)  # the new head
    corpus = Corpus.from_passages(read_corpus(config.prepare.corpus))
    bm25 = BM25Index.build(corpus, settings=BM25Settings(**config.retrieve.bm25.model_dump()))
    with measured(stage.path, "pairs") as meter:
        data = pairs(
            corpus, read_queries(questions, "train"), read_qrels(str(grades)), bm25,
            count=budget.steps * budget.batch, seed=config.seed,
        )  # fmt: skip
        model = fine_tuned(config, data, stage.path / "checkpoints", budget)
        meter.items = budget.steps * budget.batch
    model.save(str(stage.path / "model"), create_model_card=False)
    remove(stage.path / "checkpoints")
    stage.finish({"pairs": len(data), "steps": budget.steps})
    return stage


def pairs(corpus: Corpus, queries: Sequence[Query], qrels: Qrels, bm25: BM25Index, *, count: int, seed: int) -> Dataset:
    """At least `count` rows of query, passage and label, where there are so many: questions in a random order.

    Each comes with one gold passage and with `NEGATIVES` of BM25's first `WINDOW` that are not gold.
    """
    rng = np.random.default_rng(seed)
    asked = [queries[place] for place in rng.permutation(len(queries))[: -(-count // (1 + NEGATIVES))]]
    found = bm25.search(asked, WINDOW, name="bm25")
    rows: list[tuple[str, int, int]] = []
    for query in asked:
        gold = corpus.rows([passage for passage, grade in qrels.grades.get(query.id, {}).items() if grade > 0])
        others = np.setdiff1d(found.of(query.id)[0], gold)
        rows += [(query.text, row, 1) for row in rng.permutation(gold)[:1].tolist()]
        rows += [(query.text, row, 0) for row in rng.permutation(others)[:NEGATIVES].tolist()]
    if not any(label for *_, label in rows):
        raise ValueError(
            f"none of {len(asked)} train questions has a gold passage: expected one for each; look at the grades"
        )
    texts = ((query, passage_text(corpus[row], PASSAGE), label) for query, row, label in rows)
    return Dataset.from_list([dict(zip(("query", "passage", "label"), one, strict=True)) for one in texts])


def fine_tuned(config: Config, data: Dataset, folder: Path, budget: Budget) -> CrossEncoder:
    """The cross-encoder after its steps; those that a checkpoint in `folder` has done are not done again."""
    student, accelerator = config.distil.student, compute.accelerator(config.compute)
    path = compute.model_path(student.model, student.sha256)
    model = CrossEncoder(path, num_labels=1, device=str(accelerator.device))
    model.max_seq_length = budget.tokens
    compute.freeze_lowest(model, budget.frozen_layers, "--frozen-layers")
    settings = CrossEncoderTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=budget.batch,
        max_steps=budget.steps,
        learning_rate=budget.learning_rate,
        warmup_steps=0.1,  # a share of all steps
        save_steps=CHECKPOINT_STEPS,
        save_total_limit=1,
        bf16=accelerator.mixed_precision == "bf16",
        use_cpu=accelerator.device.type == "cpu",
        dataloader_pin_memory=accelerator.device.type == "cuda",
        seed=config.seed,
        report_to="none",
    )
    trainer = CrossEncoderTrainer(model, settings, train_dataset=data, loss=BinaryCrossEntropyLoss(model))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    return model
