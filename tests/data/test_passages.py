"""Passages: every format that holds some gives the same ones."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retort.data import formats, read_corpus
from retort.records import Passage

PASSAGES = [Passage("1", "Snow", 'It "snows", always.'), Passage("2", "Ice", "Cold\tand hard.\nYes.")]
RECORDS = [{"id": p.id, "title": p.title, "text": p.text} for p in PASSAGES]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_beir_is_read_as_a_file_and_as_a_folder(tmp_path):
    (tmp_path / "corpus.jsonl").write_text(lines({"_id": r["id"], **r, "metadata": {}} for r in RECORDS))
    assert list(read_corpus(str(tmp_path))) == list(read_corpus(str(tmp_path / "corpus.jsonl"))) == PASSAGES


def test_a_beir_folder_without_the_corpus_is_refused(tmp_path):
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "who"}')
    with pytest.raises(ValueError, match=r"has no corpus\.jsonl"):
        read_corpus(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        'id\ttext\ttitle\n1\t"It ""snows"", always."\tSnow\n2\t"Cold\tand hard.\nYes."\tIce\n',
        'title,id,text\nSnow,1,"It ""snows"", always."\nIce,2,"Cold\tand hard.\nYes."\n',
        lines({"id": int(r["id"]), "contents": r["text"], "title": r["title"]} for r in RECORDS),
        json.dumps(RECORDS, indent=1),
        lines([{"question": "who", "ctxs": RECORDS}, {"question": "why", "ctxs": RECORDS[::-1]}]),
        lines([{"question": "who", "answers": ["me"], "passages": RECORDS}]),
    ],
    ids=["psgs_w100", "csv", "jsonl", "json", "ctxs", "atlas data"],
)
def test_the_same_passages_come_from_every_text_format(tmp_path, content):
    (tmp_path / "data").write_text(content)
    assert list(read_corpus(str(tmp_path / "data"))) == PASSAGES


def test_the_same_passages_come_from_parquet_and_datasets(tmp_path):
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "data.parquet")
    datasets.Dataset.from_list(RECORDS).save_to_disk(tmp_path / "set")
    assert list(read_corpus(str(tmp_path / "data.parquet"))) == list(read_corpus(str(tmp_path / "set"))) == PASSAGES


def test_ms_marco_is_read_without_quoting(tmp_path):
    (tmp_path / "collection.tsv").write_text('0\t"Snow" falls, it\'s cold\n1\tice "\n')
    assert list(read_corpus(str(tmp_path / "collection.tsv"))) == [
        Passage("0", "", '"Snow" falls, it\'s cold'),
        Passage("1", "", 'ice "'),
    ]


def test_squad_gives_its_distinct_paragraphs_under_the_articles_title(tmp_path):
    paragraphs = [{"context": text, "qas": [{"id": text, "question": "who"}] * n} for text, n in (("a", 2), ("b", 0))]
    articles = [
        {"title": "Snow", "paragraphs": [*paragraphs, paragraphs[0]]},
        {"title": "Ice", "paragraphs": paragraphs[:1]},
    ]
    (tmp_path / "squad").write_text(json.dumps({"data": articles}))
    assert list(read_corpus(str(tmp_path / "squad"))) == [
        Passage("p0", "Snow", "a"),
        Passage("p1", "Snow", "b"),
        Passage("p2", "Ice", "a"),
    ]


def test_atlas_sections_join_the_title(tmp_path):
    sections = [{"section": "Roads"}, {"section": ""}, {}]
    (tmp_path / "atlas").write_text(lines({"id": i, "title": "Snow", "text": "t", **s} for i, s in enumerate(sections)))
    assert [p.title for p in read_corpus(str(tmp_path / "atlas"))] == ["Snow: Roads", "Snow", "Snow"]


def test_candidates_with_one_id_and_two_texts_are_refused(tmp_path):
    (tmp_path / "fid").write_text(lines([{"ctxs": [{"id": 1, "text": "a"}]}, {"ctxs": [{"id": 1, "text": "b"}]}]))
    with pytest.raises(ValueError, match=r"fid:2, candidate 1: passage id '1' had another"):
        list(read_corpus(str(tmp_path / "fid")))


def test_an_id_that_stands_twice_is_refused_with_both_places_after_the_last_passage(tmp_path):
    (tmp_path / "corpus").write_text(lines({"id": i, "text": f"text {i}"} for i in (7, 8, 9, 8, 9, 8)))
    passages = read_corpus(str(tmp_path / "corpus"))
    assert [next(passages).id for _ in range(6)] == ["7", "8", "9", "8", "9", "8"]
    message = (
        r"corpus:4: passage id '8' appears several times .*, first at .*corpus:2 \(repeated ids: 2\): every passage needs"
    )
    with pytest.raises(ValueError, match=message):
        next(passages)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": 1, "text": "a"}\n{"id": 2, "text": " "}\n', r"data:2: empty text"),
        ('{"id": 1, "txet": "a"}\n', r"data:1: no column 'text' or .*found 'id', 'txet' \(did you mean 'txet'\?\)"),
        ("id\ttxt\n1\ta\n", r"data:2: no column 'text' or .*did you mean 'txt'"),
        ('{"text": "a"}\n', r"data:1: no column 'id' or '_id'"),
        ('{"id": 1, "text": null}\n', r"data:1: 'text' is there but empty \(null\), expected a value: fill it"),
        ('{"ctxs": "a"}\n', r"data:1: candidates are .*expected a list of objects"),
        ('{"ctxs": ["a"]}\n', r"data:1, candidate 1: 'a', expected an object"),
        ("id\ttext\ttitle\n", r"data holds no passages"),
        ("[]", r"data holds no passages"),
        ("q1 0 p1 1\n", r"data:1: no column 'text'"),
    ],
)
def test_what_is_wrong_with_a_passage_is_named(tmp_path, content, message):
    (tmp_path / "data").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_corpus(str(tmp_path / "data")))


@pytest.mark.parametrize(("head", "record"), [("", '{"id": "0", "text": "a"}\n'), ("", "0\ta\n"), ("id\ttext\n", "0\ta\n")])
def test_only_the_lines_asked_for_are_read(tmp_path, monkeypatch, head, record):
    path = tmp_path / "corpus"
    path.write_text(head + record * 10_000)
    read = []
    read_lines = formats.read_lines
    monkeypatch.setattr(formats, "read_lines", lambda path: (read.append(line) or line for line in read_lines(path)))
    next(read_corpus(str(path)))
    assert len(read) == 1 + bool(head)


def test_a_set_that_code_makes_is_asked_for_its_passages(monkeypatch):
    class Builder:
        def passages(self, spec):
            return iter([Passage(spec, "", "made")])

    monkeypatch.setitem(formats.BUILDERS, "docstrings", Builder())
    assert [p.id for s in ("docstrings", "docstrings:numpy,scipy") for p in read_corpus(s)] == ["", "numpy,scipy"]
