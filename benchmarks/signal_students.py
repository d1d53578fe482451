"""Which of a reader's signals trains the best student: each labels the same candidates of FairytaleQA, under one budget.

Reads a finished run of benchmarks/fairytaleqa.py: its reader and its candidates, no train grades. All signals label the
train and dev questions in one pass; then each trains the untouched student anew, its labels brought to one entropy a
question, as raw scores differ by orders of magnitude. With --query-side only the query tower learns, over the untouched
passages: two minutes a student instead of half an hour. Prints one line of JSON: the measures of every student on dev, by
which a signal should be chosen, and on test with paired tests against `fid_kd`. The same command goes on after an
interruption.

    RETORT_DATA=data python benchmarks/signal_students.py RUN [--query-side] [--signals fid_kd adist] [--questions 1500]
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from rows import as_changes, compared, config_on, data_folder, options, print_line, row
from signals import SIGNALS, candidates_of, rules, signal_runs
from variants import result, run_until, seconds

from retort.config import Config, load
from retort.evaluation.metrics import PerQuery
from retort.plan import Step
from retort.prepared import Prepared
from retort.teachers.fid.loading import load_reader
from retort.teachers.fused import fuse

RULES = ("bm25", "answers")
FUSED = {  # what is asked of pairs: do two signals help, and what do the rules add
    "adist + loop": ("adist", "loop"),
    "bm25 + answers": RULES,
    "adist + loop + bm25 + answers": ("adist", "loop", *RULES),
}
BASELINE = "fid_kd"


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    data = data_folder("fairytaleqa")
    if data is None:
        return
    study = Study(data, arguments)
    with redirect_stdout(sys.stderr):  # stdout is the one line
        study.label()
        students = {name: study.student(name) for name in arguments.signals}
    untouched = next(iter(students.values()))
    found = {split: {"untouched": result(untouched, 0, "untouched", split)} for split in ("dev", "test")}
    for split, systems in found.items():
        systems |= {name: result(steps, 1, "round-1", split) for name, steps in students.items()}
    rivals = [name for name in students if name != BASELINE] if BASELINE in students else []
    facts = {
        "dev": _rows(found["dev"]),
        "systems": _rows(found["test"]),
        "tests": compared(found["test"], [(name, BASELINE) for name in rivals]),
        "seconds": {name: seconds(steps["round-1/distil"].path) for name, steps in students.items()},
        "kept steps": {name: steps["round-1/distil"].folder.manifest()["best_step"] for name, steps in students.items()},
    }
    print_line("signal_students", facts, argv=argv)


@dataclass(frozen=True)
class Study:
    """What all students share: the data, the run that is read, the budget, the folder."""

    data: Path
    arguments: argparse.Namespace

    def scores(self, name: str) -> Path:
        """Where the labels of a signal, a rule or several fused are."""
        return self.arguments.out / "labels" / f"{name}.parquet"

    def label(self) -> None:
        """The labels of every signal for the train and dev questions, written; all of them come from one pass."""
        run, own = self.arguments.run, self.arguments
        if all(self.scores(name).exists() for name in (*RULES, *SIGNALS, *FUSED)):
            return
        prepared, config = Prepared(run / "prepare"), load(run / "config.json")
        asked = [*prepared.splits["train"][: own.questions], *prepared.splits["dev"][: own.dev]]
        shown = candidates_of(run, asked, None, own.depth)
        groups = prepared.groups(shown, [query for query in asked if query.id in shown], own.depth)
        reader = load_reader(own.reader or run / "round-1" / "read" / "model")
        runs = rules(run, shown, groups) | signal_runs(reader, config, shown, groups)
        runs |= {name: fuse([runs[one] for one in several], name=name) for name, several in FUSED.items()}
        self.scores(BASELINE).parent.mkdir(parents=True, exist_ok=True)
        for name, labels in runs.items():
            labels.write(self.scores(name))

    def student(self, name: str) -> dict[str, Step]:
        """The steps of the student of one signal, evaluated."""
        folder = self.arguments.out / ("query side" if self.arguments.query_side else "both sides") / name
        return run_until("round-1/evaluate", self.config(name), folder, self.arguments.out)

    def config(self, name: str) -> Config:
        """The recipe's student and budget, with the labels of one signal."""
        own = self.arguments
        student = {"query_side": "full"} if own.query_side else {}
        distil = {"student": student, "objectives": [{"name": "kl"}, {"name": "candidate_mass"}]}
        protocol = {
            "rounds": 1,
            "prepare": {"limit": {"dev": own.dev}},
            "label": {  # shares and answers lie between 0 and 1, though no sigmoid has squashed them
                "teachers": [{"kind": "run", "scores": str(self.scores(name)), "squashed": True}], "depth": 100,
                "entropy": own.entropy,
            },
        }  # fmt: skip
        usual = as_changes({"distil": distil})
        return config_on(self.data, own.recipe, [*usual, *own.set, *as_changes(protocol)])


def _rows(found: Mapping[str, PerQuery]) -> dict[str, dict[str, list[float]]]:
    return {name: row(one) for name, one in found.items()}


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__, out=Path("runs/signal_students"))
    names = [*RULES, *SIGNALS, *FUSED]
    parser.add_argument("run", type=Path, help="a finished run of benchmarks/fairytaleqa.py, with its reader")
    parser.add_argument("--signals", nargs="+", choices=names, default=names, help="to train students from (default all)")
    parser.add_argument("--query-side", action="store_true", help="train the query tower alone")
    parser.add_argument("--questions", type=int, default=3000, help="train questions that are labelled (default 3000)")
    parser.add_argument("--dev", type=int, default=300, help="dev questions (default 300)")
    parser.add_argument("--depth", type=int, default=6, help="candidates of a question (default 6)")
    parser.add_argument("--entropy", type=float, default=0.7, help="nats of each question's labels (default 0.7)")
    parser.add_argument("--reader", type=Path, default=None, help="a reader's folder (default: the run's of round 1)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
