from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from retort.prepared import CORPUS, Prepared, distinct, limited, write_prepared
from retort.records import Corpus, Passage, Qrels, Query, Run

SPLITS = {
    "train": [Query("a", "who?", ("the king",), "a king"), Query("b", "why?", ("snow", "rain"))],
    "dev": [Query("c", "where?", ("house",))],
}
QRELS = {"dev": Qrels({"c": {"p1": 2, "p0": 0}})}


@pytest.fixture
def prepared(tmp_path) -> Prepared:
    passages = [Passage("p0", "", "the queen"), Passage("p1", "", "a house of snow"), Passage("p2", "", "the King")]
    Corpus.write(tmp_path / CORPUS, passages)
    write_prepared(tmp_path, SPLITS, QRELS)
    return Prepared(tmp_path)


def test_questions_come_back_by_split_in_their_order(prepared):
    assert prepared.splits == SPLITS
    assert prepared.queries == [*SPLITS["train"], *SPLITS["dev"]]


def test_questions_of_a_folder_without_the_column_of_targets_have_none(prepared):
    path = prepared.folder / "queries.parquet"
    pq.write_table(pq.read_table(path).drop_columns("target"), path)
    assert prepared.queries == [replace(query, target=None) for query in (*SPLITS["train"], *SPLITS["dev"])]


def test_grades_come_back_by_split(prepared):
    assert prepared.qrels("dev") == QRELS["dev"]


def test_a_split_without_grades_has_none(prepared):
    assert prepared.qrels("test") is None


def test_no_grades_at_all_are_none(tmp_path):
    write_prepared(tmp_path, SPLITS, {})
    assert Prepared(tmp_path).qrels("dev") is None


def test_the_same_content_gives_the_same_bytes(prepared, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_prepared(other, SPLITS, QRELS)
    for name in ("queries.parquet", "qrels.parquet"):
        assert (other / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_group_holds_the_first_candidates_best_first(prepared):
    run = Run.build("run", ["a", "b"], [[0, 2, 1], [1]], [[1.0, 3.0, 2.0], [1.0]])
    groups = prepared.groups(run, SPLITS["train"], 2)
    assert [[passage.id for passage in group.passages] for group in groups] == [["p2", "p1"], ["p1"]]
    assert [group.query for group in groups] == SPLITS["train"]


def test_a_question_that_the_candidates_lack_has_an_empty_group(prepared):
    run = Run.build("run", ["a"], [[0]], [[1.0]])
    assert [group.passages for group in prepared.groups(run, SPLITS["dev"], 5)] == [()]


def test_answered_keeps_the_questions_of_which_a_candidate_holds_an_answer(prepared):
    run = Run.build("labels", ["a", "b", "c"], [[0, 2], [0, 2], [1]], [[1.0, 0.5], [1.0, 0.5], [1.0]])
    kept = prepared.answered(run)
    assert kept.query_ids == ("a", "c")  # "The King" stands in p2; neither snow nor rain in p0 and p2
    assert kept.of("a")[1].tolist() == [1.0, 0.5]


# --- ids that are unique over all splits


def test_ids_that_are_unique_stay_as_they_are():
    assert distinct(SPLITS, QRELS) == (SPLITS, QRELS)


def test_ids_that_splits_share_get_the_name_of_their_split_in_questions_and_grades():
    splits = {"train": [Query("q0", "who?")], "dev": [Query("q0", "why?"), Query("q1", "where?")]}
    named, qrels = distinct(splits, {"dev": Qrels({"q0": {"p": 1}})})
    assert {split: [query.id for query in queries] for split, queries in named.items()} == {
        "train": ["train-q0"],
        "dev": ["dev-q0", "dev-q1"],
    }
    assert qrels["dev"].grades == {"dev-q0": {"p": 1}}
    assert [query.text for query in named["dev"]] == ["why?", "where?"]


def test_one_question_under_one_id_in_two_splits_is_refused():
    splits = {"train": [Query("q0", "who?")], "test": [Query("q0", "who?")]}
    with pytest.raises(
        ValueError, match=r"'q0' \('who\?'\) stands in train and in test, expected different questions .*: take"
    ):
        distinct(splits, {})


# --- a part of the questions


def test_limited_keeps_that_many_in_their_order():
    queries = [Query(f"q{i}", "") for i in range(50)]
    kept = limited(queries, 7)
    assert len(kept) == 7
    assert kept == [query for query in queries if query in kept]


def test_limited_draws_the_same_questions_whatever_their_order_and_more_of_them_where_more_are_asked_for():
    queries = [Query(f"q{i}", "") for i in range(50)]
    shuffled = [queries[i] for i in np.random.default_rng(0).permutation(50)]
    assert set(limited(queries, 7)) == set(limited(shuffled, 7)) < set(limited(queries, 8))


@pytest.mark.parametrize("count", [None, 3, 9])
def test_no_limit_or_a_high_one_keeps_all(count):
    queries = [Query(f"q{i}", "") for i in range(3)]
    assert limited(queries, count) == queries
