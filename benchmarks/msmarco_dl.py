"""Real scores of real systems as teachers: TREC DL 2019's 43 questions to learn from, DL 2020's 54 to be measured on.

The data has the first 100 passages of six systems with their scores, and no train split. DL19's questions, dev there, are
divided here: most of them train, a few choose between the student before the first step and after the last. The scores of a
system are the labels; grades are for evaluation only. Prints one line of JSON: the audit's verdict on the scores that each
system gave to DL19, and on DL20 nDCG@10, R@100 and RR@10 (relevant: a grade of 2 or 3) of the six systems, of the untouched
student and of one student for each teacher and loss, with paired tests. The six searched the 8.8 million passages of MS
MARCO, the students search the 27,274 that any of them has found. The same command goes on after an interruption.

    RETORT_DATA=data python benchmarks/msmarco_dl.py [--teachers repllama tas_b] [--losses kl]
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rows import as_changes, compared, config_on, data_folder, options, print_line, row
from variants import result, run_until, seconds, training

from retort.data import read_corpus, read_qrels, read_queries, read_scores
from retort.evaluation.audit import Audit, audit_labels
from retort.evaluation.metrics import PerQuery, evaluate
from retort.plan import Step
from retort.prepared import limited
from retort.records import Corpus, Qrels, Query, Run
from retort.store import write_atomic

SYSTEMS = ("bm25", "bm25_rm3", "splade_pp_ed", "tas_b", "repllama", "ada2")
TRACKS = {"dl19": "dev", "dl20": "test"}  # and what their questions are called in the data
MEASURES = ("nDCG@10", "R(rel=2)@100", "RR(rel=2)@10")
LOSSES: Mapping[str, dict[str, Any]] = {"kl": {}, "margin_mse": {"pairs": "all"}}  # of all pairs: no positive is known


@dataclass(frozen=True)
class Data:
    """The passages, the questions of each track, the grades of DL20, and the six systems' Runs of each track."""

    corpus: Corpus
    queries: Mapping[str, Sequence[Query]]
    grades: Qrels
    runs: Mapping[str, Mapping[str, Run]]


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    folder = data_folder("msmarco_dl")
    if folder is None:
        return
    with redirect_stdout(sys.stderr):  # stdout is the one line
        data = read_data(folder, arguments.out)
        audits = {system: audit(data, system) for system in SYSTEMS}
        names = [(teacher, loss) for teacher in arguments.teachers for loss in arguments.losses]
        students = {
            f"{teacher}/{loss}": trained(folder, data, teacher, loss, audits[teacher].advised or 1.0, arguments)
            for teacher, loss in names
        }
        found = measured(data, students)
    rivals = {f"{teacher}/{loss}": dict.fromkeys(("untouched", "bm25", teacher)) for teacher, loss in names}
    facts = {
        "audits": {system: verdict(one) for system, one in audits.items()},
        "kept steps": {name: steps["round-1/distil"].folder.manifest()["best_step"] for name, steps in students.items()},
        "seconds": {name: seconds(steps["round-1/distil"].path) for name, steps in students.items()},
        "systems": {name: row(one) for name, one in found.items()},
        "tests": compared(found, [(name, rival) for name, others in rivals.items() for rival in others]),
    }
    print_line("msmarco_dl", facts, argv=argv)


def read_data(folder: Path, out: Path) -> Data:
    """The data; its Runs are written to `out` as TREC runs, which a teacher's scores are read from."""
    corpus = Corpus.from_passages(read_corpus(str(folder / "corpus.jsonl")))
    queries = {track: read_queries(str(folder / "queries.jsonl"), split) for track, split in TRACKS.items()}
    runs: dict[str, dict[str, Run]] = {track: {} for track in TRACKS}
    for track in TRACKS:
        for system in SYSTEMS:
            lines = (folder / "runs" / f"{track}.{system}.tsv").read_text().splitlines()
            with write_atomic(scores_of(out, track, system)) as path:
                rows = ("{} Q0 {} {} {}".format(*line.split("\t")) for line in lines)
                path.write_text("".join(f"{row} {system}\n" for row in rows))
            runs[track][system] = read_scores(str(scores_of(out, track, system)), queries[track], corpus).run
    return Data(corpus, queries, read_qrels(str(folder / "qrels" / "test.tsv")), runs)


def scores_of(out: Path, track: str, system: str) -> Path:
    """Where a system's TREC run is written."""
    return out / "runs" / f"{track}.{system}.trec"


def divided(data: Data, out: Path, choosing: int) -> Path:
    """The file of all questions, written: of DL19 `choosing` are dev, drawn by a hash of their ids, and the others train."""
    dev = limited(data.queries["dl19"], choosing)
    asked = {
        "train": [query for query in data.queries["dl19"] if query not in dev],
        "dev": dev,
        "test": data.queries["dl20"],
    }
    rows = [{"_id": one.id, "text": one.text, "split": split} for split, queries in asked.items() for one in queries]
    with write_atomic(out / "queries.jsonl") as path:
        path.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    return out / "queries.jsonl"


def audit(data: Data, system: str) -> Audit:
    """The audit of a system's scores of DL19 beside those of the other five."""
    runs = data.runs["dl19"]
    others = [run for name, run in runs.items() if name != system]
    return audit_labels(runs[system], data.corpus, queries=data.queries["dl19"], others=others)


def verdict(found: Audit) -> dict[str, Any]:
    """What an audit says in short, with the temperature that it advises."""
    reasons = [f"{reason.gravity}: {reason.name}" for reason in found.reasons]
    return {"verdict": found.verdict, "reasons": reasons, "temperature": found.advised, "candidates": found.aim}


def trained(
    folder: Path, data: Data, teacher: str, loss: str, temperature: float, arguments: argparse.Namespace
) -> dict[str, Step]:
    """The steps of the student of one teacher and loss, evaluated; the teacher's scores are divided by the temperature.

    So they are for the margins too: as they stand, those of cosines are far below, and those of SPLADE above the student's.
    """
    own = arguments
    budget = training(own.steps, own.batch, own.candidates, own.learning_rate)
    frozen = {"distil": {"student": {"frozen_layers": own.frozen_layers}, "gradient_caching": False, "sample": "spread"}}
    protocol = {
        "seed": own.seed,
        "rounds": 1,
        "retrieve": {"first": ["student"]},
        "label": {"teachers": [{"kind": "run", "scores": str(scores_of(own.out, "dl19", teacher))}], "depth": 100},
        "distil": {"objectives": [{"name": loss, "teacher_temperature": temperature, **LOSSES[loss]}]},
        "evaluate": {"measures": list(MEASURES), "headline": MEASURES[0]},
    }
    changes = [*as_changes(frozen), *as_changes({"distil": budget}), *own.set, *as_changes(protocol)]
    config = config_on(folder, own.recipe, changes, queries=divided(data, own.out, own.choosing))
    return run_until("round-1/evaluate", config, own.out / teacher / loss, own.out)


def measured(data: Data, students: Mapping[str, dict[str, Step]]) -> dict[str, PerQuery]:
    """What each of the six systems, the untouched student and the others reach on each question of DL20."""
    found = {
        system: evaluate(run, data.corpus, queries=data.queries["dl20"], measures=MEASURES, qrels=data.grades)
        for system, run in data.runs["dl20"].items()
    }
    for steps in list(students.values())[:1]:
        found["untouched"] = result(steps, 0, "untouched")
    return found | {name: result(steps, 1, "round-1") for name, steps in students.items()}


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__, out=Path("runs/msmarco_dl"))
    parser.add_argument(
        "--teachers", nargs="*", choices=SYSTEMS, default=["repllama", "splade_pp_ed", "tas_b"],
        help="systems whose scores train a student (default repllama splade_pp_ed tas_b; none: audits only)",
    )  # fmt: skip
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES), help="a student each (default both)")
    parser.add_argument("--choosing", type=int, default=5, help="of DL19's questions, do not train (default 5, at least 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default 0)")
    parser.add_argument("--steps", type=int, default=200, help="of a training (default 200)")
    parser.add_argument("--batch", type=int, default=4, help="questions of its step (default 4)")
    parser.add_argument("--candidates", type=int, default=16, help="passages of its question (default 16)")
    parser.add_argument("--learning-rate", type=float, default=3e-5, help="its highest rate (default 3e-5)")
    parser.add_argument("--frozen-layers", type=int, default=3, help="lowest layers that are not trained (default 3)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
