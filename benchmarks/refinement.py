"""CKL's own setting on FairytaleQA: a warmed-up student is refined with a cross-encoder's labels, by one loss after another.

Unlike the label-free loop this READS qrels/train.tsv: the cross-encoder is fine-tuned on it, the student is warmed up on it,
and all losses draw from the lists of CKL's recipe: a gold passage, and others of the first 20 that the warmed-up student
finds. The cross-encoder labels once; losses and seeds share its labels, the questions and the budget, and the student of the
last step is kept unless the one before the first agrees better with the labels of some dev questions. Prints one line of
JSON: MRR@10, nDCG@10 and R@20 on the test questions with paired tests, and the same on hard questions, those on which the
teacher's own RR@10 is below 0.2. The same command goes on after an interruption; other losses and seeds join what is there.

`--teacher bm25` takes BM25's scores for the cross-encoder's, as one of MiniLM's size learns little in an hour on a CPU.

    RETORT_DATA=data python benchmarks/refinement.py [--student sparse] [--losses kl ckl] [--seeds 0 1] [--sweep]
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gold_teacher
from gold_teacher import Budget
from rows import as_changes, compared, config_on, data_folder, mean_of, options, print_line, row
from variants import result, run_until, seconds, training

from retort.config import Config
from retort.evaluation.metrics import PerQuery, evaluate
from retort.labelling import LABELS, MODEL
from retort.plan import Step
from retort.prepared import Prepared, asked_of
from retort.records import Run
from retort.store import write_atomic

MEASURES = ("RR@10", "nDCG@10", "R@20")
WINDOW = 20  # of the student's ranking, which is labelled, and from which negatives are drawn (the authors' code)
HARD = 0.2  # the teacher's RR@10 below which a question is hard (the authors' notebooks)
CHOOSING = 50  # dev questions whose labels choose between the first and the last step
PAIRS = (("ckl", "kl"), ("kl", "warm"), ("ckl", "warm"), ("bkl", "warm"), ("margin_mse", "warm"), ("ranknet", "warm"))
Settings = dict[str, float]
# The authors' settings. bkl: 0.02 of a penalty summed over a batch of 8, beside a KL averaged over 8 x 6, so 0.96 of a row.
LOSSES: Mapping[str, Settings] = {
    "kl": {}, "ckl": {"gamma": 5.0, "alpha": 1.0}, "bkl": {"lam": 0.96}, "margin_mse": {}, "ranknet": {}
}  # fmt: skip
SWEPT: Mapping[str, Sequence[Settings]] = {
    "ckl": [{"gamma": gamma, "alpha": alpha} for gamma in (2.0, 5.0) for alpha in (0.0, 1.0)],
    "bkl": [{"lam": lam} for lam in (0.02, 0.2, 0.96)],
}
# What differs from the recipe's dense student. A sparse one has a logit for every token and every entry of the vocabulary.
STUDENTS: Mapping[str, dict[str, Any]] = {
    "dense": {"distil": {"student": {}, "gradient_caching": False}},
    "sparse": {
        "distil": {"student": {"kind": "sparse", "scale": None}, "gradient_caching": True, "chunk_tokens": 2048},
        "encode": {"batch_tokens": 2048},
    },
    "late_interaction": {"distil": {"student": {"kind": "late_interaction", "scale": None}, "gradient_caching": False}},
}
FLOPS = {"query": 3e-4, "passage": 1e-4}  # SPLADE v2's weights beside in-batch negatives; CKL's authors refine without


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    data = data_folder("fairytaleqa")
    if data is None:
        return
    study = Study(data, arguments)
    with redirect_stdout(sys.stderr):  # stdout is the one line
        warm, labelled, spent = study.labelled()
        chosen, sweep = study.chosen(warm)
        runs = {(loss, seed): study.refined(warm, loss, chosen[loss], seed) for seed in study.seeds for loss in chosen}
        found = systems(labelled, runs)
    spent |= {f"{loss}/seed-{seed}": seconds(steps["round-1/distil"].path) for (loss, seed), steps in runs.items()}
    facts = {
        "student": arguments.student, "settings": chosen, "sweep": sweep, "seconds": spent, **summary(found),
        "seeds": {f"{loss}/seed-{seed}": seed_row(steps) for (loss, seed), steps in runs.items()}, "hard": hard(found),
    }  # fmt: skip
    print_line("refinement", facts, argv=argv)


@dataclass(frozen=True)
class Study:
    """What all runs of one student share: the data, the budgets, the folder."""

    data: Path
    arguments: argparse.Namespace

    @property
    def seeds(self) -> list[int]:
        """The seeds asked for: three for a dense student, else one."""
        return self.arguments.seeds or ([0, 1, 2] if self.arguments.student == "dense" else [0])

    @property
    def folder(self) -> Path:
        """Where the runs of this student are."""
        return self.arguments.out / self.arguments.student

    def config(self, budget: Mapping[str, Any], *protocol: Mapping[str, Any], seed: int = 0) -> Config:
        """The recipe with a training's budget, which --set may change, and with the protocol, which it may not."""
        own, usual = self.arguments, STUDENTS[self.arguments.student]
        limits = {"train": own.questions, "dev": own.dev, "test": own.test}
        fixed = {
            "seed": seed,
            "rounds": 1,
            "prepare": {
                "positives": str(self.data / "qrels" / "train.tsv"),
                "limit": {split: count for split, count in limits.items() if count},
            },
            "evaluate": {"measures": list(MEASURES), "headline": MEASURES[1]},
        }
        frozen = {"distil": {"student": {"frozen_layers": own.frozen_layers}}}
        asked = [word for values in (usual, frozen, {"distil": budget}) for word in as_changes(values)]
        required = [word for values in (fixed, *protocol) for word in as_changes(values)]
        return config_on(self.data, own.recipe, [*asked, *own.set, *required])

    def teacher(self) -> Path:
        """The stage of the fine-tuned cross-encoder, which all kinds of students share."""
        own = self.arguments
        budget = Budget(
            steps=own.teacher_steps, batch=own.teacher_batch, learning_rate=own.teacher_rate, tokens=own.teacher_tokens,
            frozen_layers=own.frozen_layers,
        )  # fmt: skip
        return gold_teacher.trained(self.config({}), self.data / "qrels" / "train.tsv", own.out / "teacher", budget).path

    def judge(self) -> tuple[dict[str, Any], float]:
        """The settings of the teacher, and the seconds that its training took."""
        own = self.arguments
        if own.teacher == "bm25":
            return {"kind": "bm25"}, 0.0
        teacher = self.teacher()
        model = {"model": str(teacher / MODEL), "tokens": own.teacher_tokens, "passage_format": gold_teacher.PASSAGE}
        return {"kind": "cross_encoder", **model}, seconds(teacher)

    def warmed(self) -> Path:
        """The stage of the warmed-up student: InfoNCE of gold passages, each with one negative of BM25's first 20."""
        own = self.arguments
        grown = {"name": "flops", "warmup_steps": own.warm_steps // 2 or None}
        sparsity = [{**grown, "side": side, "coefficient": weight} for side, weight in FLOPS.items()]
        protocol = {
            "retrieve": {"first": ["bm25"]},
            "label": {"teachers": [{"kind": "bm25"}], "depth": WINDOW},
            "distil": {"objectives": [{"name": "info_nce"}, *(sparsity if own.student == "sparse" else [])]},
        }
        config = self.config(training(own.warm_steps, own.warm_batch, 2, own.warm_rate), drawn("bm25"), protocol)
        return run_until("round-1/distil", config, self.folder / "warm", own.out)["round-1/distil"].path

    def labelled(self) -> tuple[Path, dict[str, Step], dict[str, float]]:
        """The warmed-up student, the steps up to the teacher's labels of what it finds, and the seconds that led to them.

        `labels.parquet` in the folder has those that the refined students learn from.
        """
        warm, spent = self.arguments.warm, {}
        if warm is None:
            stage = self.warmed()
            warm, spent = stage / MODEL, {"warm": seconds(stage)}
        judge, trained = self.judge()
        label = {"label": {"teachers": [judge], "depth": WINDOW}}
        config = self.refining(warm, "ckl", LOSSES["ckl"], label)
        steps = run_until("round-1/label", config, self.folder / "labels", self.arguments.out)
        splits, labels = Prepared(steps["prepare"].path).splits, Run.read(steps["round-1/label"].path / LABELS)
        with write_atomic(self.folder / LABELS) as path:
            asked_of(labels, [*splits["train"], *splits["dev"][:CHOOSING]]).write(path)
        return warm, steps, {**spent, "teacher": trained, "label": seconds(steps["round-1/label"].path)}

    def refined(self, warm: Path, loss: str, settings: Settings, seed: int) -> dict[str, Step]:
        """The steps of one refinement, evaluated."""
        label = {"label": {"teachers": [{"kind": "run", "scores": str(self.folder / LABELS)}], "depth": 100}}  # all of them
        folder = self.folder / title(loss, settings) / f"seed-{seed}"
        return run_until("round-1/evaluate", self.refining(warm, loss, settings, label, seed), folder, self.arguments.out)

    def refining(self, warm: Path, loss: str, settings: Settings, label: Mapping[str, Any], seed: int = 0) -> Config:
        """The config of a refinement of the student in `warm` by one loss."""
        own = self.arguments
        with (warm / "model.safetensors").open("rb") as weights:  # pinned: another warm-up makes other vectors
            student = {"model": str(warm), "sha256": hashlib.file_digest(weights, "sha256").hexdigest()}
        if own.query_side:
            student["query_side"] = "full"
        objectives = [{"name": loss, "teacher_temperature": own.teacher_temperature, **settings}]
        protocol = {
            "retrieve": {"first": ["student"]},
            "distil": {"student": student, "objectives": objectives},
        }
        budget = training(own.steps, own.batch, own.candidates, own.learning_rate)
        return self.config(budget, drawn("student"), protocol, label, seed=seed)

    def chosen(self, warm: Path) -> tuple[dict[str, Settings], dict[str, float]]:
        """The settings of each loss, the best of a sweep or the authors', and MRR@10 on dev of those that were swept."""
        own, tried = self.arguments, {}
        chosen = {loss: LOSSES[loss] for loss in own.losses}
        if "ckl" in chosen and own.student == "late_interaction":
            chosen["ckl"] = {"gamma": 5.0, "alpha": 1.5}  # the authors' for ColBERT
        for loss in (loss for loss in own.losses if own.sweep and loss in SWEPT):
            found = {title(loss, one): self.refined(warm, loss, one, 0) for one in SWEPT[loss]}
            values = {name: result(steps, 1, "round-1", "dev").means()[MEASURES[0]] for name, steps in found.items()}
            chosen[loss] = max(SWEPT[loss], key=lambda one: values[title(loss, one)])
            tried |= {name: round(value, 4) for name, value in values.items()}
        return chosen, tried


def drawn(system: str) -> dict[str, Any]:
    """The settings of what a step draws: a gold passage, and others of the first that a system finds."""
    negatives = {"system": system, "window": WINDOW}
    return {"distil": {"positives": "qrels", "sample": "positive", "negatives": negatives}}


def title(loss: str, settings: Settings) -> str:
    """The folder's name of a loss with its settings.

    >>> title("ckl", {"gamma": 5.0, "alpha": 1.0})
    'ckl-gamma5-alpha1'
    """
    return "-".join([loss, *(f"{name}{value:g}" for name, value in settings.items())])


def systems(labelled: dict[str, Step], runs: Mapping[tuple[str, int], dict[str, Step]]) -> dict[str, PerQuery]:
    """What each system reaches on each test question: a loss in the mean over its seeds.

    The teacher re-ranks the first 20 of the warmed-up student.
    """
    prepared = Prepared(labelled["prepare"].path)
    queries, labels = prepared.splits["test"], Run.read(labelled["round-1/label"].path / LABELS)
    found = {"bm25": result(labelled, 0, "bm25"), "warm": result(labelled, 0, "untouched")}
    found["teacher"] = evaluate(
        labels, prepared.corpus, queries=queries, measures=MEASURES, qrels=prepared.qrels("test")
    )  # fmt: skip
    for loss in dict.fromkeys(loss for loss, _ in runs):
        seeds = [result(steps, 1, "round-1") for (own, _), steps in runs.items() if own == loss]
        found[loss] = mean_of(loss, seeds)
    return {name: PerQuery(name, one.query_ids, {m: one.measures[m] for m in MEASURES}) for name, one in found.items()}


def summary(found: Mapping[str, PerQuery]) -> dict[str, Any]:
    """The measures of all systems, and tests between those that are there."""
    pairs = [pair for pair in PAIRS if set(pair) <= set(found)]
    return {"systems": {name: row(one) for name, one in found.items()}, "tests": compared(found, pairs)}


def hard(found: Mapping[str, PerQuery]) -> dict[str, Any]:
    """The number of the hard questions, and `summary` on them where there are any."""
    teacher = found["teacher"]
    poor = [q for q, value in zip(teacher.query_ids, teacher.measures[MEASURES[0]], strict=True) if value < HARD]
    return {"questions": len(poor), **(summary({name: one.select(poor) for name, one in found.items()}) if poor else {})}


def seed_row(steps: dict[str, Step]) -> dict[str, float]:
    """The measures of one run on test, and the step of the student that was kept."""
    means = result(steps, 1, "round-1").means()
    return {
        **{name: round(means[name], 4) for name in MEASURES},
        "kept step": steps["round-1/distil"].folder.manifest()["best_step"],
    }


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__, out=Path("runs/refinement"))
    parser.add_argument("--student", choices=STUDENTS, default="dense", help="its kind (default dense)")
    parser.add_argument("--warm", type=Path, help="the folder of a warmed-up student, instead of warming one up")
    parser.add_argument("--teacher", choices=("cross_encoder", "bm25"), default="cross_encoder", help="whose scores refine")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES), help="to refine by (default all)")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the refinement (default 0 1 2, of a dense student, else 0)")
    parser.add_argument("--query-side", action="store_true", help="refine the query tower alone, in a minute")
    parser.add_argument("--sweep", action="store_true", help="choose settings of ckl and bkl on dev, with seed 0")
    numbers: Sequence[tuple[str, float | None, str]] = (
        ("--questions", 3000, "train questions of the student"),
        ("--dev", 300, "dev questions"),
        ("--test", None, "test questions"),
        ("--steps", 200, "steps of a refinement"),
        ("--batch", 10, "questions of its step"),
        ("--candidates", 6, "passages of its question, one of them gold"),
        ("--learning-rate", 5e-5, "its highest rate"),
        ("--warm-steps", 150, "steps of the warm-up"),
        ("--warm-batch", 32, "questions of its step, with two passages each"),
        ("--warm-rate", 1e-4, "its highest rate"),
        ("--teacher-steps", 400, "steps of the teacher's training"),
        ("--teacher-batch", 32, "pairs of its step"),
        ("--teacher-rate", 1e-4, "its highest rate"),
        ("--teacher-tokens", 192, "tokens of a pair"),
        ("--teacher-temperature", 1.0, "what its logits are divided by in every loss"),
        ("--frozen-layers", 3, "lowest layers of teacher and student that are not trained"),
    )
    for name, value, what in numbers:
        kind = float if isinstance(value, float) else int
        parser.add_argument(name, type=kind, default=value, help=f"{what} (default {'all' if value is None else value})")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
