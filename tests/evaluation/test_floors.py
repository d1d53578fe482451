import numpy as np
import pytest

from retort.evaluation.floors import answer_floors, random_run
from retort.evaluation.metrics import evaluate
from retort.records import Corpus, Passage, Query, Run

COUNT = 40
CORPUS = Corpus.from_passages([Passage(f"p{i}", "", f"the fact number{i} stands") for i in range(COUNT)])
RUN = Run.build("perfect", [f"q{i}" for i in range(COUNT)], [[i] for i in range(COUNT)], [[1.0]] * COUNT)
OWN = [Query(f"q{i}", "", (f"number{i}",)) for i in range(COUNT)]
TRIVIAL = [Query(f"q{i}", "", ("the",)) for i in range(COUNT)]


def floors(queries, *, measures=("has_answer@1",), seed=0, **options):
    return answer_floors(RUN, CORPUS, queries=queries, measures=measures, rng=np.random.default_rng(seed), **options)


def test_answers_that_only_their_own_passage_holds_have_a_low_floor_under_a_perfect_run():
    found = floors(OWN)
    assert evaluate(RUN, CORPUS, queries=OWN, measures=["has_answer@1"]).means() == {"has_answer@1": 1.0}
    assert found["shuffled answers"].means() == {"has_answer@1": 0.0}  # no question is ever given its own answers
    assert found["random passages"].means()["has_answer@1"] < 0.2


def test_trivial_answers_show_as_floors_of_one():
    assert [floor.means() for floor in floors(TRIVIAL).values()] == [{"has_answer@1": 1.0}] * 2


def test_random_passages_hit_as_often_as_chance_says():
    run = random_run(CORPUS, queries=[Query(str(i), "") for i in range(2000)], depth=10, rng=np.random.default_rng(1))
    queries = [Query(str(i), "", (f"number{i % COUNT}",)) for i in range(2000)]
    share = evaluate(run, CORPUS, queries=queries, measures=["has_answer@10"]).means()["has_answer@10"]
    assert share == pytest.approx(10 / COUNT, abs=0.04)  # four standard errors


def test_shuffled_values_are_shares_of_the_draws():
    queries = TRIVIAL[:20] + [Query(f"q{i}", "", ("absent",)) for i in range(20, COUNT)]
    values = floors(queries, shuffles=4)["shuffled answers"].measures["has_answer@1"]
    assert set(values * 4) <= {0, 1, 2, 3, 4}
    assert values.mean() == pytest.approx(0.5)  # each draw hands every answer on once


def test_a_random_run_has_no_passage_twice_and_at_most_the_corpus():
    run = random_run(CORPUS, queries=OWN[:3], depth=COUNT + 5, rng=np.random.default_rng(0))
    for _, rows, _ in run:
        assert sorted(rows.tolist()) == list(range(COUNT))


def test_the_same_seed_gives_the_same_floors():
    one, two = (floors(OWN[:20] + TRIVIAL[20:], seed=5)["shuffled answers"] for _ in range(2))
    assert one.measures["has_answer@1"].tolist() == two.measures["has_answer@1"].tolist()


def test_floors_stand_for_the_has_answer_measures_only():
    found = floors(OWN, measures=["nDCG@10", "has_answer@1", "has_answer@5"])
    assert list(found["random passages"].measures) == ["has_answer@1", "has_answer@5"]
    assert floors(OWN, measures=["nDCG@10"]) == {}


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        (OWN[:1], {}, "found 1 query, expected at least 2"),
        ([OWN[0], Query("q1", "")], {}, "query 'q1' has no answers"),
        ([], {}, "no queries"),
        (OWN, {"shuffles": 0}, "0 shuffles"),
    ],
)
def test_floors_that_mean_nothing_are_refused(queries, options, message):
    with pytest.raises(ValueError, match=message):
        floors(queries, **options)
