"""Files of Atlas and FiD's label file: what is written reads back the same, and their own layouts are read."""

import json

import numpy as np
import pytest

from retort.data import read_candidates, read_corpus, read_qrels, read_queries, read_scores, write_fid_json
from retort.data.atlas import write_atlas_data, write_atlas_passages
from retort.records import Corpus, Passage, Query, Run

PASSAGES = [Passage("12", "Snow: Roads", "ünï\u2028 \t x"), Passage("b", "", 'quote " and \\'), Passage("c", "Ice", "cold")]
CORPUS = Corpus.from_passages(PASSAGES)
QUERIES = [Query("a", "who?", ("U.S.", "[x]"), "U.S."), Query("7", "why", ()), Query("z", "how", ("ünï",))]
RUN = Run.build("bm25", ["a", "7", "z"], [[2, 0, 1], [], [1]], [[0.1, 1 / 3, -7.0], [], [2.5]])


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def same(left, right):
    return left.query_ids == right.query_ids and all(
        np.array_equal(getattr(left, name), getattr(right, name)) for name in ("starts", "passages", "scores")
    )


def test_atlas_passages_read_back_the_same(tmp_path):
    write_atlas_passages(CORPUS, tmp_path / "passages.jsonl")
    assert list(read_corpus(str(tmp_path / "passages.jsonl"))) == PASSAGES
    assert json.loads((tmp_path / "passages.jsonl").read_text().split("\n")[0]).keys() == {"id", "title", "text"}


def test_atlas_questions_read_back_the_same_with_their_passages_in_order(tmp_path):
    write_atlas_data(QUERIES, tmp_path / "nq.jsonl", candidates=RUN, corpus=CORPUS)
    assert read_queries(str(tmp_path / "nq.jsonl")) == QUERIES
    assert same(read_candidates(str(tmp_path / "nq.jsonl"), QUERIES, CORPUS), RUN)
    first = json.loads((tmp_path / "nq.jsonl").read_text().split("\n")[0])
    assert [passage["id"] for passage in first["passages"]] == ["12", "c", "b"]


def test_atlas_questions_without_candidates_hold_no_passages(tmp_path):
    write_atlas_data(QUERIES, tmp_path / "nq.jsonl")
    assert read_queries(str(tmp_path / "nq.jsonl")) == QUERIES
    assert "passages" not in (tmp_path / "nq.jsonl").read_text()
    with pytest.raises(ValueError, match="candidates 'bm25' come without a corpus"):
        write_atlas_data(QUERIES, tmp_path / "nq.jsonl", candidates=RUN)


def test_atlas_own_data_is_read_by_place_with_a_target_for_answers(tmp_path):
    passages = [{"id": p.id, "title": p.title, "text": p.text} for p in (PASSAGES[2], PASSAGES[0])]
    source = lines(
        tmp_path / "train.jsonl",
        [{"question": "who", "answers": ["A"], "target": "B", "passages": passages}, {"question": "why", "target": "B"}],
    )
    queries = read_queries(source)
    assert queries == [Query("q0", "who", ("A",), "B"), Query("q1", "why", ("B",))]
    run = read_candidates(lines(tmp_path / "first.jsonl", [{"question": "who", "passages": passages}]), queries, CORPUS)
    assert CORPUS.ids(run.of("q0")[0]) == ["c", "12"]


@pytest.mark.parametrize("as_list", [True, False])
def test_fids_label_file_is_read_and_written_back_with_its_numbers(tmp_path, as_list):
    """dataset_wscores.json: the candidates in the order that they were retrieved in, the label G as their score."""
    labels = {"c": 0.25, "b": -1.5, "12": 1.1943275928497314}
    passages = {passage.id: {"title": passage.title, "text": passage.text} for passage in PASSAGES}
    ctxs = [{"id": i, **passages[i], "score": score, "hasanswer": i == "c"} for i, score in labels.items()]
    record = {"id": "a", "question": "who?", "target": "U.S.", "answers": ["U.S.", "[x]"], "ctxs": ctxs}
    path = tmp_path / "dataset_wscores.json"
    path.write_text(json.dumps([record], indent=4) if as_list else json.dumps(record))
    scores = read_scores(str(path), QUERIES[:1], CORPUS)
    run = read_candidates(str(path), QUERIES[:1], CORPUS)
    assert same(scores.run, run)
    assert dict(zip(CORPUS.ids(run.of("a")[0]), run.of("a")[1].tolist(), strict=True)) == labels
    assert read_qrels(str(path)).grades["a"] == {"c": 1, "b": 0, "12": 0}
    write_fid_json(run, CORPUS, QUERIES, tmp_path / "again.json", labels_as_score=True)
    (again,) = json.loads((tmp_path / "again.json").read_text())
    assert again | {"ctxs": ctxs} == record
    assert [ctx["id"] for ctx in again["ctxs"]] == ["12", "c", "b"]  # as FiD's readers sort them
    assert all(isinstance(ctx["score"], float) for ctx in again["ctxs"])
    assert same(read_candidates(str(tmp_path / "again.json"), QUERIES[:1], CORPUS), run)
