"""The whole run in small: what it leaves, that it is done once, what makes a step stale, how two rounds hang together."""

import fcntl
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from retort.config import load, parse
from retort.evaluation.metrics import PerQuery
from retort.gathering import student_name
from retort.indexes.union import union
from retort.indexes.vectors import VectorParts
from retort.pipeline import run, search_run
from retort.plan import plan
from retort.prepared import Prepared
from retort.records import Run
from retort.store import MANIFEST, read_json, remove
from tiny_run import SPLITS, UNANSWERED, config, searched, settings, times, tree, write_lines, write_sources

ROUND_0 = ("encode", "index", "retrieve", "evaluate")
ROUND = ("read", "label", "distil", "encode", "index", "retrieve", "evaluate")
STEPS = {"prepare", *(f"round-0/{s}" for s in ROUND_0), *(f"round-{n}/{s}" for n in (1, 2) for s in ROUND), "report"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def alike(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Whether no weight has moved by more than a learning rate of 1e-9 could."""
    return all(torch.allclose(one[name], two[name], rtol=0, atol=1e-6) for name in one)


def states(root: Path, chosen) -> dict[str, str]:
    return {name: step.folder.state() for name, step in plan(chosen, root).items()}


# --- what a run leaves


def test_a_run_leaves_a_finished_folder_for_every_stage_of_every_round(finished):
    assert {str(path.parent.relative_to(finished)) for path in finished.rglob(MANIFEST)} == STEPS
    assert set(states(finished, load(finished / "config.json")).values()) == {"done"}


def test_a_run_leaves_no_temporary_file_and_no_checkpoint(finished):
    assert [path for path in finished.rglob(".*") if path.name != ".lock"] == []
    assert not {path.name for path in finished.rglob("*")} & {"checkpoint", "started.json"}


@pytest.mark.parametrize("number", [1, 2])
def test_a_rounds_student_encodes_in_stock_sentence_transformers_what_the_round_encoded(finished, number):
    folder = finished / f"round-{number}"
    passages = list(Prepared(finished / "prepare").corpus)
    model = SentenceTransformer(str(folder / "distil" / "model"), device="cpu")
    texts = [f"title: {passage.title} context: {passage.text}" for passage in passages]
    vectors = model.encode_document(texts)
    parts = VectorParts.open(folder / "encode" / "parts")
    np.testing.assert_allclose(vectors, parts.take(np.arange(len(passages))), atol=2e-3)  # half precision


def test_the_best_round_is_the_best_on_dev_and_its_model_is_named(finished):
    best = read_json(finished / "report" / "best.json")
    summaries = [read_json(finished / f"round-{n}/evaluate/summary.json")["dev"] for n in range(3)]
    values = [summary[student_name(n)]["means"]["nDCG@10"] for n, summary in enumerate(summaries)]
    assert best["round"] == values.index(max(values))
    assert (finished / "report" / best["model"] / "modules.json").is_file()


def test_the_config_that_is_kept_is_the_whole_one(finished, sources):
    assert load(finished / "config.json") == config(sources)


# --- done once


def test_a_finished_run_is_not_touched_when_it_is_run_again(copied, sources):
    before, met = times(copied), {}
    run(config(sources), copied, started=lambda step, state: met.update({step.name: state}))
    assert times(copied) == before
    assert met == dict.fromkeys(STEPS, "done")


def test_force_builds_one_step_again_with_the_same_bytes_and_leaves_the_others(copied, sources, finished):
    before, built = times(copied), []
    run(config(sources), copied, only=["round-1/retrieve"], force=True, finished=lambda step, facts: built.append(step.name))
    after = times(copied)
    changed = {name for name in after if after[name] != before.get(name)}
    assert built == ["round-1/retrieve"]
    assert all(name.startswith("round-1") for name in changed)
    assert tree(copied) == tree(finished)


# --- what makes a step stale

AFTER_DISTIL = {f"round-1/{stage}" for stage in ROUND[2:]} | {f"round-2/{stage}" for stage in ROUND} | {"report"}


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({"distil": {"steps": 5}}, AFTER_DISTIL),
        ({"report": {"examples": 2}}, {"report"}),
        ({"compute": {"precision": "auto"}}, set()),
        ({"seed": 1}, STEPS - {"prepare", "round-0/encode"}),
        ({"overrides": {2: {"read": {"evaluate_every": 1}}}}, {f"round-2/{stage}" for stage in ROUND} | {"report"}),
        ({"prepare": {"limit": {"train": 19}}}, STEPS),
        ({"label": {"require_answer": True}}, AFTER_DISTIL),
        ({"rounds": 1}, {"report"}),
    ],
    ids=lambda one: str(sorted(one)) if isinstance(one, set) else str(one),  # sets have no order of their own
)
def test_a_changed_setting_makes_its_own_step_stale_and_all_that_stand_on_it(changes, stale, finished, sources):
    found = states(finished, config(sources, **changes))
    assert {name for name, state in found.items() if state == "stale"} == stale
    assert set(found.values()) <= {"stale", "done"}


def test_a_changed_source_makes_everything_stale(runs, tmp_path, sources):
    moved = write_sources(tmp_path / "sources")
    whole = json.loads(json.dumps(settings(sources)).replace(str(sources), str(moved)))
    root = tmp_path / "run"
    run(config(sources, **whole), root, only=["prepare"])
    assert states(root, config(sources, **whole))["prepare"] == "done"
    with (moved / "test.qrels").open("a") as file:
        file.write("q26 0 p0 1\n")
    assert states(root, config(sources, **whole))["prepare"] == "stale"


def test_only_what_is_stale_is_built_again(copied, sources):
    before, met = times(copied), {}
    chosen = config(sources, rounds=1, distil={"steps": 2})
    run(chosen, copied, started=lambda step, state: met.update({step.name: state}))
    assert {name for name, state in met.items() if state == "stale"} == AFTER_DISTIL & met.keys()
    after = times(copied)
    for kept in ("prepare", "round-0", "round-1/read", "round-1/label"):
        assert {n: t for n, t in after.items() if n.startswith(kept)} == {
            n: t for n, t in before.items() if n.startswith(kept)
        }
    assert len((copied / "round-1/distil/log.jsonl").read_text().splitlines()) == 3  # the untouched student, and 2 steps


def test_a_folder_of_a_newer_version_is_refused_before_any_work(copied, sources):
    manifest = copied / "round-2" / "read" / MANIFEST
    manifest.write_text(json.dumps({**read_json(manifest), "version": 99}))
    before = times(copied)
    with pytest.raises(ValueError, match=r"round-2/read was written by format version 99, .* use the Retort that wrote it"):
        run(config(sources, distil={"steps": 2}), copied)
    assert times(copied) == before


@pytest.mark.parametrize(
    ("step", "missing", "command"),
    [
        ("round-0/encode", "prepare", "prepare CONFIG`"),
        ("round-1/read", "prepare", "prepare CONFIG`"),
        ("round-1/label", "round-1/read", "read CONFIG --round 1`"),
        ("round-2/read", "prepare", "prepare CONFIG`"),
        ("report", "round-0/evaluate", "evaluate CONFIG --round 0`"),
    ],
)
def test_a_step_alone_is_refused_where_one_before_it_is_missing(step, missing, command, sources, tmp_path):
    with pytest.raises(ValueError, match=f"{step} needs {missing}, which is missing: run `retort {command}"):
        run(config(sources), tmp_path / "run", only=[step])
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_work_in_one_folder(copied, sources):
    with open(copied / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another process works in"):
            run(config(sources), copied)


# --- two rounds


def test_the_reader_of_round_two_scores_what_the_student_of_round_one_found(finished):
    found = Run.read(finished / "round-1/retrieve/student.parquet")
    candidates = Run.read(finished / "round-1/retrieve/candidates.parquet")
    before = Run.read(finished / "round-0/retrieve/candidates.parquet")
    labels = Run.read(finished / "round-2/label/labels.parquet")
    new = 0
    for query, rows, _ in labels:
        assert set(rows.tolist()) == set(candidates.of(query)[0][:6].tolist())
        new += len(set(rows.tolist()) & set(found.of(query)[0].tolist()) - set(before.of(query)[0].tolist()))
    assert new > 0  # passages that BM25 had not found


def test_later_candidates_are_the_union_of_bm25_and_the_student(finished):
    runs = [Run.read(finished / place) for place in ("round-1/retrieve/student.parquet", "round-0/retrieve/bm25.parquet")]
    expected, found = union("both", runs).top(10), Run.read(finished / "round-1/retrieve/candidates.parquet")
    for query, rows, _ in expected:
        assert found.of(query)[0].tolist() == rows.tolist()


def test_first_candidates_are_those_of_bm25_alone_where_it_is_named_alone(finished):
    bm25, found = (Run.read(finished / "round-0/retrieve" / name) for name in ("bm25.parquet", "candidates.parquet"))
    assert [(query, rows.tolist()) for query, rows, _ in found] == [(query, rows.tolist()) for query, rows, _ in bm25]


STILL = {"optimiser": {"learning_rate": 1e-9}}  # a training that stays where it starts


@pytest.mark.parametrize("later", ["continue", "restart"])
def test_a_later_round_starts_where_it_is_told_to(later, copied, sources):
    second = {"read": {"later_rounds": later, **STILL}, "distil": {"later_rounds": later, "steps": 2, **STILL}}
    chosen = config(sources, overrides={2: second})
    run(chosen, copied, only=["round-2/read", "round-2/label", "round-2/distil"])
    for stage, base in (("read", sources / "reader"), ("distil", sources / "student")):
        start = copied / "round-1" / stage / "model" if later == "continue" else base
        other = base if later == "continue" else copied / "round-1" / stage / "model"
        assert alike(weights(copied / "round-2" / stage / "model"), weights(start))
        assert not alike(weights(copied / "round-2" / stage / "model"), weights(other))
    logs = [(copied / f"round-{number}/distil/log.jsonl").read_text().splitlines() for number in (1, 2)]
    assert [len(log) for log in logs] == [5, 3]  # the override holds in its round only


def test_questions_without_an_answer_among_their_candidates_can_be_left_out(copied, sources):
    labels = times(copied / "round-1" / "label")
    told = {}
    chosen = config(sources, label={"require_answer": True}, distil={"steps": 1})
    run(chosen, copied, only=["round-1/distil"], finished=lambda step, facts: told.update(facts))
    assert told["dropped"] == {"no candidate holds an answer": len(UNANSWERED)}
    assert told["questions"] == len(SPLITS["train"]) - len(UNANSWERED)
    assert times(copied / "round-1" / "label") == labels


def test_a_student_can_be_selected_by_the_answers_it_finds(copied, sources):
    chosen = config(sources, distil={"selection": "has_answer@5"})
    run(chosen, copied, only=["round-1/distil"])
    lines = map(json.loads, (copied / "round-1/distil/log.jsonl").read_text().splitlines())
    values = [line["dev"] for line in lines if "dev" in line]
    assert len(values) == 3
    assert all(0 <= value <= 1 and (6 * value) % 1 == pytest.approx(0, abs=1e-9) for value in values)  # of 6 questions


@pytest.mark.parametrize(
    "index",
    [{"kind": "ivf", "ivf_lists": 3, "ivf_probes": 3}, {"kind": "hnsw", "hnsw_links": 40, "hnsw_search": 200}],
    ids=["ivf", "hnsw"],
)
def test_an_approximate_index_that_looks_everywhere_finds_what_the_exact_one_does(index, copied, sources, finished):
    run(config(sources, overrides={1: {"index": index}}), copied, only=["round-1/index", "round-1/retrieve"])
    found, exact = (Run.read(root / "round-1/retrieve/student.parquet") for root in (copied, finished))
    assert (copied / "round-1/index/index.faiss").is_file()
    assert read_json(copied / "round-1/index" / MANIFEST)["recall@100 of the exact search"] == 1
    for query, rows, scores in exact:
        assert found.of(query)[0].tolist() == rows.tolist()
        assert found.of(query)[1].tolist() == pytest.approx(scores.tolist(), rel=1e-4)


def test_trackers_keep_each_training_in_a_folder_of_its_own(copied, sources):
    chosen = config(sources, compute={"trackers": ["tensorboard"]})
    run(chosen, copied, only=["round-1/read", "round-1/distil"], force=True)
    events = {path.parent.name for path in (copied / "trackers").rglob("events.*") if path.parent.parent.name == "trackers"}
    assert events == {"round-1-read", "round-1-distil"}


# --- another run: candidates from a file, no grades, no test questions, more candidates asked for than there are passages


WITHOUT_CANDIDATES = (17, 25)  # a train question and a dev question that the file does not list


def no_network(*arguments, **named):
    raise AssertionError("the network was asked")


@pytest.fixture(scope="module")
def plain(sources, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("plain") / "run"
    lines = [
        {
            "id": f"q{i}",
            "question": "any",
            "ctxs": [{"id": f"p{j}", "score": 9 - k} for k, j in enumerate((i, 39, (i + 5) % 39))],
        }
        for split in ("train", "dev")
        for i in SPLITS[split]
        if i not in WITHOUT_CANDIDATES
    ]
    candidates = write_lines(root.parent / "candidates.jsonl", lines)
    values = settings(
        sources,
        rounds=1,
        retrieve={"depth": 100, "first": ["file"], "later": ["student"]},
        label={"depth": 100},
        distil={"candidates": 100, "steps": 2},
        evaluate={"headline": "has_answer@1"},
    )
    queries = {split: values["prepare"]["queries"][split] for split in ("train", "dev")}
    values["prepare"] = {"corpus": values["prepare"]["corpus"], "queries": queries, "candidates": str(candidates)}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket.socket, "connect", no_network)
        patched.setattr(socket, "getaddrinfo", no_network)
        run(parse(values), root)
    return root


def test_a_run_touches_no_network_and_needs_neither_grades_nor_test_questions(plain):
    report = read_json(plain / "report" / "report.json")
    assert report["subtitle"].startswith("dev split: 6 questions")
    assert report["measure"] == "has_answer@1"
    assert {name for row in report["rows"] for name in row["means"]} == {"has_answer@1", "has_answer@5"}


def test_candidates_of_a_file_are_what_is_labelled(plain):
    labels = Run.read(plain / "round-1/label/labels.parquet")
    for query, rows, _ in labels:
        number = int(query[1:])
        assert set(rows.tolist()) == (set() if number in WITHOUT_CANDIDATES else {number, 39, (number + 5) % 39})


def test_a_question_without_candidates_is_not_trained_on_and_counts_as_not_answered(plain):
    manifest = read_json(plain / "round-1/distil" / MANIFEST)
    assert (manifest["questions"], manifest["dropped"]) == (19, {"fewer than 2 labelled candidates": 1})
    kept = PerQuery.read(plain / "round-1/evaluate/results/dev.teacher-1.parquet")
    assert kept.select(["q25"]).measures["has_answer@5"].tolist() == [0.0]


def test_bm25_and_the_untouched_student_are_measured_beside_candidates_of_a_file(plain):
    assert {"bm25", "untouched"} <= read_json(plain / "round-0/evaluate/summary.json")["dev"].keys()


def test_fewer_passages_than_candidates_asked_for_are_all_of_them(plain):
    assert {len(rows) for _, rows, _ in Run.read(plain / "round-1/retrieve/student.parquet")} == {40}


def test_later_candidates_are_those_of_the_student_alone_where_it_is_named_alone(plain):
    student, found = (Run.read(plain / "round-1/retrieve" / name) for name in ("student.parquet", "candidates.parquet"))
    assert [rows.tolist() for _, rows, _ in found] == [rows.tolist() for _, rows, _ in student]


# --- search


def test_a_search_finds_what_the_best_student_found(finished):
    hits, ids, scores = searched(finished)
    assert [hit["id"] for hit in hits] == ids
    assert [hit["score"] for hit in hits] == pytest.approx(scores, abs=1e-4)


def test_a_search_needs_neither_the_sources_nor_the_folder_of_the_run_that_made_it(copied):
    text = (copied / "config.json").read_text()
    (copied / "config.json").write_text(text.replace("corpus.jsonl", "gone.jsonl"))
    before = read_json(copied / "prepare" / MANIFEST)
    assert len(search_run(copied, "what has the king", 2)) == 2
    assert read_json(copied / "prepare" / MANIFEST) == before


def test_a_search_for_nothing_is_refused(finished):
    with pytest.raises(ValueError, match="the question is empty"):
        search_run(finished, "  ", 2)


def test_prose_is_cut_into_passages_of_as_many_words_as_are_asked_for(sources, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text("The king has a red ship. " * 12)
    values = settings(sources)
    values["prepare"] |= {"corpus": str(tmp_path / "texts"), "qrels": {}, "words": 12}
    run(parse(values), tmp_path / "run", only=["prepare"])
    assert {len(passage.text.split()) for passage in Prepared(tmp_path / "run" / "prepare").corpus} == {12}


def test_a_search_in_an_unfinished_run_is_refused(copied):
    remove(copied / "round-2" / "encode")
    (copied / "report" / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"report is missing, expected a finished stage: finish it with `retort run`"):
        search_run(copied, "what has the king", 2)


def test_a_search_in_vectors_of_another_size_is_refused(copied):
    best = read_json(copied / "report" / "best.json")["round"]
    for part in (copied / f"round-{best}/encode/parts").glob("*.npy"):
        np.save(part, np.zeros((len(np.load(part)), 7), np.float16))
    with pytest.raises(ValueError, match=r"40 vectors of 24 dimensions, but 40 of 7 were given: build the index again"):
        search_run(copied, "what has the king", 2)
