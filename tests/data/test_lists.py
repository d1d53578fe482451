"""Lists: grades and candidates, from the formats of TREC, BEIR, FiD, DPR and SQuAD."""

import json

import pytest

from retort.data import formats, read_candidates, read_corpus, read_qrels
from retort.records import Corpus, Passage, Qrels, Query

CORPUS = Corpus.from_passages(Passage(f"p{i}", "", f"text {i}") for i in range(5))
QUERIES = [Query("a", "who"), Query("b", "why"), Query("c", "how")]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def listed(run):
    return {query_id: dict(zip(CORPUS.ids(rows.tolist()), scores.tolist(), strict=True)) for query_id, rows, scores in run}


@pytest.mark.parametrize(
    "content", ["a 0 p1 2\na 0 p0 0\nb 0 p1 -1\n", "query-id\tcorpus-id\tscore\r\na\tp1\t2\r\na\tp0\t0\r\nb\tp1\t-1\r\n"]
)
def test_grades_come_from_trec_and_beir_files(tmp_path, content):
    (tmp_path / "data").write_text(content)
    assert read_qrels(str(tmp_path / "data")) == Qrels({"a": {"p1": 2, "p0": 0}, "b": {"p1": -1}})


def test_a_beir_folder_gives_the_grades_of_one_split_or_of_all(tmp_path):
    (tmp_path / "queries.jsonl").write_text('{"_id": "a", "text": "who"}')
    (tmp_path / "qrels").mkdir()
    for split, query_id in (("dev", "a"), ("test", "b")):
        (tmp_path / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{query_id}\tp1\t1\n")
    assert read_qrels(str(tmp_path), "validation") == Qrels({"a": {"p1": 1}})
    assert read_qrels(str(tmp_path)) == Qrels({"a": {"p1": 1}, "b": {"p1": 1}})
    with pytest.raises(ValueError, match=r"has qrels of dev, test, expected train"):
        read_qrels(str(tmp_path), "train")


@pytest.mark.parametrize("flag", ["has_answer", "hasanswer"])
def test_flags_of_candidates_are_grades(tmp_path, flag):
    ctxs = [{"id": "p1", "text": "t", flag: True}, {"id": "p0", "text": "t", flag: False}]
    (tmp_path / "data").write_text(json.dumps([{"id": "a", "question": "who", "ctxs": ctxs}]))
    assert read_qrels(str(tmp_path / "data")) == Qrels({"a": {"p1": 1, "p0": 0}})


def test_squads_gold_paragraphs_have_the_ids_of_its_corpus(tmp_path):
    paragraphs = [{"context": text, "qas": [{"id": f"q-{text}", "question": "?"}]} for text in ("snow", "ice")]
    (tmp_path / "data").write_text(json.dumps({"data": [{"title": "T", "paragraphs": paragraphs}]}))
    texts = {passage.id: passage.text for passage in read_corpus(str(tmp_path / "data"))}
    gold = read_qrels(str(tmp_path / "data")).grades
    assert {query_id: texts[next(iter(grades))] for query_id, grades in gold.items()} == {"q-snow": "snow", "q-ice": "ice"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 0 p 1\na 0 p 1\na 0 p 2\n", r"data:3: query 'a' gives passage 'p' grade 2 after grade 1"),
        ("query-id\tcorpus-id\tscore\na\tp\t0.5\n", r"data:2: grade 0.5 is no integer"),
        ("corpus-id\tscore\np\t1\n", r"data:2: no column 'id' or .*'query-id'"),
        ("query-id\tcorpus-id\tscore\n", r"data holds no grades"),
        ('{"id": "a", "ctxs": [{"id": "p"}]}\n', r"data:1, candidate 1: no column 'has_answer' or 'hasanswer'"),
    ],
)
def test_what_is_wrong_with_a_grade_is_named(tmp_path, content, message):
    (tmp_path / "data").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_qrels(str(tmp_path / "data"))


@pytest.mark.parametrize("as_written", [str, float], ids=["FiD's retrieval", "FiD's labels"])
def test_candidates_with_scores_stand_by_score(tmp_path, as_written):
    ctxs = [{"id": f"p{i}", "score": as_written(s)} for i, s in ((3, 0.5), (1, 2.0), (4, -1.5))]
    (tmp_path / "fid.json").write_text(json.dumps([{"id": "b", "question": "why", "answers": [], "ctxs": ctxs}]))
    run = read_candidates(str(tmp_path / "fid.json"), QUERIES, CORPUS)
    assert run.name == "fid"
    assert list(listed(run)["b"].items()) == [("p1", 2.0), ("p3", 0.5), ("p4", -1.5)]
    assert listed(run)["a"] == listed(run)["c"] == {}


@pytest.mark.parametrize("key", ["ctxs", "passages"])
def test_candidates_without_scores_keep_their_order(tmp_path, key):
    (tmp_path / "data").write_text(lines([{"id": "a", "question": "who", key: [{"id": "p4"}, {"id": "p0"}, {"id": "p2"}]}]))
    run = read_candidates(str(tmp_path / "data"), QUERIES, CORPUS)
    assert listed(run)["a"] == pytest.approx({"p4": 1.0, "p0": 1 / 2, "p2": 1 / 3})
    assert list(listed(run)["a"]) == ["p4", "p0", "p2"]


def test_a_trec_run_is_read_by_score_with_its_name_for_the_given_queries_only(tmp_path):
    (tmp_path / "data").write_text("b Q0 p1 1 0.25 bm25\nx Q0 gone 1 9 bm25\nb Q0 p4 2 3e0 bm25\na Q0 p1 1 -7 bm25\n")
    run = read_candidates(str(tmp_path / "data"), QUERIES, CORPUS)
    assert (run.name, run.query_ids) == ("bm25", ("a", "b", "c"))
    assert listed(run) == {"a": {"p1": -7.0}, "b": {"p4": 3.0, "p1": 0.25}, "c": {}}


def test_queries_without_ids_are_matched_by_place_and_checked_by_text(tmp_path):
    (tmp_path / "data").write_text(lines({"question": text, "ctxs": [{"id": "p1"}]} for text in ("who", "why")))
    by_place = [Query("q0", "who"), Query("q1", "why")]
    assert listed(read_candidates(str(tmp_path / "data"), by_place, CORPUS)) == {"q0": {"p1": 1.0}, "q1": {"p1": 1.0}}
    with pytest.raises(ValueError, match=r"data:2: query 'q1' is 'why', expected 'how'"):
        read_candidates(str(tmp_path / "data"), [by_place[0], Query("q1", "how")], CORPUS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a Q0 p1 1 2 n\nb Q0 p9 1 2 n\n", r"data:2: passage id 'p9' is not in the corpus"),
        ("a Q0 p1 1 nan n\n", r"data:1: score is 'nan', expected a finite"),
        (
            "a Q0 p1 1 2 n\na Q0 p1 2 1 n\n",
            r"data:2: query 'a' lists passage 'p1' a second time, first at .*data:1, .*drop one",
        ),
        ("b Q0 p0 1 2 n\na Q0 p1 1 2 n\nb Q0 p1 2 1 n\nb Q0 p0 3 0 n\n", r"data:4: query 'b' lists passage 'p0' .*data:1"),
        ('{"id": "a", "ctxs": [{"id": "p1"}, {"id": "p1"}]}\n', r"data:1, candidate 2: query 'a' lists passage 'p1'"),
        ("x Q0 p1 1 2 n\n", r"data lists passages for none of the 3 queries"),
        ('{"id": "a", "ctxs": [{"id": "p1", "score": 1}, {"id": "p2"}]}\n', r"data:1: 1 of 2 candidates have a score"),
        ('{"id": "a", "ctxs": [{"title": "p1"}]}\n', r"data:1, candidate 1: no column 'id'"),
    ],
)
def test_what_is_wrong_with_a_candidate_is_named(tmp_path, content, message):
    (tmp_path / "data").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_candidates(str(tmp_path / "data"), QUERIES, CORPUS)


def test_a_set_that_code_makes_is_asked_for_its_grades(monkeypatch):
    class Builder:
        def qrels(self, spec, split):
            return Qrels({spec: {str(split): 1}})

    monkeypatch.setitem(formats.BUILDERS, "docstrings", Builder())
    assert read_qrels("docstrings:numpy", "test") == Qrels({"numpy": {"test": 1}})
