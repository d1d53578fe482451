"""Queries: every format that holds some gives the same ones."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retort.data import formats, read_queries
from retort.records import Query

QUERIES = [Query("a", "Who, me?", ("me", "I, too")), Query("b", 'Why "so"?', ("so",))]
RECORDS = [{"id": q.id, "question": q.text, "answers": list(q.answers)} for q in QUERIES]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    "content",
    [
        lines({"_id": r["id"], "text": r["question"], "answers": r["answers"]} for r in RECORDS),
        lines({**r, "target": "", "ctxs": [{"id": "1", "text": "t"}]} for r in RECORDS),
        json.dumps([{**r, "ctxs": []} for r in RECORDS], indent=2),
        lines({"qid": r["id"], "query": r["question"], "answer": r["answers"]} for r in RECORDS),
        'qid,Question,Answers\na,"Who, me?","[""me"", ""I, too""]"\nb,"Why ""so""?",so\n',
        "query_id\tquery\tanswer\na\tWho, me?\t['me', 'I, too']\nb\tWhy \"so\"?\tso\n",
        json.dumps(
            {
                "data": [
                    {
                        "title": "T",
                        "paragraphs": [
                            {"context": "c", "qas": []},
                            {
                                "context": "d",
                                "qas": [
                                    {
                                        "id": r["id"],
                                        "question": r["question"],
                                        "answers": [{"text": t} for t in r["answers"] * 2],
                                    }
                                    for r in RECORDS
                                ],
                            },
                        ],
                    }
                ]
            }
        ),
    ],
    ids=["beir", "fid jsonl", "fid json", "jsonl", "csv", "tsv", "squad"],
)
def test_the_same_queries_come_from_every_text_format(tmp_path, content):
    (tmp_path / "data").write_text(content)
    assert read_queries(str(tmp_path / "data"), require_answers=True) == QUERIES


def test_the_same_queries_come_from_parquet_and_datasets(tmp_path):
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "data.parquet")
    squad = [{**r, "answers": {"text": r["answers"], "answer_start": [0] * len(r["answers"])}} for r in RECORDS]
    datasets.Dataset.from_list(squad).save_to_disk(tmp_path / "set")
    assert read_queries(str(tmp_path / "data.parquet")) == read_queries(str(tmp_path / "set")) == QUERIES


@pytest.mark.parametrize(
    "content",
    [
        lines({"question": q.text, "answer": q.answers} for q in QUERIES),
        'Who, me?\t"[\'me\', ""I, too""]"\n"Why ""so""?"\t["so"]\n',
    ],
    ids=["NQ-open", "DPR"],
)
def test_queries_without_ids_are_named_by_their_place(tmp_path, content):
    (tmp_path / "data").write_text(content)
    assert read_queries(str(tmp_path / "data")) == [Query(f"q{i}", q.text, q.answers) for i, q in enumerate(QUERIES)]


def test_ms_marco_queries_have_no_answers(tmp_path):
    (tmp_path / "queries.tsv").write_text("12\twho is it\n13\twhy, so\n")
    assert read_queries(str(tmp_path / "queries.tsv")) == [Query("12", "who is it"), Query("13", "why, so")]


@pytest.mark.parametrize(
    ("given", "answers", "target"),
    [
        ({"answers": ["a", "b"], "target": "b"}, ("a", "b"), "b"),
        ({"answers": [], "target": "b"}, ("b",), None),
        ({"answers": "", "target": "b"}, ("b",), None),
        ({"answers": ["a"], "target": 3}, ("a",), None),
        ({"answers": ["a"], "target": None}, ("a",), None),
        ({"target": "b"}, ("b",), None),
    ],
    ids=str,
)
def test_fids_target_is_kept_beside_the_answers_and_is_the_answer_where_it_is_alone(tmp_path, given, answers, target):
    (tmp_path / "data").write_text(lines([{"question": "who", **given}]))
    assert read_queries(str(tmp_path / "data")) == [Query("q0", "who", answers, target)]


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ("[1999, 'x']", ("1999", "x")),
        ("[citation needed]", ("[citation needed]",)),
        ("[1] and [2]", ("[1] and [2]",)),
        (" ", ()),
    ],
)
def test_only_a_cell_that_spells_a_list_is_taken_as_one(tmp_path, cell, answers):
    (tmp_path / "data").write_text(f'question,answer\nwho,"{cell}"\n')
    assert read_queries(str(tmp_path / "data"))[0].answers == answers


def test_a_split_is_taken_from_the_records(tmp_path):
    (tmp_path / "queries.jsonl").write_text(lines({"_id": s, "text": s, "split": s} for s in ("train", "dev", "test")))
    for source in (tmp_path, tmp_path / "queries.jsonl"):
        assert [q.id for q in read_queries(str(source), "test")] == ["test"]
        assert [q.id for q in read_queries(str(source))] == ["train", "dev", "test"]


def test_a_split_of_a_beir_folder_is_taken_from_its_qrels(tmp_path):
    (tmp_path / "queries.jsonl").write_text(lines({"_id": i, "text": "who"} for i in range(3)))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n2\tp\t1\n0\tp\t0\n")
    assert [q.id for q in read_queries(str(tmp_path), "dev")] == ["0", "2"]
    with pytest.raises(ValueError, match=r"has qrels of dev, expected test"):
        read_queries(str(tmp_path), "test")


def test_dev_and_validation_are_one_split(tmp_path):
    (tmp_path / "data").write_text(lines([{"question": "who", "split": "validation"}, {"question": "why", "split": "test"}]))
    assert (
        read_queries(str(tmp_path / "data"), "dev") == read_queries(str(tmp_path / "data"), "valid") == [Query("q0", "who")]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lines([{"id": 1, "question": "a"}, {"id": 2, "question": "b"}, {"id": "1", "question": "c"}]),
            r"data:3: query id '1' stands at .*data:1 too",
        ),
        (lines([{"id": 1, "question": "a"}, {"question": "b"}]), r"data:2: no column 'id'"),
        (lines([{"qestion": "a"}]), r"data:1: no column 'question'.*did you mean 'qestion'"),
        (lines([{"question": ""}]), r"data:1: empty question"),
        (lines([{"question": "a", "answers": ["b", ""]}]), r"data:1: empty answer"),
        (
            lines([{"question": "a", "answer": ["b", None]}]),
            r"data:1: 'answer' is there but empty \(null\), expected a value",
        ),
        (lines([{"question": "a", "answers": ["b"], "target": ["b"]}]), r"data:1: target is \['b'\], expected a string"),
        (lines([{"question": "a", "answers": {"text": [["b"]]}}]), r"data:1: answer is \['b'\], expected a string"),
        ("question,answer\n", r"data holds no queries"),
    ],
)
def test_what_is_wrong_with_a_query_is_named(tmp_path, content, message):
    (tmp_path / "data").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_queries(str(tmp_path / "data"))


def test_a_query_without_answers_is_refused_only_where_answers_are_asked_for(tmp_path):
    (tmp_path / "data").write_text(lines([{"question": "a", "answers": []}]))
    assert read_queries(str(tmp_path / "data")) == [Query("q0", "a")]
    with pytest.raises(ValueError, match=r"data:1: query 'q0' has no answers"):
        read_queries(str(tmp_path / "data"), require_answers=True)


def test_an_unknown_split_is_refused_with_those_there_are(tmp_path):
    (tmp_path / "data").write_text(lines([{"question": "a", "split": "train"}]))
    with pytest.raises(ValueError, match="has the splits train, expected 'test'"):
        read_queries(str(tmp_path / "data"), "test")


def test_a_file_without_splits_is_all_of_the_split_that_it_is_given_for(tmp_path):
    (tmp_path / "data").write_text(lines([{"question": "a"}, {"question": "b"}]))
    assert [q.text for q in read_queries(str(tmp_path / "data"), "test")] == ["a", "b"]


def test_a_set_that_code_makes_is_asked_for_its_questions(monkeypatch):
    class Builder:
        def questions(self, spec, split):
            return [Query(spec, str(split), ("a",))]

    monkeypatch.setitem(formats.BUILDERS, "docstrings", Builder())
    assert read_queries("docstrings:numpy", "test", require_answers=True) == [Query("numpy", "test", ("a",))]
