"""Which of a reader's signals ranks passages best: every one labels the same candidates of a run's dev or test questions.

Reads a finished run: its reader, its candidates, its grades, which are looked at for evaluation only; nothing is trained.
Prints one line of JSON: for each signal the measures of its labels as a Run, with intervals, and seconds a question; beside
them BM25, the answer-string rule, and pairs fused by z-scores.

    python benchmarks/signals.py RUN [--split dev] [--depth 6] [--questions 300] [--reader FOLDER]
"""

import sys
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from accelerate import Accelerator
from rows import measured, parser_of, print_line, row

from retort.candidates import as_ranked
from retort.config import AttentionSettings, Config, load
from retort.prepared import Prepared
from retort.records import Group, Query, Run
from retort.teachers.answers import AnswersTeacher
from retort.teachers.fid.loading import load_reader
from retort.teachers.fid.model import Reader
from retort.teachers.fid.signals import ReaderSignal
from retort.teachers.fid.teacher import FidTeacher
from retort.teachers.fused import fuse

TIMED = 40  # questions that a signal's own time is taken of
ANSWER = AttentionSettings(position="all")
UNASKED = AttentionSettings(exclude=["question"])
BOTH = AttentionSettings(position="all", exclude=["question"])
SIGNALS = {
    "fid_kd": ReaderSignal("fid_kd"),
    "fid_kd, question masked": ReaderSignal("fid_kd", UNASKED),
    "fid_kd, all positions": ReaderSignal("fid_kd", ANSWER),
    "fid_kd, all positions, question masked": ReaderSignal("fid_kd", BOTH),
    "adist": ReaderSignal("adist"),
    "adist, question masked": ReaderSignal("adist", UNASKED),
    "copy": ReaderSignal("copy"),
    "copy, question masked": ReaderSignal("copy", UNASKED),
    "copy, all positions": ReaderSignal("copy", ANSWER),
    "copy, all positions, question masked": ReaderSignal("copy", BOTH),
    "pdist (and emdr2, which ranks alike)": ReaderSignal("pdist"),
    "loop": ReaderSignal("loop"),
}
FUSED = ("copy", "adist", "copy, all positions", "pdist (and emdr2, which ranks alike)", "loop")


def main(argv: Sequence[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--questions", type=int, default=None)
    parser.add_argument("--reader", type=Path, default=None, help="default: the run's reader of round 1")
    chosen = parser.parse_args(argv)
    prepared, config = Prepared(chosen.run / "prepare"), load(chosen.run / "config.json")
    reader = load_reader(chosen.reader or chosen.run / "round-1" / "read" / "model")
    shown = candidates_of(chosen.run, prepared.splits[chosen.split], chosen.questions, chosen.depth)
    queries = [query for query in prepared.splits[chosen.split] if query.id in shown]
    groups = prepared.groups(shown, queries, chosen.depth)
    runs = rules(chosen.run, shown, groups) | signal_runs(reader, config, shown, groups)
    pairs = {f"{one} + {two}": (runs[one], runs[two]) for one, two in combinations((*FUSED, "bm25", "answers"), 2)}
    runs |= {name: fuse(pair, name=name) for name, pair in pairs.items()}
    qrels = prepared.qrels(chosen.split)
    if qrels is None:
        raise ValueError(f"the {chosen.split} questions of {chosen.run} have no grades: give a split that has")
    facts = {
        "questions": len(queries), "depth": chosen.depth,
        "seconds_a_question": {name: round(_time(reader, config, groups, signal), 3) for name, signal in SIGNALS.items()},
        "runs": {name: row(measured(run, prepared.corpus, queries, qrels)) for name, run in runs.items()},
    }  # fmt: skip
    print_line("signals", facts, argv=argv)


def candidates_of(run: Path, queries: Sequence[Query], count: int | None, depth: int) -> Run:
    """The first `depth` candidates that a finished run has of the first `count` questions with answers, two at least."""
    answered = [query.id for query in queries if query.answers][:count]
    found = Run.read(run / "round-0" / "retrieve" / "candidates.parquet").select(answered).top(depth)
    return found.select([query for query, rows, _ in found if len(rows) > 1])


def rules(run: Path, shown: Run, groups: Sequence[Group]) -> dict[str, Run]:
    """What needs no reader: BM25's order of the candidates, and whether a passage holds an answer."""
    bm25 = as_ranked(Run.read(run / "round-0" / "retrieve" / "bm25.parquet"), shown, "bm25")
    return {"bm25": bm25, "answers": _run("answers", shown, AnswersTeacher().score(groups))}


def signal_runs(reader: Reader, config: Config, shown: Run, groups: Sequence[Group]) -> dict[str, Run]:
    """The candidates as every signal scores them, all signals in one pass."""
    found = _scores(reader, config, groups)
    return {name: _run(name, shown, scores) for name, scores in zip(SIGNALS, found, strict=True)}


def _run(name: str, shown: Run, scores: Sequence) -> Run:
    return Run.build(name, shown.query_ids, [shown.of(query)[0] for query in shown.query_ids], scores)


def _teacher(reader: Reader, config: Config, signals: Sequence[ReaderSignal]) -> FidTeacher:
    return FidTeacher(
        reader, config.read.prompts, batch=config.label.batch, accelerator=Accelerator(cpu=True), signals=signals
    )


def _scores(reader: Reader, config: Config, groups: Sequence[Group]) -> list[list]:
    """Of all signals, in passes of 128 questions, with a word of how far it is."""
    teacher, found = _teacher(reader, config, list(SIGNALS.values())), [[] for _ in SIGNALS]
    for start in range(0, len(groups), 128):
        for whole, part in zip(found, teacher.signals(groups[start : start + 128]), strict=True):
            whole += part
        print(f"{min(start + 128, len(groups))} of {len(groups)} questions", file=sys.stderr, flush=True)
    return found


def _time(reader: Reader, config: Config, groups: Sequence[Group], signal: ReaderSignal) -> float:
    teacher, few = _teacher(reader, config, [signal]), groups[:TIMED]
    started = time.perf_counter()
    teacher.score(few)
    return (time.perf_counter() - started) / len(few)


if __name__ == "__main__":
    main(sys.argv[1:])
