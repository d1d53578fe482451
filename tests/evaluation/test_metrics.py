import math

import numpy as np
import pytest

from retort.evaluation.metrics import PerQuery, answer_ranks, answer_scores, evaluate, hits_within
from retort.records import Corpus, Passage, Qrels, Query, Run
from retort.text import has_answer

TEXTS = ["snow is cold", "water is wet", "ice is cold water", "fire is hot", "sand is dry"]
CORPUS = Corpus.from_passages([Passage(f"p{i}", "water", text) for i, text in enumerate(TEXTS)])
QUERIES = [Query("q1", "what is wet", ("Water",)), Query("q2", "what is hot", ("fire", "lava"))]
RUN = Run.build("demo", ["q1", "q2"], [[0, 2, 1], [4, 0]], [[3.0, 2.0, 1.0], [2.0, 1.0]])


def values(run=RUN, *, queries=QUERIES, qrels=None, measure):
    result = evaluate(run, CORPUS, queries=queries, measures=[measure], qrels=qrels)
    return next(iter(result.measures.values())).tolist()


# ---- grades


def test_measures_have_the_values_worked_out_by_hand():
    qrels = Qrels({"q1": {"p1": 1, "p2": 2}, "q2": {"p3": 1}})
    found = evaluate(RUN, CORPUS, queries=QUERIES, measures=["nDCG@10", "R@2", "RR@10", "P@2"], qrels=qrels)
    ndcg = (2 / math.log2(3) + 1 / math.log2(4)) / (2 / math.log2(2) + 1 / math.log2(3))
    np.testing.assert_allclose(found.measures["nDCG@10"], [ndcg, 0.0], rtol=1e-12)
    assert found.measures["R@2"].tolist() == [0.5, 0.0]
    assert found.measures["RR@10"].tolist() == [0.5, 0.0]
    assert found.measures["P@2"].tolist() == [0.5, 0.0]


def test_results_keep_the_order_of_queries_and_measures():
    qrels = Qrels({"q1": {"p0": 1}, "q2": {"p3": 1}})
    found = evaluate(RUN, CORPUS, queries=QUERIES[::-1], measures=["has_answer@3", "R@1", "R@1"], qrels=qrels)
    assert (found.name, found.query_ids, list(found.measures)) == ("demo", ("q2", "q1"), ["has_answer@3", "R@1"])
    assert found.measures["R@1"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("measure", ["R@1", "RR", "RR@10", "nDCG@3", "AP", "Success@1", "ERR@3", "has_answer@1"])
def test_a_query_that_the_run_does_not_answer_counts_as_zero(measure):
    qrels = Qrels({"q1": {"p0": 1}, "q2": {"p4": 1}, "q3": {"p0": 1}})
    queries = [Query("q1", "", ("snow",)), Query("q3", "", ("snow",))]
    first, missing = values(queries=queries, qrels=qrels, measure=measure)
    assert first > 0
    assert missing == 0


def test_a_query_with_an_empty_list_counts_as_zero():
    run = Run.build("empty", ["q1", "q2"], [[], [0]], [[], [1.0]])
    qrels = Qrels({"q1": {"p0": 1}, "q2": {"p0": 1}})
    assert values(run, qrels=qrels, measure="R@5") == [0.0, 1.0]
    assert values(run, queries=[Query("q1", "", ("",)), QUERIES[1]], measure="has_answer@5") == [0.0, 0.0]


@pytest.mark.parametrize("grades", [{}, {"p0": 0}, {"p0": -1}])
@pytest.mark.parametrize("measure", ["R@1", "RR@10", "nDCG@10"])
def test_a_query_without_a_relevant_passage_counts_as_zero(grades, measure):
    assert values(queries=QUERIES[:1], qrels=Qrels({"q1": grades}), measure=measure) == [0.0]


@pytest.mark.parametrize(("measure", "value"), [("R@2", 1.0), ("R(rel=2)@2", 0.5)])
def test_a_grade_of_one_is_relevant_unless_the_name_asks_for_more(measure, value):
    qrels = Qrels({"q1": {"p0": 1, "p2": 2, "p3": 2}} if "rel" in measure else {"q1": {"p0": 1, "p2": 2}})
    assert values(queries=QUERIES[:1], qrels=qrels, measure=measure) == [value]


def test_relevant_passages_outside_the_corpus_still_count_as_not_found():
    qrels = Qrels({"q1": {"p0": 1, "elsewhere": 1}})
    assert values(queries=QUERIES[:1], qrels=qrels, measure="R@5") == [0.5]


# pytrec_eval orders equal scores by descending id, msmarco (RR@k) by ascending id: neither may touch the Run's order
@pytest.mark.parametrize("measure", ["R@1", "P@1", "nDCG@1", "RR", "RR@1", "Success@1", "ERR@1"])
@pytest.mark.parametrize("ids", [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"], ["1", "10", "2"]])
def test_the_order_of_equal_scores_is_the_order_of_the_run(measure, ids):
    corpus = Corpus.from_passages([Passage(i, "", "text") for i in ids])
    run = Run.build("ties", ["q"], [[2, 1, 0]], [[7.0, 7.0, 7.0]])
    for row, passage_id in enumerate(ids):
        qrels = Qrels({"q": {passage_id: 1}})
        found = evaluate(run, corpus, queries=[Query("q", "")], measures=[measure], qrels=qrels)
        value = found.means()[next(iter(found.measures))]
        if measure == "RR":
            assert value == pytest.approx(1 / (row + 1))
        else:
            assert (value > 0) == (row == 0)


def test_scores_that_differ_only_beyond_single_precision_keep_their_order():
    scores = np.array([16777216.0, 16777217.0], dtype=np.float32)  # equal once in float32, so corpus order
    run = Run.build("near", ["q1"], [[1, 0]], [scores])
    assert values(run, queries=QUERIES[:1], qrels=Qrels({"q1": {"p0": 1}}), measure="R@1") == [1.0]


def test_values_do_not_depend_on_the_order_of_the_queries():
    qrels = Qrels({"q1": {"p1": 1}, "q2": {"p0": 1}})
    names = ["nDCG@10", "RR@10", "has_answer@2"]
    one = evaluate(RUN, CORPUS, queries=QUERIES, measures=names, qrels=qrels)
    two = evaluate(RUN.select(["q2", "q1"]), CORPUS, queries=QUERIES[::-1], measures=names, qrels=qrels)
    for name in names:
        assert one.measures[name].tolist() == two.measures[name][::-1].tolist()


@pytest.mark.parametrize("names", [["nDCG@5", "nDCG(gains={1:5,2:0})@10"], ["nDCG(gains={1:5,2:0})@10", "nDCG@5"]])
def test_measures_asked_for_together_have_the_values_they_have_alone(names):
    qrels = Qrels({"q1": {"p0": 2, "p2": 1}})
    together = evaluate(RUN, CORPUS, queries=QUERIES[:1], measures=names, qrels=qrels).measures
    for name in names:
        assert together[name].tolist() == values(queries=QUERIES[:1], qrels=qrels, measure=name)


def test_ids_with_spaces_reach_every_provider():
    corpus = Corpus.from_passages([Passage("a b", "", "x"), Passage("c\td", "", "y")])
    run = Run.build("spaces", ["q 1"], [[1, 0]], [[2.0, 1.0]])
    qrels = Qrels({"q 1": {"c\td": 1, "a b": 0}})
    found = evaluate(run, corpus, queries=[Query("q 1", "")], measures=["ERR@5", "R@1"], qrels=qrels)
    assert found.means() == {"ERR@5": pytest.approx(1 / 16), "R@1": 1.0}  # gdeval: (2^grade - 1) / 2^4


# ---- answers


def test_the_rank_is_that_of_the_first_passage_with_an_answer():
    queries = [*QUERIES, Query("q9", "not in the run", ("snow",))]
    assert answer_ranks(RUN, CORPUS, queries=queries, depth=3).tolist() == [2, -1, -1]


def test_depth_ends_the_search_for_an_answer():
    assert answer_ranks(RUN, CORPUS, queries=QUERIES[:1], depth=1).tolist() == [-1]


def test_only_the_text_is_searched_and_not_the_title():
    assert values(queries=QUERIES[:1], measure="has_answer@1") == [0.0]  # every title is "water"


def test_has_answer_agrees_with_the_plain_function_for_every_depth():
    rng = np.random.default_rng(0)
    words = ["U.S.", "us", "10,000", "10", "Café", "cafe", "the", "snow", "Ünal", "-", "\u00a0", "don't"]
    texts = [" ".join(rng.choice(words, size=6)) for _ in range(40)]
    corpus = Corpus.from_passages([Passage(str(i), "", text) for i, text in enumerate(texts)])
    queries = [Query(f"q{i}", "", tuple(" ".join(rng.choice(words, size=2)) for _ in range(2))) for i in range(30)]
    lists = [rng.permutation(40)[:10].astype(np.int32) for _ in queries]
    run = Run.build("random", [query.id for query in queries], lists, [rng.random(10) for _ in queries])
    found = evaluate(run, corpus, queries=queries, measures=[f"has_answer@{k}" for k in (1, 3, 10)])
    for k in (1, 3, 10):
        slow = [any(has_answer(q.answers, texts[row]) for row in run.of(q.id)[0][:k]) for q in queries]
        assert found.measures[f"has_answer@{k}"].tolist() == slow
        assert 0 < sum(slow) < len(slow)


def test_each_passage_is_read_once_however_many_queries_share_it(monkeypatch):
    read = []
    plain = Corpus.__getitem__
    monkeypatch.setattr(Corpus, "__getitem__", lambda corpus, row: (read.append(row), plain(corpus, row))[1])
    queries = [Query(f"q{i}", "", ("nothing of the kind",)) for i in range(4)]
    run = Run.build("shared", [query.id for query in queries], [[0, 1, 2]] * 4, [[3.0, 2.0, 1.0]] * 4)
    answer_ranks(run, CORPUS, queries=queries, depth=3)
    assert sorted(read) == [0, 1, 2]


def test_hits_never_fall_with_a_greater_k():
    ranks = np.array([1, 4, -1, 9])
    hits = np.stack([hits_within(ranks, k) for k in range(1, 11)])
    assert (np.diff(hits, axis=0) >= 0).all()
    assert hits[-1].tolist() == [1, 1, 0, 1]


def test_em_and_f1_of_a_reader_have_the_values_worked_out_by_hand():
    queries = [Query("a", "", ("The Beatles", "Wings")), Query("b", "", ("blue house",)), Query("c", "", ("x",))]
    found = answer_scores({"a": "beatles!", "b": "the tall blue house"}, queries=queries, name="fid")
    assert found.measures["EM"].tolist() == [1.0, 0.0, 0.0]
    assert found.measures["F1"].tolist() == [1.0, 0.8, 0.0]
    assert (found.name, found.query_ids) == ("fid", ("a", "b", "c"))


def test_a_query_without_a_prediction_counts_as_zero_even_where_its_answer_normalises_to_nothing():
    queries = [Query("a", "", ("the",)), Query("b", "", ("x",))]
    assert answer_scores({"b": "x"}, queries=queries).measures["EM"].tolist() == [0.0, 1.0]


# ---- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": []}, "no queries"),
        ({"queries": [Query("other", "", ("x",))]}, "none of the 1 queries is in run 'demo', not even 'other'"),
        ({"measures": []}, "no measure"),
        ({"measures": ["has_answer@0"]}, "has_answer@0"),
        ({"measures": ["R@1"]}, "'R@1' needs qrels"),
        ({"measures": ["R@1"], "qrels": Qrels({"q1": {"p0": 1}})}, "query 'q2' has no grades.*1 of 2"),
        ({"queries": [QUERIES[0], Query("q2", "")]}, "query 'q2' has no answers.*1 of 2"),
        ({"queries": [QUERIES[0], QUERIES[0]]}, "'q1' twice"),
        ({"corpus": Corpus.from_passages([Passage("p0", "", "x")])}, "rows 0 to 4.*corpus of 1 passages"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(change, message):
    given = {"corpus": CORPUS, "queries": QUERIES, "measures": ["has_answer@5"], "qrels": None} | change
    with pytest.raises(ValueError, match=message):
        evaluate(RUN, **given)


def test_a_depth_below_one_is_refused():
    with pytest.raises(ValueError, match="depth 0"):
        answer_ranks(RUN, CORPUS, queries=QUERIES, depth=0)


@pytest.mark.parametrize(
    ("predictions", "queries", "message"),
    [
        ({"x": "y"}, QUERIES, "none of the 2 queries is in the predictions of 'reader'"),
        ({"q1": "y"}, [], "no queries"),
        ({"q1": "y"}, [Query("q1", "")], "query 'q1' has no answers"),
    ],
)
def test_predictions_that_cannot_be_judged_are_refused(predictions, queries, message):
    with pytest.raises(ValueError, match=message):
        answer_scores(predictions, queries=queries)


# ---- the table of values


def test_reading_what_was_written_is_the_identity(tmp_path):
    result = PerQuery("bm25 ü", ("q 1", "q2"), {"R@5": np.array([1.0, 1 / 3]), "nDCG(judged_only=True)@10": np.zeros(2)})
    result.write(tmp_path / "values.parquet")
    again = PerQuery.read(tmp_path / "values.parquet")
    assert (again.name, again.query_ids, list(again.measures)) == (result.name, result.query_ids, list(result.measures))
    for measure, kept in result.measures.items():
        assert again.measures[measure].tolist() == kept.tolist()


def test_selected_queries_come_in_the_order_asked_for():
    result = PerQuery("x", ("a", "b", "c"), {"m": np.array([1.0, 2.0, 3.0])})
    assert result.select(["c", "a"]).measures["m"].tolist() == [3.0, 1.0]
    with pytest.raises(ValueError, match="no value for query 'z'"):
        result.select(["a", "z"])


def test_means_are_over_queries():
    assert PerQuery("x", ("a", "b", "c"), {"m": np.array([1.0, 2.0, 6.0])}).means() == {"m": 3.0}


@pytest.mark.parametrize(
    ("query_ids", "kept", "message"),
    [
        ((), [], "no queries"),
        (("a", "a"), [0.0, 1.0], "'a' twice"),
        (("a", "b"), [0.0], r"shape \(1,\), expected \(2,\)"),
        (("a", "b"), [0.0, math.nan], "m of query 'b' is nan"),
    ],
)
def test_a_table_that_would_mislead_is_refused(query_ids, kept, message):
    with pytest.raises(ValueError, match=message):
        PerQuery("x", query_ids, {"m": np.array(kept)})
