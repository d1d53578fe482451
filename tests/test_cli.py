"""The command line: what each verb prints and where, its exit codes, and errors as one paragraph."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from transformers.utils import logging as transformers_logging

from retort import pipeline
from retort.cli import main
from retort.console import bars_on
from retort.store import MANIFEST, STARTED, read_json, write_json
from tiny_run import settings, times, write_config

VERBS = ("prepare", "retrieve", "read", "label", "distil", "encode", "index", "evaluate", "report")


@pytest.fixture(autouse=True)
def as_it_was():
    """`main` quiets transformers for the whole process."""
    yield
    transformers_logging.set_verbosity_warning()
    transformers_logging.enable_progress_bar()


@pytest.fixture
def retort(monkeypatch, tmp_path, capfd):
    """The command: its exit code, standard output and standard error, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("retort.cli.others_at_work", lambda: None)  # the tests themselves keep the cores busy

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["retort", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capfd.readouterr()

    return call


# --- help


def test_help_lists_every_verb(retort):
    code, out, _ = retort("--help")
    assert code == 0
    assert [verb for verb in ("run", "status", "search", *VERBS) if f" {verb} " not in out] == []


@pytest.mark.parametrize("verb", ["run", *VERBS])
def test_a_verb_explains_its_options(verb, retort):
    code, out, _ = retort(verb, "--help")
    assert code == 0
    assert [option for option in ("--out", "--set", "--dry-run", "--force", "--json") if option not in out] == []


# --- run


def test_run_prints_the_table_of_all_runs_and_the_path_of_the_report(retort, copied):
    code, out, err = retort("run", copied)
    assert code == 0
    assert [name for name in ("bm25", "untouched", "teacher-1", "round-1", "teacher-2", "round-2") if name not in out] == []
    assert out.count("(best)") == 1
    assert out.splitlines()[-1] == f"report: {copied / 'report' / 'index.html'}"
    assert err.splitlines()[0] == "prepare: done"


def test_run_with_json_prints_nothing_but_json(retort, copied):
    code, out, err = retort("run", copied, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["rows"] == read_json(copied / "report" / "report.json")["rows"]


@pytest.mark.parametrize("name", ["", "config.json"])
def test_the_folder_of_a_run_stands_for_its_config(name, retort, copied, tmp_path):
    before = times(copied)
    assert retort("run", copied / name)[0] == 0
    assert times(copied) == before
    assert not (tmp_path / "runs").exists()


def test_a_run_is_kept_under_the_name_of_its_config(retort, sources, tmp_path):
    assert retort("prepare", write_config(tmp_path / "small.yaml", sources))[0] == 0
    assert (tmp_path / "runs" / "small" / "prepare" / MANIFEST).exists()


def test_work_away_from_a_terminal_prints_one_line_a_step_and_one_for_each_warning(retort, copied, runs):
    arguments = ("--out", copied, "--round", "1", "--set", "distil.steps=1")
    code, out, err = retort("distil", runs.config, *arguments)
    assert (code, out.split()) == (0, ["step", "state", "round-1/distil", "done"])
    started, audited = err.splitlines()
    assert started == "round-1/distil: has changed, starts again"
    assert audited.startswith("round-1/distil: warning: the audit of teacher-1 says: train with care, because ")
    assert audited.endswith("give answers or other Runs for more queries (at least 30 that tell).")


def test_questions_that_were_left_out_are_told(retort, copied, runs):
    changes = ("--set", "label.require_answer=true", "--set", "distil.steps=1")
    _, _, err = retort("distil", runs.config, "--out", copied, "--round", "1", *changes)
    assert "round-1/distil: warning: 2 train questions were left out: 2 no candidate holds an answer" in err.splitlines()


def test_force_does_a_step_again(retort, copied):
    before = times(copied / "round-1" / "index")
    code, _, err = retort("index", copied, "--round", "1", "--force")
    assert (code, err) == (0, "round-1/index: starts again\n")
    assert times(copied / "round-1" / "index") != before


def test_a_dry_run_lists_the_steps_and_does_nothing(retort, copied):
    before = times(copied)
    code, out, err = retort("run", copied, "--dry-run", "--json", "--set", "report.examples=2")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert len(found) == 20
    assert {name for name, state in found.items() if state != "done"} == {"report"}
    assert times(copied) == before


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_alone_has_nothing_to_do_in_a_finished_run(verb, retort, copied):
    before = times(copied)
    code, out, _ = retort(verb, copied, "--json")
    assert code == 0
    found = json.loads(out)
    assert "rows" in found if verb == "report" else set(found.values()) == {"done"}
    assert times(copied) == before


# --- status


def test_status_of_a_finished_run_is_done_everywhere(retort, finished):
    code, out, _ = retort("status", finished, "--json")
    assert code == 0
    assert set(json.loads(out).values()) == {"done"}


def test_status_of_a_new_config_is_missing_everywhere(retort, runs):
    _, out, _ = retort("status", runs.config)
    assert {line.split()[1] for line in out.splitlines()[1:]} == {"missing"}


def test_status_counts_the_parts_of_a_step_under_way(retort, copied):
    folder = copied / "round-2" / "encode"
    (folder / MANIFEST).rename(folder / STARTED)
    (folder / "parts" / "part-00001.npy").unlink()
    _, out, _ = retort("status", copied, "--json")
    assert json.loads(out)["round-2/encode"] == "partial 2/3"


# --- search


def test_search_prints_the_passages_it_finds(retort, finished):
    code, out, _ = retort("search", finished, "what has the king of the north", "-k", "3")
    assert code == 0
    assert len(out.splitlines()) == 4


def test_search_with_json_gives_whole_passages(retort, finished):
    code, out, err = retort("search", finished, "what has the king of the north", "-k", "2", "--json")
    assert (code, err) == (0, "")
    assert [set(hit) for hit in json.loads(out)] == [{"id", "title", "text", "score"}] * 2


def test_search_prints_brackets_as_they_are(retort, finished, monkeypatch):
    hits = [{"id": "p", "title": "list[int]", "text": "[bold] of [/]", "score": 1.0}]
    monkeypatch.setattr(pipeline, "search_run", lambda folder, question, k: hits)
    assert "list[int]  [bold] of [/]" in retort("search", finished, "lists")[1]


# --- errors


def paragraph(err: str) -> bool:
    return "Traceback" not in err and "\n\n" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "no.yaml"], "error: no config at no.yaml: expected a YAML file"),
        (["status", "."], "error: no config at config.json: expected a YAML file"),
        (["run", "CONFIG", "--set", "distil.stepz=3"], "unknown key `distil.stepz`; did you mean 'steps'?"),
        (["run", "CONFIG", "--set", "steps"], "error: --set 'steps': expected section.key=value"),
        (
            ["read", "CONFIG", "--round", "7"],
            "error: round 7 has no read, expected one of the steps prepare, round-0/encode",
        ),
        (["prepare", "CONFIG", "--round", "1"], "error: round 1 has no prepare"),
        (["read", "CONFIG"], "error: round-1/read needs prepare, which is missing: run `retort prepare CONFIG` first"),
        (["search", "CONFIG", "x"], "holds no run, expected config.json and prepare/ there: give the folder"),
    ],
    ids=" ".join,
)
def test_what_the_user_can_mend_ends_with_code_2_and_one_paragraph(arguments, message, retort, runs):
    code, out, err = retort(*(runs.config if argument == "CONFIG" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert paragraph(err)


def test_brackets_in_an_error_are_printed_as_they_are(retort, sources, tmp_path):
    (tmp_path / "junk").write_text("\n".join(["x y z"] * 3))
    values = settings(sources)
    values["prepare"]["corpus"] = str(tmp_path / "junk")
    write_json(tmp_path / "config.yaml", values)
    code, _, err = retort("run", tmp_path / "config.yaml")
    assert code == 2
    assert "question<TAB>[answers] without a header (DPR)" in err


@pytest.mark.parametrize("error", [FloatingPointError("step 3: [nan]"), OSError(5, "the disk broke")], ids=repr)
def test_what_broke_ends_with_code_1_and_one_paragraph(error, retort, runs, monkeypatch):
    def breaking(*arguments, **named):
        raise error

    monkeypatch.setattr(pipeline, "run", breaking)
    code, out, err = retort("run", runs.config)
    assert (code, out, err) == (1, "", f"failed: {error}\n")


def test_a_verb_that_is_not_known_ends_with_code_2(retort):
    code, _, err = retort("distill", "x.yaml")
    assert code == 2
    assert "No such command 'distill'" in err


# --- progress


def shown(*, terminal: bool) -> str:
    file = io.StringIO()
    with bars_on(Console(file=file, force_terminal=terminal, width=120))("student steps", 4) as bar:
        bar(3, {"loss": 0.5})
    return file.getvalue()


def test_a_bar_on_a_terminal_shows_how_far_the_work_is_and_its_facts():
    text = shown(terminal=True)
    assert [part for part in ("student steps", "3/4", "loss 0.5") if part not in text] == []


def test_there_is_no_bar_away_from_a_terminal():
    assert shown(terminal=False) == ""
