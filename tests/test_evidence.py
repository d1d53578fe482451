"""What a round proves: what goes into the measures, and what is kept. The measures themselves: tests/evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator

from retort.config import StudentModel, load
from retort.evaluation.metrics import PerQuery, evaluate
from retort.evidence import answers_found, evaluate_round, headline, measures_of, round_runs
from retort.job import Job
from retort.plan import plan
from retort.prepared import CORPUS, Prepared, write_prepared
from retort.records import Corpus, Passage, Qrels, Query, Run
from retort.store import read_json
from retort.students.loading import load_student
from tiny_run import config

ANSWERED = [Query("a", "who?", ("king",)), Query("b", "why?", ("snow",))]
OPEN = [Query("c", "who?"), Query("d", "why?", ("snow",))]
GRADES = Qrels({query.id: {"p0": 1} for query in [*ANSWERED, *OPEN]})


def prepared(folder: Path, qrels=None, **splits) -> Prepared:
    Corpus.write(folder / CORPUS, [Passage("p0", "", "a king"), Passage("p1", "", "a house")])
    write_prepared(folder, splits, qrels or {})
    return Prepared(folder)


# --- what is measured


def test_grades_bring_the_measures_of_the_config_and_answers_bring_has_answer(sources, tmp_path):
    found = prepared(tmp_path, {"dev": GRADES}, dev=ANSWERED)
    assert measures_of("dev", config(sources), found) == ["nDCG@10", "R@5", "has_answer@1", "has_answer@5"]


def test_has_answer_is_measured_only_where_all_questions_have_answers(sources, tmp_path):
    found = prepared(tmp_path, {"dev": GRADES}, dev=OPEN)
    assert measures_of("dev", config(sources), found) == ["nDCG@10", "R@5"]


def test_without_grades_only_has_answer_is_measured(sources, tmp_path):
    assert measures_of("dev", config(sources), prepared(tmp_path, dev=ANSWERED)) == ["has_answer@1", "has_answer@5"]


@pytest.mark.parametrize(
    ("graded", "settings", "expected"),
    [
        (["dev", "test"], {}, "nDCG@10"),
        (["dev"], {"answers_at": [5, 20]}, "has_answer@20"),  # the test split has no nDCG
        ([], {"answers_at": [20]}, "has_answer@20"),
        ([], {"answers_at": [1, 5]}, "has_answer@1"),
        (["dev", "test"], {"measures": ["R@5"], "answers_at": [1]}, "R@5"),
        (["dev", "test"], {"headline": "has_answer@5"}, "has_answer@5"),
        (["dev", "test"], {"measures": ["MRR@10"], "headline": "MRR@10"}, "RR@10"),  # as ir-measures prints it
    ],
    ids=str,
)
def test_the_headline_is_the_best_known_measure_that_dev_and_test_share(graded, settings, expected, sources, tmp_path):
    found = prepared(tmp_path, dict.fromkeys(graded, GRADES), dev=ANSWERED, test=[Query("e", "who?", ("king",))])
    assert headline(config(sources, evaluate=settings), found) == expected


# --- what a round leaves


def test_round_0_adds_bm25_and_the_untouched_student_and_later_rounds_the_labels_and_theirs(finished):
    steps = plan(load(finished / "config.json"), finished)
    names = [[run.name for run in round_runs(steps, steps[f"round-{number}/evaluate"])] for number in (0, 1, 2)]
    assert names == [["bm25", "untouched"], ["teacher-1", "round-1"], ["teacher-2", "round-2"]]


def test_the_values_kept_for_each_question_are_those_of_the_run(finished):
    found = Prepared(finished / "prepare")
    run = Run.read(finished / "round-2/retrieve/student.parquet")
    kept = PerQuery.read(finished / "round-2/evaluate/results/test.round-2.parquet")
    again = evaluate(
        run, found.corpus, queries=found.splits["test"], measures=list(kept.measures), qrels=found.qrels("test")
    )
    assert kept.query_ids == again.query_ids
    for name, values in again.measures.items():
        np.testing.assert_array_equal(kept.measures[name], values)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_summary_holds_the_means_of_the_kept_values_inside_their_intervals(number, finished):
    folder = finished / f"round-{number}" / "evaluate"
    summary = json.loads((folder / "summary.json").read_text())
    files = {path.name for path in (folder / "results").iterdir()}
    assert files == {f"{split}.{name}.parquet" for split in ("dev", "test") for name in summary[split]}
    for split in ("dev", "test"):
        for name, facts in summary[split].items():
            assert facts["means"] == PerQuery.read(folder / "results" / f"{split}.{name}.parquet").means()
            for measure, (low, high) in facts["intervals"].items():
                assert low <= facts["means"][measure] <= high


def test_round_0_has_the_floors_of_has_answer_and_later_rounds_the_reader(finished):
    names = [set(read_json(finished / f"round-{number}/evaluate/summary.json")["test"]) for number in (0, 1)]
    assert names == [{"bm25", "untouched", "shuffled answers", "random passages"}, {"teacher-1", "round-1", "reader"}]


def test_the_reader_is_measured_on_the_questions_that_have_answers(copied, sources):
    found = Prepared(copied / "prepare")
    splits = {**found.splits, "test": [Query(query.id, query.text) for query in found.splits["test"]]}
    splits["test"][0] = found.splits["test"][0]
    write_prepared(found.folder, splits, {split: found.qrels(split) for split in ("dev", "test")})
    steps = plan(config(sources), copied)
    evaluate_round(steps, steps["round-1/evaluate"], Prepared(found.folder))
    kept = PerQuery.read(copied / "round-1/evaluate/results/test.reader.parquet")
    assert kept.query_ids == (splits["test"][0].id,)


def test_a_split_without_any_answer_has_no_row_for_the_reader(copied, sources):
    found = Prepared(copied / "prepare")
    splits = {**found.splits, "test": [Query(query.id, query.text) for query in found.splits["test"]]}
    write_prepared(found.folder, splits, {split: found.qrels(split) for split in ("dev", "test")})
    steps = plan(config(sources), copied)
    evaluate_round(steps, steps["round-1/evaluate"], Prepared(found.folder))
    summary = read_json(copied / "round-1/evaluate/summary.json")
    assert "reader" in summary["dev"]
    assert "reader" not in summary["test"]


def rewritten(copied: Path, change) -> None:
    """The student's Run of round 1 with other scores for the dev questions' candidates."""
    labels = Run.read(copied / "round-1/label/labels.parquet")
    scores = [change(scores) for _, _, scores in labels]
    run = Run.build("round-1", labels.query_ids, [rows for _, rows, _ in labels], scores)
    run.write(copied / "round-1/retrieve/student.parquet")


def test_a_student_that_ranks_as_the_labels_do_agrees_with_them_fully(copied, sources):
    rewritten(copied, lambda scores: 2 * scores)
    steps = plan(config(sources), copied)
    evaluate_round(steps, steps["round-1/evaluate"], Prepared(copied / "prepare"))
    found = read_json(copied / "round-1/evaluate/agreement.json")
    assert found["questions"] == 6
    assert found["inversions"] == 0


def test_a_student_that_ranks_against_the_labels_inverts_every_pair(copied, sources):
    rewritten(copied, lambda scores: -scores)
    steps = plan(config(sources), copied)
    evaluate_round(steps, steps["round-1/evaluate"], Prepared(copied / "prepare"))
    assert read_json(copied / "round-1/evaluate/agreement.json")["inversions"] == 15  # of 6 candidates


# --- selecting a student by the answers it finds


def test_answers_found_is_has_answer_in_a_search_over_the_candidates_of_all_dev_questions(finished, sources):
    found = Prepared(finished / "prepare")
    student = load_student(StudentModel(model=str(sources / "student"), query_tokens=20, passage_tokens=40))
    labels = Run.read(finished / "round-1/label/labels.parquet").select([query.id for query in found.splits["dev"]])
    value = answers_found(student, labels, found, "has_answer@2", Job({}, Accelerator(cpu=True)))
    pool = sorted(set(labels.passages.tolist()))
    vectors = student.embed([found.corpus[row] for row in pool], "passage").astype(np.float16).astype(np.float32)
    hits = []
    for query in found.splits["dev"]:
        best = np.argsort(-(vectors @ student.embed([query], "query")[0]), kind="stable")[:2]
        hits.append(any(query.answers[0] in found.corpus[pool[place]].text for place in best))
    assert value == pytest.approx(np.mean(hits))
    assert 0 < len(pool) < len(found.corpus)
