"""What is wrong with the user's input is said before it costs anything: what was found, what was expected, what to do."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retort.config import parse
from retort.pipeline import run
from retort.records import Run
from retort.store import MANIFEST, locked
from tiny_run import config, question, settings, times, tree, write_lines

Change = Callable[[Path], None]


def edited(name: str, line: int, text: str) -> Change:
    """Another text in a line (from 1) of a source."""

    def change(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join([*lines[: line - 1], text, *lines[line:]]) + "\n")

    return change


def record(name: str, line: int, **values) -> Change:
    """Other values in a record of a source; None takes one out."""

    def change(folder: Path) -> None:
        old = json.loads((folder / name).read_text().splitlines()[line - 1])
        new = {key: value for key, value in {**old, **values}.items() if value is not None}
        edited(name, line, json.dumps(new))(folder)

    return change


def written(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


SOURCES: dict[str, tuple[Change, str]] = {
    "a malformed line": (
        edited("corpus.jsonl", 3, '{"id": "p2", '),
        r"corpus.jsonl:3: .*expected whole JSON: correct the line",
    ),
    "a question without its column": (
        record("train.jsonl", 2, question=None, qestion="who"),
        r"train.jsonl:2: no column 'question'.*did you mean 'qestion'\?\): rename it or fill it",
    ),
    "a passage without its column": (record("corpus.jsonl", 4, text=None), r"corpus.jsonl:4: no column 'text'.*rename it"),
    "an id twice": (record("corpus.jsonl", 5, id="p0"), r"corpus.jsonl:5: passage id 'p0' .*needs an id of its own"),
    "an empty corpus": (written("corpus.jsonl", ""), r"corpus.jsonl is empty, expected records: look at what wrote it"),
    "an empty passage": (record("corpus.jsonl", 2, text=" "), r"corpus.jsonl:2: empty text, expected a text: drop"),
    "a train question without answers": (
        record("train.jsonl", 3, answers=[]),
        r"train.jsonl:3: query 'q2' has no answers, expected at least one: add one or drop it",
    ),
    "a question in two splits": (
        edited("dev.jsonl", 1, json.dumps(question(0))),
        r"query 'q0' \('what has the king of the north'\) stands in train and in dev, expected different questions",
    ),
    "one dev question": (
        lambda folder: written("dev.jsonl", json.dumps(question(20)))(folder),
        r"found 1 dev question, expected 2 at least: .* give more",
    ),
    "a grade of an unknown passage": (
        edited("test.qrels", 1, "q26 0 p99 1"),
        r"test.qrels: passage id 'p99' is not in the corpus of 40 passages.*: give the corpus that the ids come from",
    ),
    "a test question without grades": (
        edited("test.qrels", 1, "q27 0 p0 1"),
        r"test query 'q26' has no grades in the qrels \(1 of 8 have none\), expected some for each: take such questions out",
    ),
}


def moved(sources: Path, folder: Path, **changes):
    """A config on a copy of the sources, the models where they were, and that copy."""
    copy = folder / "sources"
    copy.mkdir()
    for file in sources.glob("*.*"):
        shutil.copy(file, copy)
    values = settings(sources, **changes)
    values["prepare"] = {**settings(copy)["prepare"], **changes.get("prepare", {})}
    return values, copy


def refused(values, root: Path, message: str, kind: type[Exception] = ValueError) -> list[str]:
    """The steps that had begun when the run was refused with `message`."""
    begun = []
    with pytest.raises(kind, match=message):
        run(parse(values), root, started=lambda step, state: begun.append(step.name))
    return begun


@pytest.mark.parametrize("name", SOURCES)
def test_a_bad_source_is_refused_by_the_first_stage(name, sources, tmp_path):
    change, message = SOURCES[name]
    values, copy = moved(sources, tmp_path)
    change(copy)
    assert refused(values, tmp_path / "run", message) == ["prepare"]
    assert not (tmp_path / "run" / "prepare" / MANIFEST).exists()


def test_a_bad_source_that_is_mended_is_read(sources, tmp_path):
    values, copy = moved(sources, tmp_path)
    edited("corpus.jsonl", 3, "{")(copy)
    refused(values, tmp_path / "run", "corpus.jsonl:3")
    shutil.copy(sources / "corpus.jsonl", copy)
    run(parse(values), tmp_path / "run", only=["prepare"])
    assert (tmp_path / "run" / "prepare" / MANIFEST).exists()


def test_a_source_that_is_gone_costs_nothing_that_was_prepared(copied, sources):
    before = times(copied)
    values = settings(sources)
    values["prepare"]["corpus"] = str(sources / "corpus.json")
    message = r"corpus.json does not exist, expected a file or folder \(did you mean 'corpus.jsonl'\?\): correct the path"
    assert refused(values, copied, message, FileNotFoundError) == []
    assert times(copied) == before


def candidates(sources: Path, folder: Path, lines: list[str], **changes):
    """A config with these candidates, a TREC run, in place of a search."""
    path = folder / "candidates.txt"
    path.write_text("\n".join(lines) + "\n")
    values = settings(sources, retrieve={"first": ["file"]}, **changes)
    values["prepare"]["candidates"] = str(path)
    return values


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["q0 Q0 p0 1 2.0 x", "q0 Q0 p1 2 nan x"],
            r"candidates.txt:2: score is 'nan', expected a finite number: correct it",
        ),
        (
            ["q0 Q0 p0 1 inf x", "q0 Q0 p1 2 1.0 x"],
            r"candidates.txt:1: score is 'inf', expected a finite number: correct it",
        ),
        (["q0 Q0 p0 1 2.0 x", "q0 Q0 z1 2 1.0 x"], r"candidates.txt:2: passage id 'z1' is not in the corpus of 40 passages"),
        (["q0 Q0 p0 1 2.0 x", "q0 Q0 p0 2 1.0 x"], r"candidates.txt:2: query 'q0' lists passage 'p0' a second time, first"),
        (["z0 Q0 p0 1 2.0 x"], r"lists passages for none of the 34 queries: compare the query ids"),
        (
            [f"q{i} Q0 p{i} 1 2.0 x" for i in range(34)],
            r"none of the 20 train questions has two candidates within label.depth 6: .* nothing to rank",
        ),
    ],
    ids=["nan", "infinite", "unknown passage", "passage twice", "unknown queries", "one candidate"],
)
def test_bad_candidates_are_refused_by_the_first_stage(lines, message, sources, tmp_path):
    assert refused(candidates(sources, tmp_path, lines), tmp_path / "run", message) == ["prepare"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["q0 Q0 p0 1 2.0 x", "q0 Q0 p1 2 nan x"], "finite number"),
        (
            [f"q{i} Q0 p{j} 1 {9 - j % 7} x" for i in range(20) for j in (i, i + 1)],
            "scores two passages of none of the 6 dev",
        ),
        ([f"q{i} Q0 p{i} 1 2.0 x" for i in range(34)], "scores two passages of none of the 20 train questions"),
    ],
    ids=["nan", "no dev question", "one passage each"],
)
def test_bad_scores_of_a_late_round_are_refused_by_the_first_stage(lines, message, sources, tmp_path):
    (tmp_path / "scores.trec").write_text("\n".join(lines) + "\n")
    late = {"label": {"teachers": [{"kind": "run", "scores": str(tmp_path / "scores.trec")}]}}
    assert refused(settings(sources, overrides={2: late}), tmp_path / "run", message) == ["prepare"]


def test_candidates_of_train_alone_are_refused(sources, tmp_path):
    lines = [f"q{i} Q0 p{j} {k} {2 - k} x" for i in range(20) for k, j in enumerate((i, i + 1))]
    refused(candidates(sources, tmp_path, lines), tmp_path / "run", "none of the 6 dev questions has two candidates")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"distil": {"candidates": 2}, "retrieve": {"depth": 1}},
            r"retrieve.depth 1, .* one candidate leaves nothing to rank",
        ),
        ({"retrieve": {"first": ["file"]}}, r"retrieve.first holds 'file' but prepare.candidates is not set: name the file"),
        ({"prepare": {"candidates": "run.txt"}}, r"prepare.candidates is set but retrieve.first is \['bm25'\]: add 'file'"),
        (
            {"overrides": {2: {"evaluate": {"samples": 9}}}},
            r"overrides.2 changes \['evaluate'\], expected sections of a round",
        ),
        ({"overrides": {2: {"prepare": {"limit": {}}}}}, r"overrides.2 changes \['prepare'\], expected sections of a round"),
        ({"evaluate": {"measures": ["nDGC@10"]}}, r"measure 'nDGC@10' is not known: did you mean nDCG@10"),
        ({"evaluate": {"headline": "has_answers@5"}}, r"measure 'has_answers@5' is not known: did you mean has_answer@5"),
        (
            {"read": {"model": "./no/reader"}},
            r"model './no/reader': no config.json or modules.json there: give a model folder",
        ),
        ({"distil": {"student": {"model": "/no/student"}}}, r"model '/no/student': no config.json or modules.json there"),
        ({"read": {"model": "package:no_such/model"}}, r"package 'no_such' is not installed: pip install no-such"),
        ({"compute": {"device": "cuda"}}, r"compute.device is 'cuda' and torch sees no GPU: install a CUDA build"),
    ],
    ids=str,
)
def test_a_config_that_cannot_work_is_refused_before_the_first_stage(changes, message, sources, tmp_path):
    assert refused(settings(sources, **changes), tmp_path / "run", message) == []
    assert not (tmp_path / "run" / "prepare").exists()


def test_a_config_without_dev_questions_is_refused_before_the_first_stage(sources, tmp_path):
    values = settings(sources)
    del values["prepare"]["queries"]["dev"]
    values["prepare"]["qrels"] = {}
    assert (
        refused(values, tmp_path / "run", r"names \['test', 'train'\], expected train and dev: dev questions select") == []
    )


@pytest.mark.parametrize(
    "place", [{"read": {"model": "google-t5/t5-base"}}, {"distil": {"student": {"model": "a/student"}}}]
)
def test_a_model_of_the_hub_is_refused_before_the_first_stage_where_there_is_no_network(
    place, sources, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = r"model '.*/.*' cannot be loaded: .* Give a model folder, package:NAME/folder, or"
    assert refused(settings(sources, **place), tmp_path / "run", message) == []


def test_a_tracker_that_is_not_installed_is_refused_before_the_first_stage(sources, tmp_path, monkeypatch):
    monkeypatch.setattr("retort.compute.get_available_trackers", list)
    values = settings(sources, compute={"trackers": ["tensorboard"]})
    message = r"\['tensorboard'\], which is not here: pip install tensorboard"
    assert refused(values, tmp_path / "run", message, ImportError) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distil": {"stepz": 3}}, r"unknown key `distil.stepz`; did you mean 'steps'\?"),
        ({"distill": {}}, r"unknown key `distill`; did you mean 'distil'\?"),
        ({"distil": {"objectives": [{"name": "kll"}]}}, r"`distil.objectives.0.name` is 'kll'; .*; did you mean 'kl'\?"),
        ({"index": {"kind": "flatt"}}, r"`index.kind` is 'flatt'; .*; did you mean 'flat'\?"),
        ({"distil": {"steps": "many"}}, r"`distil.steps` is 'many'; input should be a valid integer"),
        ({"distil": {"steps": 0}}, r"`distil.steps` is 0; input should be greater than 0"),
        ({"overrides": {2: {"distil": {"stepz": 3}}}}, r"with the overrides of round 2: unknown key `distil.stepz`"),
    ],
    ids=str,
)
def test_a_setting_that_is_not_understood_is_refused_with_the_nearest_name(changes, message, sources):
    with pytest.raises(ValueError, match=message):
        config(sources, **changes)


def test_a_headline_that_is_not_measured_is_refused_with_those_that_are(sources, tmp_path):
    message = r"evaluate.headline is 'R@7', expected one that is measured on \['dev', 'test'\]: \['nDCG@10', 'R@5', "
    assert refused(settings(sources, evaluate={"headline": "R@7"}), tmp_path / "run", message) == ["prepare"]


def test_a_headline_that_is_not_measured_is_refused_before_work_on_a_prepared_run(copied, sources):
    before = times(copied)
    assert refused(settings(sources, evaluate={"headline": "R@7"}), copied, "evaluate.headline is 'R@7'") == []
    assert times(copied) == before


def test_a_full_disk_is_told_with_what_to_do_and_costs_nothing_that_was_done(copied, sources, monkeypatch, finished):
    for name in ("round-2/encode", "round-2/retrieve"):
        (copied / name / MANIFEST).unlink()
    (copied / "round-2/encode/parts/part-00001.npy").unlink()
    first = (copied / "round-2/encode/parts/part-00000.npy").stat().st_mtime_ns
    full = OSError(errno.ENOSPC, "No space left on device")

    def no_space(*arguments, **named):
        raise full

    for owner, name in ((np, "save"), (Run, "write")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, no_space)
            message = r"no space left to write .*round-2/.*: free some space and run the same command again"
            refused(settings(sources), copied, message, OSError)
    run(config(sources), copied)
    assert (copied / "round-2/encode/parts/part-00000.npy").stat().st_mtime_ns == first
    assert tree(copied) == tree(finished)


def test_a_run_that_another_process_works_in_is_refused(copied, sources):
    with locked(copied):
        refused(settings(sources), copied, "another process works in .*: wait for it, or stop it first", BlockingIOError)


def test_files_without_ids_are_numbered_for_each_split(sources, tmp_path):
    values, copy = moved(sources, tmp_path)
    values["prepare"]["qrels"] = {}
    for split in ("train", "dev", "test"):
        lines = [json.loads(line) for line in (copy / f"{split}.jsonl").read_text().splitlines()]
        write_lines(copy / f"{split}.jsonl", ({k: v for k, v in line.items() if k != "id"} for line in lines))
    run(parse(values), tmp_path / "run", only=["prepare"])
    manifest = json.loads((tmp_path / "run" / "prepare" / MANIFEST).read_text())
    assert [manifest[f"{split} questions"] for split in ("train", "dev", "test")] == [20, 6, 8]
