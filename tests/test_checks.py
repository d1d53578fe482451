"""The checks one by one; that they come before the work is shown in test_bad_input.py."""

from pathlib import Path

import numpy as np
import pytest

from retort.checks import check_candidates, check_config, check_grades, check_questions, check_start
from retort.plan import VERSIONS, plan
from retort.prepared import CORPUS, Prepared, write_prepared
from retort.records import Corpus, Passage, Qrels, Query, Run
from retort.store import MANIFEST, read_json, remove
from tiny_run import config

CORPUS_OF_3 = [Passage("p0", "", "the queen"), Passage("p1", "", "a house"), Passage("p2", "", "the king")]
TRAIN = [Query("a", "who?", ("the king",)), Query("b", "why?", ("snow",))]
DEV = [Query("c", "where?", ("house",)), Query("d", "whose?", ("queen",))]


def prepared(folder: Path, *, qrels=None, **splits) -> Prepared:
    Corpus.write(folder / CORPUS, CORPUS_OF_3)
    write_prepared(folder, {"train": TRAIN, "dev": DEV, **splits}, qrels or {})
    return Prepared(folder)


def run(**rows) -> Run:
    return Run.build("bm25", list(rows), list(rows.values()), [-np.arange(len(r)) for r in rows.values()])


def test_the_tiny_config_is_good(sources):
    check_config(config(sources))


def test_a_model_that_is_not_there_is_named_with_its_place_in_the_config(sources, tmp_path):
    missing = str(tmp_path / "nothing")
    with pytest.raises(ValueError, match=f"distil.student: model '{missing}': no config.json"):
        check_config(config(sources, distil={"student": {"model": missing}}))
    teacher = {"teachers": [{"kind": "bm25"}, {"kind": "cross_encoder", "model": missing}]}
    with pytest.raises(ValueError, match=f"label.teachers.1: model '{missing}'"):
        check_config(config(sources, label=teacher))


def test_a_name_that_a_server_knows_is_not_looked_for_here(sources):
    teacher = {"kind": "judge", "model": "/models/nothing", "server": {"base_url": "http://x/v1"}}
    check_config(config(sources, label={"teachers": [teacher]}))


@pytest.mark.parametrize(
    ("student", "index", "expected"),
    [("dense", "seismic", "flat, hnsw, ivf"), ("sparse", "hnsw", "flat, seismic"), ("late_interaction", "seismic", "flat")],
)
def test_an_index_has_to_suit_the_student(student, index, expected, sources):
    chosen = config(sources, distil={"student": {"kind": student, "scale": 1.0}}, index={"kind": index})
    with pytest.raises(
        ValueError, match=f"index.kind is '{index}' and the student is {student}: expected one of {expected}"
    ):
        check_config(chosen)


def test_an_index_that_is_not_installed_is_refused(sources, monkeypatch):
    monkeypatch.setattr("retort.checks.find_spec", lambda name: None)
    chosen = config(sources, distil={"student": {"kind": "sparse", "scale": 1.0}}, index={"kind": "seismic"})
    with pytest.raises(ValueError, match=r"needs Seismic: pip install 'retort-ir\[seismic\]'"):
        check_config(chosen)


def test_a_finished_run_asks_for_nothing(finished, sources, monkeypatch):
    monkeypatch.setattr("retort.checks.check_source", None)
    monkeypatch.setattr("retort.checks.check_models", None)
    steps = plan(config(sources), finished)
    check_start(steps, list(steps), force=False)


def test_a_step_that_is_built_in_the_same_call_is_not_missed(sources, tmp_path):
    steps = plan(config(sources), tmp_path)
    check_start(steps, list(steps), force=False)


def test_a_step_that_is_stale_is_missed_by_the_next_one(copied, sources):
    steps = plan(config(sources, read={"evaluate_every": 1}), copied)
    with pytest.raises(
        ValueError, match=r"round-1/label needs round-1/read, which is stale: run `retort read CONFIG --round 1`"
    ):
        check_start(steps, ["round-1/label"], force=False)


@pytest.mark.parametrize(
    ("name", "models"),
    [("round-0/encode", ["student"]), ("round-1/read", ["reader"]), ("round-2/distil", ["student"]), ("round-2/encode", [])],
)
def test_a_model_is_looked_for_only_by_the_steps_that_load_it(name, models, copied, sources, monkeypatch):
    asked = []
    monkeypatch.setattr("retort.model_checks.check_reader", lambda settings: asked.append(settings.model))
    monkeypatch.setattr("retort.model_checks._check_reachable", asked.append)
    remove(copied / name)
    steps = plan(config(sources), copied)
    check_start(steps, list(steps), force=False)
    assert asked == [str(sources / model) for model in models]


def test_a_version_is_looked_at_before_anything_is_built(copied, sources):
    manifest = read_json(copied / "round-2/label" / MANIFEST)
    ours = VERSIONS["label"]
    (copied / "round-2/label" / MANIFEST).write_text(str({**manifest, "version": ours + 1}).replace("'", '"'))
    steps = plan(config(sources), copied)
    said = f"round-2/label was written by format version {ours + 1}, this Retort writes version {ours}"
    with pytest.raises(ValueError, match=said):
        check_start(steps, list(steps), force=True)


# --- questions


def test_questions_with_answers_need_no_grades(sources, tmp_path):
    check_questions(config(sources), prepared(tmp_path, test=[Query("t", "who?", ("king",)), Query("u", "why?", ("snow",))]))


def test_test_questions_with_neither_grades_nor_answers_are_refused(sources, tmp_path):
    found = prepared(tmp_path, test=[Query("t", "who?"), Query("u", "why?")])
    with pytest.raises(ValueError, match="the test questions have neither grades nor answers"):
        check_questions(config(sources), found)


def test_dev_with_answers_and_test_with_grades_alone_have_no_measure_in_common(sources, tmp_path):
    test = [Query("t", "who?"), Query("u", "why?")]
    found = prepared(tmp_path, test=test, qrels={"test": Qrels({"t": {"p0": 1}, "u": {"p1": 1}})})
    with pytest.raises(
        ValueError, match=r"no measure is common to \['dev', 'test'\]: .*; give both grades, or answers to all"
    ):
        check_questions(config(sources), found)


def test_a_split_with_one_question_is_refused(sources, tmp_path):
    with pytest.raises(ValueError, match="found 1 test question, expected 2 at least"):
        check_questions(config(sources), prepared(tmp_path, test=[Query("t", "who?", ("king",))]))


def test_a_question_without_grades_among_graded_ones_is_refused(sources, tmp_path):
    found = prepared(tmp_path, qrels={"dev": Qrels({"c": {"p1": 1}})}, test=[])
    with pytest.raises(
        ValueError, match=r"dev query 'd' has no grades in the qrels \(1 of 2 have none\).*prepare.qrels.dev"
    ):
        check_questions(_without_test(config(sources)), found)


def _without_test(chosen):
    queries = {split: source for split, source in chosen.prepare.queries.items() if split != "test"}
    return chosen.model_copy(update={"prepare": chosen.prepare.model_copy(update={"queries": queries})})


def test_questions_without_grades_do_not_matter_where_only_answers_are_measured(sources, tmp_path):
    found = prepared(tmp_path, qrels={"dev": Qrels({"c": {"p1": 1}})}, test=[])
    check_questions(_without_test(config(sources, evaluate={"measures": []})), found)


def test_grades_of_an_unknown_passage_are_refused_with_their_source():
    with pytest.raises(ValueError, match=r"dev.qrels: passage id 'p9' is not in the corpus of 3 passages"):
        check_grades([("dev.qrels", Qrels({"c": {"p9": 1}}))], Corpus.from_passages(CORPUS_OF_3))


# --- candidates


def test_one_question_of_each_split_with_two_candidates_is_enough(tmp_path):
    check_candidates(run(a=[0, 1], b=[0], c=[1, 2]), prepared(tmp_path), config(tmp_path))


def test_candidates_behind_the_depth_of_labels_do_not_count(tmp_path):
    with pytest.raises(ValueError, match=r"none of the 2 train questions has two candidates within label.depth 1"):
        check_candidates(run(a=[0, 1], c=[1, 2]), prepared(tmp_path), config(tmp_path, label={"depth": 1}))


def test_candidates_need_an_answer_where_labels_do(tmp_path):
    found, required = prepared(tmp_path), config(tmp_path, label={"require_answer": True})
    check_candidates(run(a=[0, 2], b=[0, 1], c=[1, 2]), found, required)
    with pytest.raises(ValueError, match=r"none of the 2 train questions has two candidates, one of them with an answer"):
        check_candidates(run(a=[0, 1], b=[0, 1], c=[1, 2]), found, required)


def test_candidates_need_an_answer_and_a_passage_without_one_where_a_loss_reads_positives(tmp_path):
    found, contrast = prepared(tmp_path), config(tmp_path, distil={"objectives": [{"name": "bkl"}]})
    check_candidates(run(a=[0, 2], b=[0, 1], c=[1, 2]), found, contrast)
    for lists in ({"a": [0, 1], "b": [0, 1]}, {"a": [2], "b": [0, 1]}):
        with pytest.raises(ValueError, match="has two candidates, one of them with an answer and one without"):
            check_candidates(run(**lists, c=[1, 2]), found, contrast)
    graded = config(tmp_path, distil={"objectives": [{"name": "bkl"}], "positives": "qrels"})
    check_candidates(run(a=[0, 1], b=[0, 1], c=[1, 2]), found, graded)


@pytest.mark.parametrize(
    ("distil", "message"),
    [
        ({"ranks_every": 5}, "no objective reads ranks"),
        ({"objectives": [{"name": "bkl"}], "negatives": {"system": "bm25"}}, "is 'bm25' without a window"),
        ({"objectives": [{"name": "bkl"}], "negatives": {"system": "file", "window": 3}}, "prepare.candidates is not set"),
        ({"objectives": [{"name": "bkl"}], "positives": "scores"}, "no teacher is a file of scores"),
        ({"topics": 3}, "distil.topics is set and distil.batches is 'random'"),
        ({"batches": "topics", "student": {"kind": "sparse", "model": "bert"}}, "is sparse: expected a dense one"),
        ({"objectives": [{"name": "emdr2"}]}, r"the objective emdr2 reads log-likelihoods, .*expected the one teacher"),
        (
            {"objectives": [{"name": "cl_drd"}], "candidates": 10},
            "teacher's first 10 from the rest, and distil.candidates is 10",
        ),
        ({"negatives": {"window": 5}}, "distil.negatives is set, but nothing reads positives"),
        ({"objectives": [{"name": "bkl"}], "positives": "qrels"}, "expected prepare.positives"),
        (
            {"student": {"kind": "late_interaction", "model": "bert"}, "objectives": [{"name": "kl"}, {"name": "flops"}]},
            "flops and l1 are of vectors over a vocabulary",
        ),
    ],
)
def test_settings_that_nothing_would_read_are_refused(sources, distil, message):
    with pytest.raises(ValueError, match=message):
        check_config(config(sources, distil=distil))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"hnsw_links": 8},
            "index.hnsw_links is 8, which an index of kind 'flat' for a student of kind dense does not",
        ),
        ({"kind": "hnsw", "ivf_probes": 8}, "index.ivf_probes is 8, which an index of kind 'hnsw'"),
        ({"exact_up_to": 8}, "index.exact_up_to is 8"),
    ],
)
def test_settings_of_another_index_are_refused(sources, index, message):
    with pytest.raises(ValueError, match=message):
        check_config(config(sources, index=index))
    check_config(config(sources, index={"kind": "hnsw", "hnsw_links": 8}))


# --- teachers behind servers

SERVER = {"base_url": "http://localhost:1/v1"}


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"kind": "judge", "server": {"base_url": "localhost:8000"}}, r"label\.teachers\.1: base_url is no plain address"),
        (
            {"kind": "judge", "server": {**SERVER, "key_variable": "sk-123"}},
            "key_variable is not the name of an environment",
        ),
        ({"kind": "judge", "server": SERVER, "judge": {"window": 2}}, "windows of 2 passages, expected 3 or more"),
        ({"kind": "judge", "server": SERVER, "judge": {"form": "grades", "scale": 12, "expected": True}}, "expected 1 to 9"),
        (
            {"kind": "remote", "server": SERVER, "language": {"prompt": {"tail": "", "scored": " {answer}"}}},
            "holds {question} in",
        ),
        ({"kind": "remote", "server": SERVER, "language": {"prompt": {"tail": "{q}", "scored": "x"}}}, r"found \['q'\]"),
    ],
)
def test_a_teacher_that_could_not_be_made_is_refused_from_the_config(sources, teacher, message):
    label = {"teachers": [{"kind": "fid"}, {"model": "m", **teacher}]}
    with pytest.raises(ValueError, match=message):
        check_config(config(sources, label=label))


@pytest.mark.parametrize("price", [-1.0, float("nan"), "free"])
def test_a_price_is_a_number_from_0(sources, price):
    server = {**SERVER, "price_per_million": {"prompt": price, "completion": 0}}
    with pytest.raises(ValueError, match=r"label\.teachers\.0\.server\.price_per_million\.prompt"):
        config(sources, label={"teachers": [{"kind": "judge", "model": "m", "server": server}]})


def test_a_key_that_is_not_set_is_missed_by_the_label_step_alone(sources, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    server = {**SERVER, "key_variable": "NO_SUCH_KEY"}
    chosen = config(sources, label={"teachers": [{"kind": "fid"}, {"kind": "judge", "model": "m", "server": server}]})
    check_config(chosen)
    steps = plan(chosen, tmp_path)
    with pytest.raises(ValueError, match="the environment variable NO_SUCH_KEY is not set"):
        check_start(steps, list(steps), force=False)
    check_start(steps, [name for name in steps if not name.startswith("round-1")][:4], force=False)
    monkeypatch.setenv("NO_SUCH_KEY", "k")
    check_start(steps, list(steps), force=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encode": {"refresh": "rerank", "rerank_depth": 9}}, "encode.rerank_depth is 9, expected 11 at least: retr"),
        ({"encode": {"refresh": "auto", "probe_depth": 20}}, r"encode.rerank_depth is 20, expected 21 .*probe_depth"),
        (
            {"encode": {"refresh": "auto"}, "distil": {"student": {"query_side": "full"}}},
            "student.query_side in round 1 keeps passage vectors, .* expected encode.refresh 'full' in rounds 0 and 1",
        ),
        (
            {
                "distil": {"later_rounds": "continue"}, "encode": {"refresh": "rerank"},
                "overrides": {2: {"encode": {"refresh": "full"}, "distil": {"student": {"query_side": "full"}}}},
            },
            "student.query_side in round 2 .* expected encode.refresh 'full' in rounds 1 and 2",
        ),
        *(
            (
                {"encode": {"refresh": "rerank"}, "overrides": {2: {"distil": {"student": {name: value}}}}},
                f"in round 2 the passage vectors of round 1 may stay, whose student had another {name}",
            )
            for name, value in {"kind": "sparse", "passage_tokens": 13, "pooling": "cls"}.items()
        ),
        (
            {
                "distil": {"later_rounds": "continue"},
                "overrides": {2: {"distil": {"student": {"query_side": "full", "passage_format": "{text}"}}}},
            },
            "in round 2 the passage vectors of round 1 may stay, whose student had another passage_format",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_passage_vectors_that_may_not_stay_are_refused(sources, settings, message):
    with pytest.raises(ValueError, match=message):
        check_config(config(sources, **settings))


@pytest.mark.parametrize("later", ["continue", "restart"])
def test_passage_vectors_of_a_student_that_was_trained_on_the_query_side_may_stay_and_be_ranked_anew(sources, later):
    sides = {1: {"distil": {"student": {"query_side": "full"}}}}
    check_config(config(sources, rounds=3, distil={"later_rounds": later}, overrides=sides))
    both = {2: {"distil": {"student": {"query_side": None}}, "encode": {"refresh": "rerank"}}}
    check_config(config(sources, rounds=2, overrides={**sides, **both}))
