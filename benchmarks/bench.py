"""The short version of every benchmark of speed, in less than 20 minutes, and one table of targets and verdicts.

Each runs in a process of its own, as its command says, and may append its line of JSON to a file. Needs no data: texts come
from RETORT_DATA where that is set, else from docstrings. A short version says whether a target is near; the numbers of
RESULTS.md are those of the whole ones.

    python benchmarks/bench.py [--only NAME ...] [--lines FILE]
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rows import parser_of
from speed import VERDICTS, lines_of, verdicts
from table import markdown

HERE = Path(__file__).parent
SHORT: dict[str, tuple[str, ...]] = {  # each script with the options of its short version
    "label_pass": ("--size", "small", "--passages", "50"),
    "train_step": ("--queries", "4", "--candidates", "8", "--repeats", "3"),
    "train_memory": ("--queries", "1", "--chunk-tokens", "4096", "--repeats", "3"),
    "cross_encoder": ("--pairs", "128"),
    "encode_speed": ("--passages", "128", "--repeats", "3"),
    "search_speed": ("--scale", "0.2"),
    "bm25_speed": ("--passages", "4000", "--queries", "200"),
    "label_files": (),
    "corpus_growth": ("--passages", "2000", "20000"),
}


def main(argv: Sequence[str]) -> int:
    """0 where every benchmark came to its line, whatever its verdict; else 1."""
    arguments = _options().parse_args(argv)
    lines, failed = [], []
    for name in arguments.only or SHORT:
        started = time.perf_counter()
        found = subprocess.run([sys.executable, HERE / f"{name}.py", *SHORT[name]], stdout=subprocess.PIPE, text=True)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        new = lines_of(found.stdout)
        lines += new
        if found.returncode:
            failed.append(name)
        if arguments.lines:
            with arguments.lines.open("a") as file:
                file.write("".join(f"{json.dumps(line)}\n" for line in new))
    print(markdown(VERDICTS, [cells for line in lines for cells in verdicts(line)]), end="")
    if failed:
        print(f"failed: {', '.join(failed)}; run each alone to see why", file=sys.stderr)
    return int(bool(failed))


def _options() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="*", choices=SHORT, help="benchmarks to run (default: all)")
    parser.add_argument("--lines", type=Path, help="a file that their lines of JSON are appended to")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
