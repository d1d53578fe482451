import numpy as np
import pytest
from scipy.stats import kendalltau

from retort.evaluation.agreement import agreement, count_inversions, run_agreement
from retort.records import Run

HAND = {  # methods 9.5: candidates sorted by gold, best first
    "inversions": 16.0,
    "avg_topk@1": 0.0,
    "idx_topk@1": 3.0,
    "avg_topk@2": 0.0,
    "idx_topk@2": 7.0,
    "avg_topk@5": pytest.approx(0.8),
    "idx_topk@5": 7.0,
}


def hand_example():
    student = np.random.RandomState(0).standard_normal(10)  # the generator of the oracle
    return student, np.arange(10, 0, -1).astype(np.float64)


def slow_inversions(order):
    return sum(order[i] > order[j] for i in range(len(order)) for j in range(i + 1, len(order)))


def test_the_hand_example_of_the_paper_code_is_met():
    assert agreement(*hand_example()) == HAND


def test_candidates_may_come_in_any_order():
    student, teacher = hand_example()
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(10)
        assert agreement(student[order], teacher[order]) == HAND


def test_only_the_order_of_the_scores_matters():
    student, teacher = hand_example()
    assert agreement(np.exp(student), 100 * teacher - 7) == HAND


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 8, 9, 31, 100])
def test_inversions_equal_the_count_over_all_pairs(length):
    rng = np.random.default_rng(length)
    for order in (rng.permutation(length), rng.integers(0, 5, size=length)):
        assert count_inversions(order) == slow_inversions(order.tolist())


def test_inversions_are_zero_for_the_same_order_and_all_pairs_for_the_reverse():
    teacher = np.arange(100.0)
    assert agreement(teacher, teacher)["inversions"] == 0
    assert agreement(-teacher, teacher)["inversions"] == 4950


def test_without_ties_inversions_are_those_of_kendalls_tau():
    rng = np.random.default_rng(3)
    student, teacher = rng.standard_normal((2, 60))
    pairs = 60 * 59 / 2
    assert 1 - 2 * agreement(student, teacher)["inversions"] / pairs == pytest.approx(kendalltau(student, teacher)[0])


def test_full_agreement_has_its_best_values():
    scores = np.random.default_rng(0).standard_normal(8)
    found = agreement(scores, 2 * scores, depths=(1, 2, 5))
    assert found == {
        "inversions": 0, "avg_topk@1": 1, "idx_topk@1": 1, "avg_topk@2": 1, "idx_topk@2": 2, "avg_topk@5": 1, "idx_topk@5": 5
    }  # fmt: skip


def test_a_student_without_preferences_counts_as_the_worst_order():
    found = agreement(np.zeros(5), np.arange(5.0), depths=(1,))
    assert found == {"inversions": 10.0, "avg_topk@1": 0.0, "idx_topk@1": 5.0}


def test_passages_that_the_teacher_ties_make_no_inversion_in_any_order():
    teacher = np.array([2.0, 1.0, 1.0])
    for student in (np.array([3.0, 2.0, 1.0]), np.array([3.0, 1.0, 2.0])):
        assert agreement(student, teacher, depths=(2,)) == {"inversions": 0.0, "avg_topk@2": 1.0, "idx_topk@2": 3.0}


def test_a_depth_beyond_the_candidates_is_left_out():
    assert list(agreement(np.array([1.0, 2.0]), np.array([1.0, 2.0]), depths=(2, 3))) == [
        "inversions",
        "avg_topk@2",
        "idx_topk@2",
    ]


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ([1.0, 2.0], [0.5, 0.5], "all 0.5.*unlabelled"),
        ([1.0], [0.5], "the 1 candidates are all 0.5"),
        ([], [], "the 0 candidates are none"),
        ([1.0, 2.0], [0.5, np.nan], "teacher's score of candidate 1 is nan"),
        ([1.0, np.inf], [0.5, 1.0], "student's score of candidate 1 is inf"),
    ],
)
def test_candidates_without_labels_are_refused(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        agreement(np.array(student), np.array(teacher))


def test_a_depth_below_one_is_refused():
    with pytest.raises(ValueError, match="depths"):
        agreement(np.arange(3.0), np.arange(3.0), depths=(0, 1))


def test_runs_are_aligned_by_passage_and_keep_the_queries_of_the_teacher():
    student = Run.build("student", ["b", "a", "more"], [[7, 8], [1, 2, 3], [1]], [[1.0, 2.0], [3.0, 2.0, 1.0], [0.0]])
    teacher = Run.build("labels", ["a", "b"], [[3, 2, 1], [8, 7]], [[1.0, 2.0, 3.0], [1.0, 2.0]])
    found = run_agreement(student, teacher, depths=(1, 3))
    assert (found.name, found.query_ids) == ("student", ("a", "b"))
    assert {m: v.tolist() for m, v in found.measures.items()} == {
        "inversions": [0.0, 1.0],
        "avg_topk@1": [1.0, 0.0],
        "idx_topk@1": [1.0, 2.0],
    }


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (("b", [1, 2], [1.0, 2.0]), ("a", [1, 2], [1.0, 2.0]), "'student' lacks query 'a'"),
        (("a", [1, 2], [1.0, 2.0]), ("a", [1, 3], [1.0, 2.0]), "not the 2 of 'labels'"),
        (("a", [1, 2], [1.0, 2.0]), ("a", [1, 2], [1.0, 1.0]), "query 'a' of 'labels': .*unlabelled"),
    ],
)
def test_runs_over_other_pairs_or_without_labels_are_refused_by_query(student, teacher, message):
    runs = [Run.build(name, [q], [rows], [s]) for name, (q, rows, s) in (("student", student), ("labels", teacher))]
    with pytest.raises(ValueError, match=message):
        run_agreement(*runs)
