from itertools import product

import numpy as np
import pytest
from scipy import stats

from retort.evaluation.audit_order import (
    agreement_with,
    answer_flags,
    answers,
    length_bias,
    passage_lengths,
    scores_in,
)
from retort.records import Corpus, Passage, Query, Run

TEXTS = ("red apple", "a green pear", "blue", "an apple of another kind")


def corpus():
    return Corpus.from_passages(Passage(f"p{i}", "apple", text) for i, text in enumerate(TEXTS))


def run(name, *lists):
    """A Run from one {row: score} for each query."""
    ids = [f"q{i}" for i in range(len(lists))]
    return Run.build(name, ids, [list(one) for one in lists], [[float(score) for score in one.values()] for one in lists])


def flagged(labels, held):
    return {query_id: np.isin(rows, list(held[query_id])) for query_id, rows, _ in labels if query_id in held}


def test_flags_say_which_candidates_text_holds_an_answer():
    labels = run("teacher", {1: 3, 0: 2, 3: 1}, {0: 1}, {2: 1})
    queries = [Query("q0", "", ("apple", "pear")), Query("q1", ""), Query("q2", "", ("apple",)), Query("none", "", ("x",))]
    found = answer_flags(labels, corpus(), queries=queries)
    assert {query_id: held.tolist() for query_id, held in found.items()} == {"q0": [True] * 3, "q2": [False]}


def test_flags_of_many_queries_are_made_for_evenly_taken_ones():
    labels = run("teacher", *[{0: 1}] * 9)
    queries = [Query(f"q{i}", "", ("apple",)) for i in range(9)]
    assert list(answer_flags(labels, corpus(), queries=queries, most=3)) == ["q0", "q4", "q8"]
    assert answer_flags(labels, corpus(), queries=[]) == {}


def test_lengths_are_the_characters_of_the_text():
    assert passage_lengths(run("teacher", {3: 2, 0: 1}, {0: 1}), corpus()).tolist() == [24, 9, 9]


def test_scores_are_found_by_query_and_passage_in_any_order():
    labels = run("teacher", {5: 3, 7: 2}, {5: 1}, {})
    other = Run.build("other", ["q1", "new", "q0"], [[5, 7], [5], [7]], [[0.5, 0.4], [9.0], [0.25]])
    np.testing.assert_array_equal(scores_in(other, labels), [np.nan, 0.25, 0.5])
    assert np.isnan(scores_in(Run.build("empty", [], [], []), labels)).all()


def test_answers_are_those_worked_by_hand():
    labels = run("teacher", {0: 3, 1: 2, 2: 1}, {0: 3, 1: 2, 2: 1}, {0: 2, 1: 1}, {0: 1, 1: 0})
    found = answers(labels, flagged(labels, {"q0": [0], "q1": [1, 2], "q2": [0, 1]}))
    order = found.orders[0]
    assert (found.queries, found.mixed) == (3, 2)  # q2 holds an answer in every candidate, q3 has none
    assert (order.above.mean, order.top, order.last) == (0.5, 0.5, 0.5)  # q0 has 2 of 2 pairs, q1 none of 2
    assert found.chance == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert found.p == pytest.approx(1.0)
    assert found.reversed_p == 0.75  # one query for and one against: 1/4 + 1/2


def test_the_p_of_the_first_candidates_equals_the_count_over_all_orders():
    lists = [{0: 3, 1: 2, 2: 1}, {0: 4, 1: 3, 2: 2, 3: 1}, {0: 2, 1: 1}]
    labels = run("teacher", *lists)
    found = answers(labels, flagged(labels, {"q0": [0], "q1": [0], "q2": [0]}))
    firsts = product(*([True] + [False] * (len(one) - 1) for one in lists))
    assert found.p == pytest.approx(2 * np.mean([sum(first) == 3 for first in firsts]))


def test_turning_the_scores_turns_the_shares():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((20, 8))
    held = {f"q{i}": np.flatnonzero(rng.random(8) < 0.4) for i in range(20)}
    found = []
    for signed in (scores, -scores):
        labels = run("teacher", *(dict(enumerate(row)) for row in signed))
        found.append(answers(labels, flagged(labels, held)))
    one, other = (each.orders[0] for each in found)
    assert one.above.mean == pytest.approx(1 - other.above.mean)
    assert (one.top, one.last) == (other.last, other.top)
    assert found[0].chance == found[1].chance


def test_other_orders_are_judged_on_the_same_candidates_and_what_they_lack_stands_last():
    labels = run("teacher", {0: 4, 1: 3, 2: 2, 3: 1})
    flags = flagged(labels, {"q0": [3]})
    found = answers(labels, flags, lengths=np.array([10, 30, 20, 40]), others=[run("bm25", {3: 0.1, 9: 5.0})])
    above = {order.name: order.above.mean for order in found.orders}
    assert above == {"teacher": 0.0, "longest first": 1.0, "bm25": 1.0}


def test_nothing_is_left_of_an_order_by_length_beyond_length():
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 10**6, (30, 9))
    labels = run("teacher", *(dict(enumerate(row)) for row in lengths))
    flags = flagged(labels, {f"q{i}": rng.choice(9, 3, replace=False) for i in range(30)})
    flat = np.concatenate([row[labels.of(f"q{i}")[0]] for i, row in enumerate(lengths)])
    assert answers(labels, flags, lengths=flat).beyond_length.mean == 0.5


def test_without_flags_there_are_no_answers_and_without_mixed_queries_no_means():
    labels = run("teacher", {0: 2, 1: 1})
    assert answers(labels, {}) is None
    found = answers(labels, flagged(labels, {"q0": []}))
    assert (found.queries, found.mixed) == (1, 0)
    assert np.isnan([found.p, found.orders[0].top]).all()


def test_flags_of_other_candidates_are_refused():
    for flags in ({"q0": np.array([True])}, {"q9": np.array([True, False])}):
        with pytest.raises(ValueError, match=r"q\d' has \d answer flags"):
            answers(run("teacher", {0: 2, 1: 1}), flags)


def test_agreement_is_kendalls_tau_over_shared_candidates():
    rng = np.random.default_rng(2)
    scores, theirs = rng.standard_normal((2, 12, 10))
    labels = run("teacher", *(dict(enumerate(row)) for row in scores))
    other = run("bm25", *(dict(list(enumerate(row))[:6]) for row in theirs))
    found = agreement_with(other, labels)
    wanted = np.mean([stats.kendalltau(a[:6], b[:6]).statistic for a, b in zip(scores, theirs, strict=True)])
    assert (found.tau.mean, found.shared, found.tau.queries) == (pytest.approx(wanted), pytest.approx(0.6), 12)


def test_agreement_says_how_many_candidates_the_other_run_chose():
    labels = run("teacher", {0: 2, 1: 1}, {0: 2, 1: 1}, {})
    other = run("bm25", {5: 9, 1: 8, 0: 7}, {1: 5})
    found = agreement_with(other, labels)
    assert (found.shared, found.first) == (0.75, 0.5)  # q0: passage 1 is second, passage 0 third; q1: passage 1 is first


def test_only_the_first_hundred_labels_are_compared():
    labels = run("teacher", {row: -row for row in range(150)})
    other = run("bm25", {row: -row if row < 100 else row for row in range(150)})
    assert agreement_with(other, labels).tau.mean == 1.0


def test_length_bias_is_spearmans_rho_and_unknown_scores_are_left_out():
    labels = run("teacher", {0: 3, 1: 2, 2: 1}, {0: 1, 1: 0})
    scores = labels.scores.astype(float)
    assert length_bias("teacher", scores, np.array([9, 5, 1, 1, 2]), labels.starts).rho.mean == 0.0  # 1 and -1
    scores[3] = np.nan
    assert length_bias("teacher", scores, np.array([9, 5, 1, 1, 2]), labels.starts).rho.queries == 1
