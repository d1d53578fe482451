"""The label-free loop on FairytaleQA: how far a reader's attention carries MiniLM, without one passage label.

Trains on the train questions and their answers; the grades of dev and test are for evaluation only, and qrels/train.tsv is
never opened. Prints one line of JSON: seconds of each stage, and the measures of every Run on the test questions: BM25, the
untouched student, and for each round the teacher's labels and the student. The same command goes on after an interruption.

    RETORT_DATA=data python benchmarks/fairytaleqa.py [--out runs/fairytaleqa] [--set distil.steps=100]
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from rows import config_on, data_folder, measured, options, print_line, row

from retort import pipeline
from retort.evidence import round_runs
from retort.plan import Step
from retort.prepared import Prepared
from retort.store import COST, read_json


def main(argv: Sequence[str]) -> None:
    arguments = options(__doc__, out=Path("runs/fairytaleqa")).parse_args(argv)
    folder = data_folder("fairytaleqa")
    if folder is None:
        return
    config = config_on(folder, arguments.recipe, arguments.set)
    with redirect_stdout(sys.stderr):  # stdout is the one line
        steps = pipeline.run(config, arguments.out, started=_tell)
    print_line("fairytaleqa", {"seconds": seconds(steps), "runs": run_rows(steps)}, argv=argv)


def seconds(steps: Mapping[str, Step]) -> dict[str, float]:
    """What each stage took; of an attempt that was killed, rather than stopped by an error or Ctrl-C, nothing is known."""
    return {name: round(read_json(step.path / COST)["seconds"], 1) for name, step in steps.items()}


def run_rows(steps: Mapping[str, Step]) -> dict[str, dict[str, list[float]]]:
    """The measures of every Run of every round on the test questions."""
    prepared = Prepared(steps["prepare"].path)
    qrels = prepared.qrels("test")
    if qrels is None:
        raise ValueError("the test questions have no grades: expected qrels/test.tsv beside them")
    runs = [run for step in steps.values() if step.stage == "evaluate" for run in round_runs(steps, step)]
    return {run.name: row(measured(run, prepared.corpus, prepared.splits["test"], qrels)) for run in runs}


def _tell(step: Step, state: str) -> None:
    print(f"{step.name}: {state}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
