"""What the labels would buy: the same student fine-tuned on the GOLD passages of FairytaleQA's train questions.

Unlike the label-free loop this READS qrels/train.tsv: it is the supervised rival that the loop is measured against. In-batch
negatives and one BM25 negative that is not gold, by sentence-transformers' own loss and trainer; of its epochs the one with
the lowest loss on dev is kept. Encoded, searched and measured by Retort, like every other row of the table. The student, its
lengths and its dropout come from the recipe of the loop; it trains on all train questions, or on those that the loop has if
--questions is the loop's prepare.limit. After an interruption the same command goes on at the last whole epoch.

    RETORT_DATA=data python benchmarks/gold_baseline.py [--out runs/gold_baseline] [--epochs 3] [--steps 100]
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from rows import config_on, data_folder, measured, options, print_line, row
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from sentence_transformers.util import dot_score
from transformers.trainer_utils import get_last_checkpoint

from retort import compute, costs
from retort.config import Config
from retort.data import fingerprint, read_corpus, read_qrels, read_queries
from retort.indexes.bm25 import BM25Index, BM25Settings
from retort.indexes.exact import exact_top
from retort.indexes.vectors import VectorParts
from retort.prepared import limited
from retort.records import Corpus, Qrels, Query, Run
from retort.store import COST, StageFolder, key_of, read_json, remove
from retort.students.dense import DenseStudent
from retort.students.loading import load_student
from retort.students.texts import passage_prompt
from retort.text import passage_text

SIDES = {"anchor": "query", "positive": "document", "negative": "document"}  # columns, and what each is encoded as


@dataclass(frozen=True)
class GoldData:
    """FairytaleQA with its grades, those of the train questions among them."""

    corpus: Corpus
    queries: dict[str, list[Query]]
    qrels: dict[str, Qrels]


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    folder = data_folder("fairytaleqa")
    if folder is None:
        return
    config = config_on(folder, arguments.recipe, arguments.set)
    data = read_data(config, folder / "qrels" / "train.tsv", arguments.questions)
    with redirect_stdout(sys.stderr):  # the trainer prints its losses; stdout is the one line
        stage = trained(config, data, arguments)
        run = searched(config, data, stage.path / "model")
    result = measured(run, data.corpus, data.queries["test"], data.qrels["test"])
    result.write(arguments.out / "test.gold.parquet")  # for a paired test against a round's own results
    facts = {"seconds": {"train": round(read_json(stage.path / COST)["seconds"], 1)}, "runs": {"gold": row(result)}}
    print_line("gold_baseline", facts, argv=argv)


def read_data(config: Config, train_grades: Path, train_questions: int | None) -> GoldData:
    """The recipe's passages, dev and test questions; of those of train as many as are asked for, and the grades of all."""
    limits = {**config.prepare.limit, "train": train_questions}
    grades = {**config.prepare.qrels, "train": str(train_grades)}
    return GoldData(
        Corpus.from_passages(read_corpus(config.prepare.corpus)),
        {split: limited(read_queries(source, split), limits.get(split)) for split, source in config.prepare.queries.items()},
        {split: read_qrels(source, split) for split, source in grades.items()},
    )


def triplets(student: DenseStudent, data: GoldData, split: str, bm25: BM25Index) -> Dataset:
    """A question, a gold passage of it, and its best BM25 passage that is not gold; a row for each gold passage.

    A question for which BM25 finds nothing else is left out.
    """
    passages = passage_prompt(student.settings.passage_format)[1]
    found = bm25.search(data.queries[split], 100, name="bm25")
    rows: list[tuple[str, str, str]] = []
    for query in data.queries[split]:
        grades = data.qrels[split].grades.get(query.id, {})
        gold = data.corpus.rows([passage for passage, grade in grades.items() if grade > 0]).tolist()
        negatives = [place for place in found.of(query.id)[0].tolist() if place not in gold]
        if negatives:
            negative = passage_text(data.corpus[negatives[0]], passages)
            rows += [(query.text, passage_text(data.corpus[place], passages), negative) for place in gold]
    if not rows:
        raise ValueError(f"none of {len(data.queries[split])} {split} questions has a gold passage and a negative")
    return Dataset.from_list([dict(zip(SIDES, texts, strict=True)) for texts in rows])


def trained(config: Config, data: GoldData, arguments: argparse.Namespace) -> StageFolder:
    """The folder of the fine-tuned student; trained unless it is there already for the same data and settings."""
    settings = {name: getattr(arguments, name) for name in ("batch", "epochs", "steps", "learning_rate", "questions")}
    sources = [fingerprint(config.prepare.corpus), fingerprint(config.prepare.queries["train"])]
    section = {"student": config.distil.student.model_dump(), "seed": config.seed, **settings}
    stage = StageFolder(arguments.out / "train", key_of(section, sources, 1), 1)
    if stage.state() == "done":
        return stage
    stage.open()
    student = load_student(config.distil.student)
    bm25 = BM25Index.build(data.corpus, settings=BM25Settings(**config.retrieve.bm25.model_dump()))
    train, dev = (triplets(student, data, split, bm25) for split in ("train", "dev"))
    with costs.measured(stage.path, "triplets") as meter:
        steps = fine_tune(student, train, dev, training_arguments(config, student, stage.path / "epochs", arguments))
        meter.items = steps * arguments.batch
    student.save(stage.path / "model")
    remove(stage.path / "epochs")
    stage.finish({"triplets": len(train), "steps": steps})
    return stage


def training_arguments(
    config: Config, student: DenseStudent, folder: Path, arguments: argparse.Namespace
) -> SentenceTransformerTrainingArguments:
    """sentence-transformers' own defaults but for what is named; device and precision as in the loop."""
    accelerator = compute.accelerator(config.compute)
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=arguments.batch,
        per_device_eval_batch_size=arguments.batch,
        num_train_epochs=arguments.epochs,
        max_steps=arguments.steps or -1,
        learning_rate=arguments.learning_rate,
        warmup_steps=0.1,  # a share of all steps
        batch_sampler=BatchSamplers.NO_DUPLICATES,  # else a passage of two questions is a negative of one of them
        prompts={column: student.model.prompts[side] for column, side in SIDES.items()},
        router_mapping=SIDES,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        bf16=accelerator.mixed_precision == "bf16",
        use_cpu=accelerator.device.type == "cpu",
        dataloader_pin_memory=accelerator.device.type == "cuda",
        seed=config.seed,
        report_to="none",
    )


def fine_tune(student: DenseStudent, train: Dataset, dev: Dataset, settings: SentenceTransformerTrainingArguments) -> int:
    """The steps after which the student, changed in place, is fine-tuned; from its last checkpoint where there is one."""
    loss = MultipleNegativesRankingLoss(student.model, scale=1 / student.scale, similarity_fct=dot_score)
    trainer = SentenceTransformerTrainer(student.model, settings, train_dataset=train, eval_dataset=dev, loss=loss)
    folder = Path(str(settings.output_dir))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    return trainer.state.global_step


def searched(config: Config, data: GoldData, model: Path) -> Run:
    """What the student finds for the test questions: encoded, rounded to half precision and searched as in the loop."""
    accelerator = compute.accelerator(config.compute)
    student = load_student(config.distil.student, folder=model)
    student.model.to(accelerator.device)
    passages = student.embed(
        list(data.corpus), "passage", batch_tokens=config.encode.batch_tokens, autocast=lambda: accelerator.autocast()
    )
    asked = student.embed(data.queries["test"], "query", autocast=lambda: accelerator.autocast())
    scores, rows = exact_top(VectorParts.of(passages), asked, config.retrieve.depth)
    return Run.build("gold", [query.id for query in data.queries["test"]], list(rows), list(scores))


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__, out=Path("runs/gold_baseline"))
    parser.add_argument("--batch", type=int, default=32, help="questions of a step: 63 negatives for each (default 32)")
    parser.add_argument("--epochs", type=float, default=3, help="passes over the train questions (default 3)")
    parser.add_argument("--questions", type=int, help="train on so many questions (default all)")
    parser.add_argument("--steps", type=int, help="stop after so many steps, whatever the epochs")
    parser.add_argument("--learning-rate", type=float, default=3e-5, help="the highest of the schedule (default 3e-5)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
