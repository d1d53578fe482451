"""The command line: one verb for each stage, and run, status, search. Parses, calls, prints; no logic."""

import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from transformers.utils import logging as transformers_logging

from retort import pipeline
from retort.auditing import audits
from retort.bill import COLUMNS, planned
from retort.budget import keep, kept, settled
from retort.checks import check_config, check_start
from retort.config import load
from retort.console import bars_on, notices, print_results, print_states, print_table, say
from retort.cores import others_at_work
from retort.evaluation.audit import lines
from retort.importing import convert
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
    print_states(steps, list(steps), as_json)


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
    print_table(COLUMNS, found.rows(), found.plain(), as_json)
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
    print_table(("score", "title", "text"), rows, hits, as_json)


@app.command(name="convert")
def converted(
    source: Annotated[Path, typer.Argument(help="a checkpoint of FiD or Atlas: its folder, or its file of weights")],
    out: Annotated[Path, typer.Argument(help="a new folder")],
    reader: Annotated[str | None, typer.Option("--reader-tokenizer", help="folder or hub id; checkpoints hold none")] = None,
    retriever: Annotated[str | None, typer.Option("--retriever-tokenizer", help="the same for its retriever")] = None,
    keep_bias: Annotated[bool, typer.Option("--keep-bias", help="keep a FiD reader exactly as it was")] = False,
    as_json: AsJson = False,
) -> None:
    """A checkpoint of FiD or Atlas as folders that load today; no code in it is run."""
    found = convert(source, out, reader_tokenizer=reader, retriever_tokenizer=retriever, with_bias=keep_bias)
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
    if _is_main():
        warnings.showwarning = lambda message, *rest, **named: say("warning", message)
    else:
        warnings.simplefilter("ignore")
    try:
        app()
    except (ValueError, FileNotFoundError, BlockingIOError, ImportError) as error:
        say("error", error)
        sys.exit(BAD_INPUT)
    except (OSError, FloatingPointError) as error:
        say("failed", error)
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
        try:
            check_start(steps, only or list(steps), force=force)
        except (ValueError, OSError, ImportError) as error:  # what a recipe names may be elsewhere
            say("warning: it could not start here", error)
        print_states(steps, only or list(steps), as_json)
        return
    main = _is_main()
    console = Console(stderr=True, quiet=as_json or not main, markup=False, highlight=False, soft_wrap=True)
    if busy := others_at_work():
        console.print(f"warning: {busy}")
    if given.budget is not None:
        console.print(f"budget: label.depth {settings.label.depth}, precision {settings.compute.precision}")
    pipeline.run(
        settings, root, bars=bars_on(console), only=only, force=force,
        started=lambda step, state: console.print(f"{step.name}: {STATES.get(state, state)}"),
        finished=lambda step, facts: console.print("".join(f"{line}\n" for line in notices(step, facts)), end=""),
        say=console.print,
    )  # fmt: skip
    if main and "report" in (only or steps):
        print_results(root, as_json)
    elif main:
        print_states(steps, only or list(steps), as_json)


def _is_main() -> bool:
    """Whether this process is the one that speaks, of those that torchrun started."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def _wanted(step: Step, chosen: tuple[str, int | None]) -> bool:
    return step.stage == chosen[0] and chosen[1] in (None, step.round)


def _file(config: Path) -> Path:
    """The config in the folder of a run, or the file itself."""
    return config / "config.json" if config.is_dir() else config


def _root(config: Path, out: Path | None) -> Path:
    """Where the run is: said, the folder that the config lies in, or a new one by its name."""
    kept = config if config.is_dir() else config.parent if config.name == "config.json" else None
    return out or kept or Path("runs") / config.stem
