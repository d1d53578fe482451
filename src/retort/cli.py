"""The command line: one verb for each stage, and run, status, search. Parses, calls, prints; no logic."""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from transformers.utils import logging as transformers_logging

from retort import pipeline
from retort.auditing import audits
from retort.bill import COLUMNS, planned
from retort.budget import keep, kept, settled
from retort.checks import check_config
from retort.config import load
from retort.evaluation.audit import lines
from retort.importing import convert
from retort.job import Bar, Bars
from retort.plan import Step, plan
from retort.suite import evaluate_suite

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
BAD_INPUT, FAILED = 2, 1  # exit codes: the user can mend it; something broke
STATES = {"missing": "starts", "partial": "goes on", "stale": "has changed, starts again", "forced": "starts again"}

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file, or the folder of a run")]
Out = Annotated[Path | None, typer.Option("--out", help="the run's folder; default runs/<name of the config file>")]
Changes = Annotated[list[str], typer.Option("--set", help="a change: distil.steps=100; a mapping adds to the one there")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Force = Annotated[bool, typer.Option("--force", help="do finished work again")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check the config and list the steps; do nothing")]
Round = Annotated[int | None, typer.Option("--round", help="only this round; default all rounds that have the stage")]


@app.command()
def run(
    config: ConfigFile,
    out: Out = None,
    changes: Changes = [],  # noqa: B006 (typer copies it)
    dry_run: DryRun = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """All stages of all rounds; what is done is skipped, what was interrupted goes on."""
    _work(config, out, changes, None, dry_run, force, as_json)


def _stage_command(stage: str, text: str) -> None:
    def command(
        config: ConfigFile,
        out: Out = None,
        changes: Changes = [],  # noqa: B006 (typer copies it)
        round_number: Round = None,
        dry_run: DryRun = False,
        force: Force = False,
        as_json: AsJson = False,
    ) -> None:
        chosen = (stage, round_number)
        _work(config, out, changes, chosen, dry_run, force, as_json)

    app.command(name=stage, help=text)(command)


for _name, _text in {
    "prepare": "Read the corpus, the questions and the grades.",
    "retrieve": "Search with BM25 and the student.",
    "read": "Train the reader.",
    "label": "Score the candidates by the teachers.",
    "distil": "Train the student on the labels.",
    "encode": "Encode the corpus.",
    "index": "Build the indexes.",
    "evaluate": "Measure every Run.",
    "report": "Write the page that says whether it is better.",
}.items():
    _stage_command(_name, _text)


@app.command()
def status(config: ConfigFile, out: Out = None, changes: Changes = [], as_json: AsJson = False) -> None:  # noqa: B006
    """The state of every step: done, stale, partial (and how far), missing."""
    root = _root(config, out)
    steps = plan(settled(load(_file(config), changes), root, choose=False), root)
    _print_states(steps, list(steps), as_json)


@app.command(name="plan")
def bill_of(
    config: ConfigFile,
    out: Out = None,
    changes: Changes = [],  # noqa: B006 (typer copies it)
    hours: Annotated[float | None, typer.Option(help="as --set budget.hours: what would fit into so many hours")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="keep what the budget chooses, for the run")] = False,
    as_json: AsJson = False,
) -> None:
    """What a run will cost, step by step, by half a minute of trying the models; with a budget, what fits it."""
    tried = [f"budget.hours={hours}"] if hours is not None else []
    if tried and apply:
        raise ValueError("--hours is a question and --apply keeps the answer for the run: give budget.hours in the config")
    root = _root(config, out)
    found = planned(load(_file(config), [*changes, *tried]), root)
    if apply:
        keep(found, root)
    _print_table(COLUMNS, found.rows(), found.plain(), as_json)
    if not as_json:
        typer.echo("\n".join([*found.notes(), *kept(root)]))


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(help="the folder of a finished run")],
    question: Annotated[str, typer.Argument(help="what to search for")],
    k: Annotated[int, typer.Option("-k", help="how many passages", min=1)] = 5,
    as_json: AsJson = False,
) -> None:
    """The passages that the best student of a run finds for a question."""
    hits = pipeline.search_run(folder, question, k)
    rows = [[f"{hit['score']:.3f}", hit["title"], hit["text"][:160]] for hit in hits]
    _print_table(("score", "title", "text"), rows, hits, as_json)


@app.command(name="convert")
def converted(
    source: Annotated[Path, typer.Argument(help="a checkpoint of FiD or Atlas: its folder, or its file of weights")],
    out: Annotated[Path, typer.Argument(help="a new folder")],
    reader_tokenizer: Annotated[str | None, typer.Option(help="a folder or hub id; no checkpoint holds one")] = None,
    retriever_tokenizer: Annotated[str | None, typer.Option(help="the same for its retriever")] = None,
    keep_bias: Annotated[bool, typer.Option("--keep-bias", help="keep a FiD reader exactly as it was")] = False,
    as_json: AsJson = False,
) -> None:
    """A checkpoint of FiD or Atlas as folders that load today; no code in it is run."""
    found = convert(
        source, out, reader_tokenizer=reader_tokenizer, retriever_tokenizer=retriever_tokenizer, with_bias=keep_bias
    )
    typer.echo(json.dumps(found.plain()) if as_json else "\n".join(found.lines()))


@app.command()
def audit(
    labels: Annotated[Path, typer.Argument(help="the folder of a run, or a file of teacher scores")],
    corpus: Annotated[str | None, typer.Option(help="of a file: the corpus that it scores")] = None,
    queries: Annotated[str | None, typer.Option(help="of a file: its questions, with answers where there are any")] = None,
    other: Annotated[list[str], typer.Option(help="of a file: another file of scores, such as BM25's")] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Whether a teacher's labels are worth training on, and why; without any relevance grade."""
    for found in audits(labels, corpus, queries, other):
        if as_json:
            typer.echo(json.dumps(found.plain()))
        else:
            typer.echo("\n".join(lines(found)))


@app.command()
def suite(
    folder: Annotated[Path, typer.Argument(help="the folder of a finished run")],
    collections: Annotated[list[Path], typer.Argument(help="folders in BEIR's layout")],
    measure: Annotated[str, typer.Option(help="what is measured, as ir-measures names it")] = "nDCG@10",
    as_json: AsJson = False,
) -> None:
    """BM25, the untouched student and the best round on several test collections, in one table with the average."""
    table = evaluate_suite(folder, collections, measure)
    typer.echo(json.dumps(asdict(table), indent=2) if as_json else str(table))


def main() -> None:
    """The entry point: errors of the user's input in one paragraph without a traceback, exit code 2."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.showwarning = lambda message, *rest, **named: _say("warning", message)
    try:
        app()
    except (ValueError, FileNotFoundError, BlockingIOError, ImportError) as error:
        _say("error", error)
        sys.exit(BAD_INPUT)
    except (OSError, FloatingPointError) as error:
        _say("failed", error)
        sys.exit(FAILED)


def _work(
    config: Path, out: Path | None, changes: list[str], chosen: tuple[str, int | None] | None, dry_run: bool, force: bool,
    as_json: bool,
) -> None:  # fmt: skip
    given, root = load(_file(config), changes), _root(config, out)
    settings = settled(given, root, choose=not dry_run)
    steps = plan(settings, root)
    only = [name for name, step in steps.items() if _wanted(step, chosen)] if chosen else None
    if chosen and not only:
        raise ValueError(
            f"round {chosen[1]} has no {chosen[0]}, expected one of the steps {', '.join(steps)}: correct --round"
        )
    check_config(settings)
    if dry_run:
        _print_states(steps, only or list(steps), as_json)
        return
    main = int(os.environ.get("LOCAL_RANK", "0")) == 0  # under torchrun one process speaks
    console = Console(stderr=True, quiet=as_json or not main, markup=False, highlight=False, soft_wrap=True)
    if given.budget is not None:
        console.print(f"budget: label.depth {settings.label.depth}, precision {settings.compute.precision}")
    pipeline.run(
        settings, root, bars=bars_on(console), only=only, force=force,
        started=lambda step, state: console.print(f"{step.name}: {STATES.get(state, state)}"),
        finished=lambda step, facts: console.print("".join(f"{line}\n" for line in _notices(step, facts)), end=""),
        say=console.print,
    )  # fmt: skip
    if main and "report" in (only or steps):
        _print_results(root, as_json)
    elif main:
        _print_states(steps, only or list(steps), as_json)


def _wanted(step: Step, chosen: tuple[str, int | None]) -> bool:
    return step.stage == chosen[0] and chosen[1] in (None, step.round)


def _notices(step: Step, facts: Mapping[str, Any]) -> Iterator[str]:
    """A line for each thing that a user should know of a finished step."""
    for what, of in (("train questions", "dropped"), ("candidates", "removed"), ("scores", "set aside")):
        if counts := facts.get(of):
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
            yield f"{step.name}: warning: {sum(counts.values())} {what} were left out: {reasons}"
    shown = ((name, value) for name, value in facts.items() if name.startswith(("recall@", "overlap@")))
    yield from (f"{step.name}: {name}: {value:.3f}" for name, value in shown)


def _print_states(steps: Mapping[str, Step], names: list[str], as_json: bool) -> None:
    rows = {name: _state(steps[name]) for name in names}
    _print_table(("step", "state"), [[name, state] for name, state in rows.items()], rows, as_json)


def _state(step: Step) -> str:
    state, parts = step.folder.state(), step.folder.parts_done()
    return f"{state} {parts[0]}/{parts[1]}" if state == "partial" and parts else state


def _file(config: Path) -> Path:
    """The config in the folder of a run, or the file itself."""
    return config / "config.json" if config.is_dir() else config


def _root(config: Path, out: Path | None) -> Path:
    """Where the run is: said, the folder that the config lies in, or a new one by its name."""
    kept = config if config.is_dir() else config.parent if config.name == "config.json" else None
    return out or kept or Path("runs") / config.stem


def _say(kind: str, error: Exception | str) -> None:
    """An error or a warning on standard error, brackets and all."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]{kind}:[/]", escape(str(error)))


def _print_results(root: Path, as_json: bool) -> None:
    """The table of all Runs, and where the report is."""
    report = json.loads((root / "report" / "report.json").read_text())
    measures = list(dict.fromkeys(name for row in report["rows"] for name in row["means"]))
    rows = [
        [row["name"] + (" (best)" if row["best"] else ""), *(_share(row["means"].get(name)) for name in measures)]
        for row in report["rows"]
    ]
    page = root / "report" / "index.html"
    _print_table(("run", *measures), rows, {"rows": report["rows"], "report": str(page)}, as_json)
    if not as_json:
        typer.echo(f"report: {page}")


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _print_table(columns: tuple[str, ...], rows: list[list[str]], value: object, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(value, indent=2))
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 160, markup=False).print(table)


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
