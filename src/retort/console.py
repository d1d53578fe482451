"""What the command line shows: tables, states of steps, what a user should know of them, warnings, progress bars."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from retort.job import Bar, Bars
from retort.plan import Step


def notices(step: Step, facts: Mapping[str, Any]) -> Iterator[str]:
    """A line for each thing that a user should know of a finished step."""
    for what, of in (("train questions", "dropped"), ("candidates", "removed"), ("scores", "set aside")):
        if counts := facts.get(of):
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
            yield f"{step.name}: warning: {sum(counts.values())} {what} were left out: {reasons}"
    shown = ((name, value) for name, value in facts.items() if name.startswith(("recall@", "overlap@")))
    yield from (f"{step.name}: {name}: {value:.3f}" for name, value in shown)


def print_states(steps: Mapping[str, Step], names: list[str], as_json: bool) -> None:
    """The state of each of the named steps."""
    rows = {name: _state(steps[name]) for name in names}
    print_table(("step", "state"), [[name, state] for name, state in rows.items()], rows, as_json)


def print_results(root: Path, as_json: bool) -> None:
    """The table of all Runs, and where the report is."""
    report = json.loads((root / "report" / "report.json").read_text())
    measures = list(dict.fromkeys(name for row in report["rows"] for name in row["means"]))
    rows = [
        [row["name"] + (" (best)" if row["best"] else ""), *(_share(row["means"].get(name)) for name in measures)]
        for row in report["rows"]
    ]
    page = root / "report" / "index.html"
    print_table(("run", *measures), rows, {"rows": report["rows"], "report": str(page)}, as_json)
    if not as_json:
        typer.echo(f"report: {page}")


def print_table(columns: tuple[str, ...], rows: list[list[str]], value: object, as_json: bool) -> None:
    """The rows as a table, or the value as JSON."""
    if as_json:
        typer.echo(json.dumps(value, indent=2))
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 160, markup=False).print(table)


def say(kind: str, error: Exception | str) -> None:
    """An error or a warning on standard error, brackets and all."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]{kind}:[/]", escape(str(error)))


def bars_on(console: Console) -> Bars:
    """Progress bars with rate and time left on a terminal; nothing elsewhere."""

    @contextmanager
    def bars(name: str, total: int | None) -> Iterator[Bar]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn(), TextColumn("{task.fields[rate]} {task.fields[facts]}"))  # fmt: skip
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task(name, total=total, facts="", rate="")

            def advance(count: int = 1, facts: Mapping[str, float] | None = None) -> None:
                shown = " ".join(f"{key} {value:.3g}" for key, value in (facts or {}).items())
                speed = progress.tasks[task].speed
                progress.update(task, advance=count, facts=shown, rate=f"{speed:.1f}/s" if speed else "")

            yield advance

    return bars


def _state(step: Step) -> str:
    state, parts = step.folder.state(), step.folder.parts_done()
    return f"{state} {parts[0]}/{parts[1]}" if state == "partial" and parts else state


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
