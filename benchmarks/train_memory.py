"""What a long list of candidates costs a step: K = 100 with gradient caching against K = 8 with all activations kept.

The step is that of train_step.py. Memory is what the training adds to a process that has loaded the model, at its peak; time
is a step's seconds for each distinct passage. Each training runs in a fresh process, by turns; prints one line of JSON.

    python benchmarks/train_memory.py [--queries 16] [--repeats 5]
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from statistics import median

from rows import print_line
from speed import Target, Times, alone, in_turn, real_texts, seconds_of
from train_step import real_case, retort, training_options


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    given = {"steps": arguments.steps + 1, "chunk_tokens": arguments.chunk_tokens}
    cases = {
        kind: real_case(arguments.queries, count, arguments.model, arguments.tokens)
        for kind, count in (("long", arguments.long), ("short", arguments.short))
    }
    works = {kind: partial(retort, case, caching=kind == "long", **given) for kind, case in cases.items()}
    spent = in_turn({kind: partial(alone, work) for kind, work in works.items()}, arguments.repeats)
    passages = {kind: len(case.distinct) for kind, case in cases.items()}
    times = {kind: Times(tuple(one.value.seconds / passages[kind] for one in rounds)) for kind, rounds in spent.items()}
    memory = {kind: median(one.megabytes for one in rounds) for kind, rounds in spent.items()}
    what, against = f"list-wise KD, K={arguments.long}, cached", f"K={arguments.short}, uncached"
    ratio = {"time of a passage": times["long"].median / times["short"].median, "memory": memory["long"] / memory["short"]}
    facts = {
        "queries": arguments.queries,
        "candidates": {"long": arguments.long, "short": arguments.short},
        "texts": real_texts().name,
        "distinct passages": passages,
        **seconds_of(times),
        "peak megabytes": {kind: round(value) for kind, value in memory.items()},
        "ratio": {name: round(value, 3) for name, value in ratio.items()},
        "targets": [
            Target(what, against, at_most=1.0, unit="x the memory").found(ratio["memory"]),
            Target(what, against, at_most=1.45, unit="x the time of a passage").found(ratio["time of a passage"]),
        ],
    }
    print_line("train_memory", facts, argv=argv)


def _options() -> argparse.ArgumentParser:
    parser = training_options(__doc__)
    parser.add_argument("--long", type=int, default=100, help="candidates with gradient caching (default 100)")
    parser.add_argument("--short", type=int, default=8, help="candidates without (default 8)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
