import numpy as np
import pytest

from retort.distil.batches import examples, make_batch
from retort.distil.curation import (
    ABOVE,
    CONSTANT,
    FEW,
    NO_NEGATIVE,
    NO_POSITIVE,
    OUTSIDE,
    Curation,
    answer_bearing,
    graded,
    positive_rows,
)
from retort.distil.sampling import Labelled
from retort.records import Corpus, Passage, Qrels, Query, Run

CORPUS = Corpus.from_passages(Passage(f"p{i}", "snow", text) for i, text in enumerate(["ice", "snow falls", "rain", "snow"]))
QUERY = Query("q", "what falls", ("snow",))


def listed(scores=(4, 3, 2, 1), positive=(False,) * 4, rows=(0, 1, 2, 3)):
    return Labelled(QUERY, np.array(rows, np.int32), np.array(scores, np.float32), np.array(positive))


def given(run):
    return Run.build("student", ["q"], [run], [np.arange(len(run), 0, -1, dtype=np.float32)])


def test_answers_mark_passages_by_their_text_and_not_by_their_title():
    assert answer_bearing(CORPUS)(QUERY, np.arange(4, dtype=np.int32)).tolist() == [False, True, False, True]


def test_grades_above_zero_mark_passages():
    rows = positive_rows(Qrels({"q": {"p2": 1, "p0": 0}, "none": {"p3": 0}, "other": {"p1": 2, "p0": 1}}), CORPUS)
    assert {query: found.tolist() for query, found in rows.items()} == {"q": [2], "none": [], "other": [1, 0]}
    mark = graded(rows)
    assert mark(QUERY, np.array([2, 0, 1], np.int32)).tolist() == [True, False, False]
    assert mark(Query("unknown", "x"), np.array([2], np.int32)).tolist() == [False]
    assert positive_rows(Qrels({}), CORPUS) == {}


def test_ranks_count_from_one_and_missing_candidates_rank_behind_the_last():
    kept, _ = Curation(ranking=given([3, 1]))(listed())
    assert kept.ranks.tolist() == [3, 2, 3, 1]


def test_a_query_that_the_ranking_lacks_has_all_candidates_at_rank_one():
    empty = Run.build("student", ["other"], [[0]], [[1.0]])
    assert Curation(ranking=empty)(listed())[0].ranks.tolist() == [1, 1, 1, 1]


def test_only_negatives_of_the_window_stay_and_positives_stay_wherever_they_are():
    mark = answer_bearing(CORPUS)
    kept, removed = Curation(mark=mark, shortlist=given([2, 0, 1]), window=1)(listed())
    assert kept.passages.tolist() == [1, 2, 3]
    assert removed == {OUTSIDE: 1}


def test_negatives_next_to_or_above_the_best_positive_are_left_out():
    kept, removed = Curation(mark=answer_bearing(CORPUS), teacher_margin=0.5)(listed(scores=(9, 3, 2, 1)))
    assert kept.passages.tolist() == [1, 2, 3]  # 9 is above 3 - 0.5, and 2 is not
    assert removed == {ABOVE: 1}


@pytest.mark.parametrize(
    ("labelled", "mark", "reason"),
    [
        (listed(scores=(1,), positive=(False,), rows=(0,)), None, FEW),
        (listed(scores=(1, 1, 1, 1)), None, CONSTANT),
        (listed(scores=(2, 1), positive=(False, False), rows=(0, 2)), answer_bearing(CORPUS), NO_POSITIVE),
        (listed(scores=(2, 1), positive=(False, False), rows=(1, 3)), answer_bearing(CORPUS), NO_NEGATIVE),
    ],
)
def test_what_cannot_be_trained_on_says_why(labelled, mark, reason):
    assert Curation(mark=mark)(labelled)[0] == reason


def test_examples_count_what_was_dropped_and_removed_and_batches_carry_positives_and_ranks():
    labels = Run.build("teacher", ["q", "r"], [[0, 1, 2, 3], [0, 2]], [[4.0, 3.0, 2.0, 1.0], [2.0, 1.0]])
    queries = [QUERY, Query("r", "none", ("hail",))]
    curation = Curation(mark=answer_bearing(CORPUS), ranking=given([3, 1]), shortlist=given([0, 1]), window=2)
    data = examples(labels, queries, CORPUS, curation)
    assert (data.dropped, data.removed) == ({FEW: 1}, {OUTSIDE: 3})
    batch = make_batch(data.kept, CORPUS, step=7)
    assert (batch.positive.tolist(), batch.ranks.tolist(), batch.step) == ([[False, True, True]], [[3, 2, 1]], 7)
