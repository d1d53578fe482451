"""How the labels of a round come about; that any teacher's labels train any student is in test_matrix.py."""

import numpy as np
import pytest

from retort.config import parse
from retort.labelling import LABELS, as_ranked, teacher_names
from retort.pipeline import run
from retort.prepared import Prepared
from retort.records import Run
from tiny_run import config

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
