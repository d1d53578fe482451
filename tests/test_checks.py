"""The checks one by one; that they come before the work is shown in test_bad_input.py."""

from pathlib import Path

import numpy as np
import pytest

from retort.checks import check_candidates, check_config, check_grades, check_questions, check_start
from retort.config import Label
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


def test_a_finished_run_asks_for_nothing(finished, sources, monkeypatch):
    monkeypatch.setattr("retort.checks.check_source", None)
    monkeypatch.setattr("retort.checks.AutoConfig", None)
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
    monkeypatch.setattr("retort.checks.AutoConfig.from_pretrained", asked.append)
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
    check_candidates(run(a=[0, 1], b=[0], c=[1, 2]), prepared(tmp_path), Label())


def test_candidates_behind_the_depth_of_labels_do_not_count(tmp_path):
    with pytest.raises(ValueError, match=r"none of the 2 train questions has two candidates within label.depth 1"):
        check_candidates(run(a=[0, 1], c=[1, 2]), prepared(tmp_path), Label(depth=1))


def test_candidates_need_an_answer_where_labels_do(tmp_path):
    found, required = prepared(tmp_path), Label(require_answer=True)
    check_candidates(run(a=[0, 2], b=[0, 1], c=[1, 2]), found, required)
    with pytest.raises(ValueError, match=r"none of the 2 train questions has two candidates, one of them with an answer"):
        check_candidates(run(a=[0, 1], b=[0, 1], c=[1, 2]), found, required)


@pytest.mark.parametrize(
    ("distil", "message"),
    [
        ({"ranks_every": 5}, "no objective reads ranks"),
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
