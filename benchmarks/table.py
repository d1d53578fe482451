"""Lines of JSON that the benchmarks printed, as the rows of the tables in RESULTS.md.

python benchmarks/table.py [results.jsonl ...]     (default: results.jsonl beside this file; - reads stdin)
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rows import MEASURES, parser_of
from speed import VERDICTS, verdicts

RECORDED = Path(__file__).with_name("results.jsonl")
QUALITY = ("system", *MEASURES, "trained for", "commit", "date", "machine", "command")
STUDIES = ("refinement", "msmarco_dl", "signal_students")  # each has measures of its own, and tests
TESTS = ("system", "against", "measure", "difference", "p", "p of Holm", "won, equal, lost", "commit", "command")
SPEED = (*VERDICTS, "commit", "date", "machine", "command")
TRAINING = ("read", "label", "distil", "train")  # the stages whose seconds a system's training is


def main(argv: Sequence[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("files", nargs="*", default=[str(RECORDED)])
    files = parser.parse_args(argv).files
    missing = [name for name in files if name != "-" and not Path(name).is_file()]
    if missing:
        print(f"skipped: {missing[0]} is not there; append what the benchmarks print to it", file=sys.stderr)
        return
    texts = [sys.stdin.read() if name == "-" else Path(name).read_text() for name in files]
    print(tables([json.loads(line) for text in texts for line in text.splitlines() if line.strip()]), end="")


def tables(lines: Sequence[Mapping[str, Any]]) -> str:
    """The markdown of all tables: what the loop found, what each study found and its tests, and speed; none without rows.

    Shares are in points with their 95% interval. A round's training is that of all rounds up to it.
    """
    found = [(QUALITY, [row for line in lines if "runs" in line for row in quality_rows(line)])]
    for study in STUDIES:
        parts = [part for line in lines if line["benchmark"] == study for part in parts_of(line)]
        measures = list(next(iter(parts[0]["systems"].values()))) if parts else []
        columns = ("system", *measures, "commit", "date", "machine", "command")
        found.append((columns, [row for part in parts for row in system_rows(part, measures)]))
        found.append((TESTS, [row for part in parts for row in comparison_rows(part)]))
    found.append((SPEED, [[*cells, *_origin(line)] for line in lines for cells in verdicts(line)]))
    return "\n".join(markdown(columns, rows) for columns, rows in found if rows)


def quality_rows(line: Mapping[str, Any]) -> Iterator[list[str]]:
    """The cells of each Run of a line."""
    for name, measures in line["runs"].items():
        cells = [_interval(measures[measure]) for measure in MEASURES]
        yield [name, *cells, trained_for(name, line["seconds"]), *_origin(line)]


def parts_of(line: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What a study found on all questions, and on its hard ones, whose systems say so."""
    yield {**line, "suffix": ""}
    hard = line.get("hard", {})
    if "systems" in hard:
        yield {**line, **hard, "suffix": f", {hard['questions']} hard questions"}


def system_rows(part: Mapping[str, Any], measures: Sequence[str]) -> Iterator[list[str]]:
    """The cells of each system of a study."""
    for name, values in part["systems"].items():
        yield [name + part["suffix"], *(_interval(values[measure]) for measure in measures), *_origin(part)]


def comparison_rows(part: Mapping[str, Any]) -> Iterator[list[str]]:
    """The cells of each paired randomisation test of a study."""
    for one in part["tests"]:
        difference = _interval([one["difference"], one["low"], one["high"]])
        counts = f"{one['wins']}, {one['ties']}, {one['losses']}"
        chances = [f"{one[name]:.4f}" for name in ("p", "adjusted_p")]
        first = [one["system"] + part["suffix"], one["baseline"], one["measure"]]
        yield [*first, difference, *chances, counts, part["commit"], f"`{part['command']}`"]


def trained_for(name: str, seconds: Mapping[str, float]) -> str:
    """The minutes of training behind a Run; empty where there was none.

    >>> trained_for("round-1", {"round-1/read": 60, "round-1/evaluate": 9, "round-1/distil": 120, "round-2/read": 999})
    '3.0 min'
    """
    kind, _, number = name.partition("-")
    spent = 0.0
    for stage, value in seconds.items():
        place, _, verb = stage.rpartition("/")
        at = int(place.removeprefix("round-") or 0)
        is_own = number and at <= int(number) and not (kind == "teacher" and at == int(number) and verb == "distil")
        spent += value if verb in TRAINING and (is_own or (name == "gold" and not place)) else 0.0
    return f"{spent / 60:.1f} min" if spent else ""


def _interval(values: Sequence[float]) -> str:
    """A mean and the ends of its interval, in points."""
    return "{:.1f} ({:.1f} to {:.1f})".format(*(100 * value for value in values))


def _origin(line: Mapping[str, Any]) -> list[str]:
    """What every row must name: commit, date, machine, command."""
    facts = line["machine"]
    threads = f"{facts['threads']} thread" + "s" * (facts["threads"] > 1)
    machine = ", ".join(filter(None, (facts["gpu"], facts["cpu"], threads, facts["capability"])))
    return [line["commit"], line["date"], machine, f"`{line['command']}`"]


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """One markdown table; a | within a cell is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
