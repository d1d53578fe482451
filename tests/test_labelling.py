"""How the labels of a round come about; that any teacher's labels train any student is in test_matrix.py."""

import json

import numpy as np
import pytest

from retort.candidates import as_ranked, curated, cut, with_positives, within
from retort.compute import accelerator
from retort.config import parse
from retort.distil.sampling import Labelled
from retort.evidence import SUMMARY
from retort.job import Job
from retort.labelling import LABELS, teacher_names
from retort.pipeline import run
from retort.plan import plan
from retort.prepared import Prepared
from retort.records import Run
from retort.store import read_json
from tiny import tiny_cross_encoder
from tiny_run import SPLITS, config, settings, write_lines

SEARCHED = ["prepare", *(f"round-0/{stage}" for stage in ("encode", "index", "retrieve"))]


def test_candidates_that_a_ranking_lacks_get_its_lowest_score_and_0_without_any():
    ranked = Run.build("bm25", ["a"], [[3, 1]], [[9.0, 4.0]])
    found = as_ranked(ranked, Run.build("c", ["a", "b"], [[1, 2, 3], [5]], [[1.0, 0.5, 0.2], [1.0]]), "teacher")
    assert [values.tolist() for values in found.of("a")] == [[3, 1, 2], [9.0, 4.0, 4.0]]
    assert found.of("b")[1].tolist() == [0.0]


def test_fused_teachers_leave_each_ones_scores_beside_the_labels(sources, tmp_path):
    teachers = [{"kind": "bm25", "weight": 2.0}, {"kind": "answers"}]
    chosen = config(sources, rounds=1, label={"teachers": teachers, "depth": 6})
    folder = run(chosen, tmp_path, only=[*SEARCHED, "round-1/label"])["round-1/label"].path
    labels, bm25, answers = (Run.read(folder / name) for name in (LABELS, "teacher-0.parquet", "teacher-1.parquet"))
    assert set(np.unique(answers.scores)) <= {0.0, 1.0}
    query = Prepared(tmp_path / "prepare").splits["train"][0]
    best = labels.of(query.id)[0][0]
    assert answers.of(query.id)[0][0] == best  # its one answer-bearing passage is BM25's first too
    assert bm25.of(query.id)[0][0] == best


def test_positives_that_no_search_found_are_labelled_where_train_questions_have_grades(sources, tmp_path):
    far = "".join(f"q{i} 0 p{(i + 17) % 40} 1\n" for i in range(20))
    (tmp_path / "train.qrels").write_text(far)
    chosen = config(
        sources, rounds=1, prepare={"positives": str(tmp_path / "train.qrels")},
        label={"teachers": [{"kind": "bm25"}], "depth": 3},
        distil={"objectives": [{"name": "bkl"}], "positives": "qrels", "sample": "positive"},
    )  # fmt: skip
    steps = run(chosen, tmp_path / "run", only=[*SEARCHED, "round-1/label", "round-1/distil"])
    labels, prepared = Run.read(steps["round-1/label"].path / LABELS), Prepared(tmp_path / "run" / "prepare")
    for number, query in enumerate(prepared.splits["train"]):
        assert f"p{(number + 17) % 40}" in prepared.corpus.ids(labels.of(query.id)[0])
        assert len(labels.of(query.id)[0]) in (3, 4)


def test_one_file_of_grades_for_all_splits_adds_positives_to_train_questions_alone(sources, tmp_path):
    (tmp_path / "all.qrels").write_text("".join(f"q{i} 0 p{(i + 17) % 40} 1\n" for i in range(34)))
    grades = str(tmp_path / "all.qrels")
    chosen = config(
        sources, rounds=1, prepare={"positives": grades, "qrels": {"dev": grades, "test": grades}, "limit": {"train": 12}},
        label={"teachers": [{"kind": "bm25"}], "depth": 3}, distil={"objectives": [{"name": "bkl"}], "positives": "qrels"},
    )  # fmt: skip
    steps = run(chosen, tmp_path / "run", only=[*SEARCHED, "round-1/label"])
    labels, prepared = Run.read(steps["round-1/label"].path / LABELS), Prepared(tmp_path / "run" / "prepare")
    assert sorted(labels.query_ids) == sorted(query.id for query in prepared.queries)
    assert {len(labels.of(query.id)[0]) for query in prepared.splits["test"]} == {3}
    assert max(len(labels.of(query.id)[0]) for query in prepared.splits["train"]) == 4


def test_labels_of_a_file_that_says_nothing_of_test_have_no_row_there(sources, tmp_path):
    lines = [f"q{i} Q0 p{j} 1 {100 - abs(i - j)}.5 t\n" for i in range(26) for j in range(max(0, i - 3), i + 3)]
    (tmp_path / "most.trec").write_text("".join(lines))
    scores = {"teachers": [{"kind": "run", "scores": str(tmp_path / "most.trec")}]}
    steps = run(config(sources, rounds=1, label=scores), tmp_path / "run")
    summary = read_json(steps["round-1/evaluate"].path / SUMMARY)
    assert [("teacher-1" in summary[split], "round-1" in summary[split]) for split in ("dev", "test")] == [
        (True, True), (False, True),
    ]  # fmt: skip


def test_positives_may_be_those_that_a_file_of_scores_names(sources, tmp_path):
    prepared = {"corpus": [json.loads(line) for line in (sources / "corpus.jsonl").read_text().splitlines()]}
    texts = [row["text"] for row in prepared["corpus"]]
    asked = [json.loads(line) for split in SPLITS for line in (sources / f"{split}.jsonl").read_text().splitlines()]
    lines = [
        {"query": one["question"], "pos": [texts[(i + 3) % 40]], "neg": [texts[i], texts[(i + 9) % 40]],
         "pos_scores": [1.0], "neg_scores": [2.0, -1.0]}
        for i, one in enumerate(asked)
    ]  # fmt: skip
    scores = write_lines(tmp_path / "scores.jsonl", lines)
    chosen = config(
        sources, rounds=1, label={"teachers": [{"kind": "run", "scores": str(scores)}]},
        distil={"objectives": [{"name": "bkl"}], "positives": "scores", "sample": "positive", "candidates": 3},
    )  # fmt: skip
    steps = run(chosen, tmp_path / "run", only=[*SEARCHED, "round-1/label", "round-1/distil"])
    job = Job(steps, accelerator(chosen.compute))
    labels = Run.read(steps["round-1/label"].path / LABELS)
    curation, kept = curated(job, steps["round-1/distil"], "train"), job.prepared.splits["train"][2]
    rows, values = labels.of(kept.id)
    found, _ = curation(Labelled(kept, rows, values, np.zeros(3, bool)))
    assert job.prepared.corpus.ids(found.passages[found.positive]) == ["p5"]


def test_files_of_scores_that_mark_no_positives_are_refused_before_any_search(sources, tmp_path):
    (tmp_path / "all.trec").write_text("".join(f"q{i} Q0 p{j} 1 {i + j}.5 t\n" for i in range(40) for j in range(4)))
    chosen = config(
        sources, rounds=1, label={"teachers": [{"kind": "run", "scores": str(tmp_path / "all.trec")}]},
        distil={"objectives": [{"name": "bkl"}], "positives": "scores"},
    )  # fmt: skip
    with pytest.raises(ValueError, match="the files of scores mark no positive"):
        run(chosen, tmp_path / "run", only=["prepare"])


def test_a_file_of_scores_that_is_made_later_does_not_stop_prepare(sources, tmp_path):
    chosen = config(sources, rounds=1, label={"teachers": [{"kind": "run", "scores": str(tmp_path / "later.trec")}]})
    assert run(chosen, tmp_path / "run", only=["prepare"])["prepare"].folder.state() == "done"


def test_candidates_may_come_in_a_file_for_each_split_that_number_their_questions_alike(sources, tmp_path):
    queries, listed = {}, {}
    for split in ("train", "dev"):
        rows = [json.loads(line) for line in (sources / f"{split}.jsonl").read_text().splitlines()]
        queries[split] = str(
            write_lines(tmp_path / f"{split}.jsonl", [{k: row[k] for k in ("question", "answers")} for row in rows])
        )
        ctxs = [[{"id": f"p{(SPLITS[split][i] + j) % 40}", "score": 3 - j} for j in range(3)] for i in range(len(rows))]
        lines = [
            {"question": row["question"], "answers": row["answers"], "ctxs": own}
            for row, own in zip(rows, ctxs, strict=True)
        ]
        listed[split] = str(write_lines(tmp_path / f"{split}-candidates.jsonl", lines))
    values = settings(sources, rounds=1, retrieve={"first": ["file"]}, evaluate={"measures": [], "headline": "has_answer@1"})
    values["prepare"] = {"corpus": values["prepare"]["corpus"], "queries": queries, "candidates": listed}
    steps = run(parse(values), tmp_path / "run", only=["prepare"])
    prepared, found = Prepared(steps["prepare"].path), Run.read(steps["prepare"].path / "candidates.parquet")
    assert prepared.splits["dev"][0].id == "dev-q0"
    for split in ("train", "dev"):
        for number, query in zip(SPLITS[split], prepared.splits[split], strict=True):
            assert prepared.corpus.ids(found.of(query.id)[0]) == [f"p{(number + j) % 40}" for j in range(3)]


def test_ranks_that_are_renewed_in_training_leave_those_of_dev_as_the_search_has_them(sources, tmp_path):
    chosen = config(
        sources, rounds=1, label={"teachers": [{"kind": "bm25"}]},
        distil={"objectives": [{"name": "ckl", "gamma": 2.0, "alpha": 1.0}], "ranks_every": 2, "sample": "positive"},
    )  # fmt: skip
    steps = run(chosen, tmp_path, only=[*SEARCHED, "round-1/label", "round-1/distil"])
    assert steps["round-1/distil"].folder.state() == "done"


def test_a_reader_is_judged_on_as_many_passages_as_it_was_chosen_on(copied, sources, monkeypatch):
    seen = []
    monkeypatch.setattr("retort.labelling.answer_groups", lambda reader, groups, *rest, **named: seen.extend(groups) or {})
    chosen = config(sources, label={"depth": 2}, read={"evaluate_passages": 5})
    run(chosen, copied, only=["round-1/read", "round-1/label"])
    assert {len(group.passages) for group in seen} == {5}


def test_a_student_is_trained_in_batches_of_one_topic(sources, tmp_path):
    chosen = config(
        sources, rounds=1, label={"teachers": [{"kind": "bm25"}, {"kind": "answers"}]},
        distil={"objectives": [{"name": "kl"}, {"name": "candidate_mass"}], "batches": "topics", "topics": 3},
    )  # fmt: skip
    steps = run(chosen, tmp_path, only=[*SEARCHED, "round-1/label", "round-1/distil"])
    assert steps["round-1/distil"].folder.manifest()["questions"] == 20


def test_a_card_names_every_teacher(sources):
    chosen = config(sources, label={"teachers": [{"kind": "fid"}, {"kind": "run", "scores": "my.trec"}]})
    named = teacher_names(chosen)
    assert named.startswith("Fusion-in-Decoder reader from")
    assert named.endswith("+ scores in `my.trec`, fused by z_score")


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"kind": "cross_encoder"}, "a cross_encoder teacher takes model"),
        ({"kind": "run", "model": "x", "scores": "y"}, "a run teacher takes scores: look at `model`"),
        ({"kind": "bm25", "model": "x"}, "a bm25 teacher takes neither model nor scores"),
    ],
)
def test_a_teacher_takes_what_its_kind_needs_and_nothing_else(teacher, message):
    with pytest.raises(ValueError, match=message):
        parse({"prepare": {"corpus": "c", "queries": {"train": "q"}}, "label": {"teachers": [teacher]}})


def test_train_questions_without_a_positive_are_not_searched_and_ungraded_test_questions_can_be_left_out(sources, tmp_path):
    (tmp_path / "train.qrels").write_text("".join(f"q{i} 0 p{i} 1\n" for i in range(5)))
    (tmp_path / "test.qrels").write_text("".join(f"q{i} 0 p{i} 1\n" for i in range(26, 30)))
    changes = {"positives": str(tmp_path / "train.qrels"), "qrels": {"test": str(tmp_path / "test.qrels")}}
    distil = {"objectives": [{"name": "bkl"}], "positives": "qrels"}
    chosen = config(sources, rounds=1, prepare={**changes, "ungraded": "drop"}, distil=distil)
    steps = run(chosen, tmp_path / "run", only=["prepare"])
    splits = Prepared(steps["prepare"].path).splits
    assert {split: len(queries) for split, queries in splits.items()} == {"train": 5, "dev": 6, "test": 4}
    assert steps["prepare"].folder.manifest()["questions without grades left out"] == 19
    with pytest.raises(ValueError, match="has no grades in the qrels"):
        run(config(sources, rounds=1, prepare=changes, distil=distil), tmp_path / "other", only=["prepare"])


RUN = Run.build("file", ["a", "b"], [[4, 2, 7], [1]], [[9.0, 5.0, 1.0], [3.0]])


def test_a_cut_keeps_positives_wherever_they_stand():
    found = cut(RUN, 1, {"a": np.array([7, 8], np.int32)})
    assert [values.tolist() for values in found.of("a")] == [[4, 7], [9.0, 1.0]]
    assert found.of("b")[0].tolist() == [1]


def test_positives_that_a_run_lacks_stand_at_its_lowest_score_or_at_0():
    found = with_positives(RUN, {"a": np.array([2, 8], np.int32), "c": np.array([5], np.int32)})
    assert [values.tolist() for values in found.of("a")] == [[4, 2, 7, 8], [9.0, 5.0, 1.0, 1.0]]
    assert [values.tolist() for values in found.of("c")] == [[5], [0.0]]


def test_a_file_beside_other_teachers_speaks_of_the_candidates_alone():
    found = within(RUN, Run.build("c", ["a", "c"], [[7, 4], [1]], [[2.0, 1.0], [1.0]]))
    assert [values.tolist() for values in found.of("a")] == [[4, 7], [9.0, 1.0]]
    assert found.of("c")[0].tolist() == []


def test_grades_of_train_questions_change_no_label_where_no_objective_asks_for_them(sources, tmp_path):
    (tmp_path / "train.qrels").write_text("".join(f"q{i} 0 p{(i + 17) % 40} 1\n" for i in range(20)))
    teachers = {"teachers": [{"kind": "bm25"}], "depth": 3}
    for name, prepare in (("without", {}), ("with", {"positives": str(tmp_path / "train.qrels")})):
        chosen = config(sources, rounds=1, prepare=prepare, label=teachers)
        run(chosen, tmp_path / name, only=[*SEARCHED, "round-1/label"])
    one, two = (Run.read(tmp_path / name / "round-1" / "label" / LABELS) for name in ("without", "with"))
    assert np.array_equal(one.passages, two.passages)


def test_scores_without_a_dev_question_are_refused_before_another_teacher_works(sources, tmp_path):
    (tmp_path / "train.trec").write_text("".join(f"q{i} Q0 p{j} 1 {i + j}.5 t\n" for i in range(20) for j in range(40)))
    teachers = [
        {"kind": "cross_encoder", "model": str(tiny_cross_encoder(tmp_path / "teacher")), "tokens": 48},
        {"kind": "run", "scores": str(tmp_path / "train.trec")},
    ]
    with pytest.raises(ValueError, match=r"train.trec scores two passages of none of the 6 dev questions"):
        run(config(sources, rounds=1, label={"teachers": teachers}), tmp_path / "run", only=[*SEARCHED, "round-1/label"])


def test_train_grades_of_another_collection_are_refused(sources, tmp_path):
    (tmp_path / "train.qrels").write_text("other 0 p1 1\n")
    distil = {"objectives": [{"name": "bkl"}], "positives": "qrels"}
    chosen = config(sources, rounds=1, prepare={"positives": str(tmp_path / "train.qrels")}, distil=distil)
    with pytest.raises(ValueError, match="grades none of the 20 train questions"):
        run(chosen, tmp_path / "run", only=["prepare"])


def test_a_reader_that_first_comes_in_a_later_round_starts_anew(sources, tmp_path):
    chosen = config(
        sources, read={"later_rounds": "continue"}, label={"teachers": [{"kind": "bm25"}]},
        overrides={2: {"label": {"teachers": [{"kind": "fid"}]}}},
    )  # fmt: skip
    steps = run(chosen, tmp_path)
    assert "round-1/read" not in steps
    assert steps["round-2/read"].folder.state() == "done"
    assert plan(chosen, tmp_path)["prepare"].config == chosen


def test_several_signals_of_the_reader_come_from_one_pass_and_are_fused(sources, tmp_path):
    fid = {"kind": "fid", "attention": {"exclude": ["question"]}}
    teachers = [{"kind": "answers"}, {"kind": "fid", "signal": "pdist"}, {"kind": "bm25"}, fid]
    chosen = config(sources, rounds=1, label={"teachers": teachers, "depth": 4})
    step = run(chosen, tmp_path / "all", only=[*SEARCHED, "round-1/read", "round-1/label"])["round-1/label"]
    for number in (1, 3):
        alone = config(sources, rounds=1, label={"teachers": [teachers[number]], "depth": 4})
        single = run(alone, tmp_path / str(number), only=[*SEARCHED, "round-1/read", "round-1/label"])["round-1/label"]
        found, wanted = Run.read(step.path / f"teacher-{number}.parquet"), Run.read(single.path / LABELS)
        assert list(found.query_ids) == list(wanted.query_ids)
        assert found.passages.tolist() == wanted.passages.tolist()
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)


def test_a_signal_that_reads_answers_needs_an_answer_to_every_question(sources, tmp_path):
    """Those of test are labelled too, to measure the teacher as a Run; it is said before anything is trained."""
    lines = [json.loads(line) for line in (sources / "test.jsonl").read_text().splitlines()]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({**line, "answers": []}) + "\n" for line in lines))
    chosen = config(
        sources, rounds=1, prepare={"queries": {"test": str(tmp_path / "test.jsonl")}},
        label={"teachers": [{"kind": "fid", "signal": "loop"}], "depth": 4},
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"test\.jsonl"):
        run(chosen, tmp_path / "run")
    assert not (tmp_path / "run" / "round-1").exists()
