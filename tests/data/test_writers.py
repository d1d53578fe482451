"""Writers: what is written reads back the same."""

import json

import numpy as np
import pytest

from retort.data import (
    read_candidates,
    read_corpus,
    read_qrels,
    read_queries,
    write_beir,
    write_fid_json,
    write_trec_qrels,
    write_trec_run,
)
from retort.records import Corpus, Passage, Qrels, Query, Run

PASSAGES = [
    Passage(f"p{i}", "" if i % 2 else 'A "title"', text)
    for i, text in enumerate(
        ["  spaces ", "tab\tand\r\nlines\n", "\u2028 ünï 漢 \U0001f600", 'quotes " and \\', "the U.S. army"]
    )
]
CORPUS = Corpus.from_passages(PASSAGES)
QUERIES = [Query("a", ' "who"\n\u2028 ', ("U.S.", "[x]"), "[x]"), Query("b", "why", ()), Query("c", "how", ("漢",), " ünï")]


def drawn(name, seed=0):
    rng = np.random.default_rng(seed)
    depths = (5, 0, 3)
    passages = [rng.choice(5, depth, replace=False) for depth in depths]
    return Run.build(name, [q.id for q in QUERIES], passages, [rng.normal(size=depth) / 3 for depth in depths])


def same(left, right):
    return (
        left.query_ids == right.query_ids
        and np.array_equal(left.starts, right.starts)
        and np.array_equal(left.passages, right.passages)
        and np.array_equal(left.scores, right.scores)
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_trec_run_reads_back_the_same_to_the_last_bit(tmp_path, seed):
    run = drawn("bm25", seed)
    write_trec_run(run, CORPUS, tmp_path / "run.txt")
    back = read_candidates(str(tmp_path / "run.txt"), QUERIES, CORPUS)
    assert same(back, run)
    assert back.name == "bm25"


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("labels_as_score", [True, False])
def test_fid_data_reads_back_the_same_run_queries_and_passages(tmp_path, ending, labels_as_score):
    run, path = drawn("fid"), tmp_path / f"fid.{ending}"
    write_fid_json(run, CORPUS, QUERIES, path, labels_as_score)
    assert same(read_candidates(str(path), QUERIES, CORPUS), run)
    assert read_queries(str(path)) == QUERIES
    assert sorted(read_corpus(str(path)), key=lambda p: p.id) == PASSAGES


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_fid_data_written_again_has_the_same_bytes(tmp_path, ending):
    first, second = tmp_path / f"first.{ending}", tmp_path / f"second.{ending}"
    write_fid_json(drawn("fid"), CORPUS, QUERIES, first)
    write_fid_json(read_candidates(str(first), QUERIES, CORPUS), CORPUS, read_queries(str(first)), second)
    assert first.read_bytes() == second.read_bytes()


def test_ctxs_stand_in_the_runs_order_with_strings_or_numbers_as_fid_writes_them(tmp_path):
    run = Run.build("r", ["c"], [[0, 2, 4]], [[0.1, 3.0, 0.2]])
    for labels_as_score, scores in ((False, ["3.0", "0.2", "0.1"]), (True, [3.0, 0.2, 0.1])):
        write_fid_json(run, CORPUS, QUERIES, tmp_path / "fid.json", labels_as_score)
        (entry,) = json.loads((tmp_path / "fid.json").read_text())
        assert [(c["id"], c["score"]) for c in entry["ctxs"]] == list(zip(["p2", "p4", "p0"], scores, strict=True))


def test_has_answer_is_computed_on_the_text_and_absent_without_answers(tmp_path):
    run = Run.build("r", ["a", "b"], [[4, 0], [4]], [[2.0, 1.0], [1.0]])
    write_fid_json(run, CORPUS, [Query("a", "who", ("the u.s.", "A")), Query("b", "why")], tmp_path / "fid.jsonl")
    entries = [json.loads(line) for line in (tmp_path / "fid.jsonl").read_text().splitlines()]
    assert [[c.get("has_answer") for c in entry["ctxs"]] for entry in entries] == [[True, False], [None]]


def test_trec_qrels_read_back_the_same(tmp_path):
    qrels = Qrels({"b": {"p2": 0, "p1": 3}, "a": {"p1": -1}})
    write_trec_qrels(qrels, tmp_path / "qrels")
    assert read_qrels(str(tmp_path / "qrels")) == qrels


def test_a_beir_folder_reads_back_the_same(tmp_path):
    qrels = {"train": Qrels({"a": {"p1": 1}}), "test": Qrels({"b": {"p2": 2}, "c": {"p0": 0}})}
    write_beir(tmp_path, CORPUS, {"train": QUERIES[:1], "test": QUERIES[1:]}, qrels)
    assert list(read_corpus(str(tmp_path))) == PASSAGES
    assert (read_queries(str(tmp_path), "train"), read_queries(str(tmp_path), "test")) == (QUERIES[:1], QUERIES[1:])
    assert {split: read_qrels(str(tmp_path), split) for split in qrels} == qrels


@pytest.mark.parametrize("broken", ["two words", ""])
def test_a_name_that_would_break_the_columns_of_a_trec_file_is_refused(tmp_path, broken):
    run = Run.build(broken, ["a"], [[0]], [[1.0]])
    with pytest.raises(ValueError, match="expected one word in a TREC file"):
        write_trec_run(run, CORPUS, tmp_path / "run")
    with pytest.raises(ValueError, match="expected one word in a TREC file"):
        write_trec_qrels(Qrels({broken: {"p": 1}}), tmp_path / "qrels")


def test_a_query_in_two_splits_is_refused(tmp_path):
    with pytest.raises(ValueError, match="query 'a' is in splits train and test"):
        write_beir(tmp_path, CORPUS, {"train": QUERIES[:1], "test": QUERIES}, {})


def test_fid_data_of_another_ending_or_without_its_query_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected \.json"):
        write_fid_json(drawn("r"), CORPUS, QUERIES, tmp_path / "fid.txt")
    with pytest.raises(ValueError, match="query 'a' of run 'r' is not among the 2 queries"):
        write_fid_json(drawn("r"), CORPUS, QUERIES[1:], tmp_path / "fid.json")
