"""Formats: each is recognised by its content under a name that says nothing, and broken lines are named."""

import gzip
import json
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retort.data.formats import FORMATS, read_rows, sniff

CONTENTS = {
    "squad": '{"version": "1.1",\n "data": [{"title": "T", "paragraphs": []}]}',
    "json": '\n [\n{"id": "1"}]',
    "jsonl": '{"id": "1", "text": "\\"data\\": [ \\"paragraphs\\""}\n',
    "run": "q1 Q0 p1 1 0.5 bm25\nq1 Q0 p2 2 -1e-3 bm25\n",
    "qrels": "q1\t0\tp1\t1\nq1\t0\tp2\t-1\n",
    "ranking": "7\t31\t1\n7\t12\t2\n",
    "triples": "7\t31\t12\n7\t31\t44\n",
    "top": "7\t31\twho is\tsnow, it is\n",
    "tsv": "id\ttext\ttitle\n1\tsnow\tice\n",
    "csv": "Question,Answer\nwho,me\n",
    "answers": "who?\t[\"me\"]\nwhy?\t['so']\n",
    "pairs": '0\tThe "Manhattan" text, it is\n1\t"Snow" and 3 4 5\n',
}


def written(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_format_is_recognised_by_content_with_any_line_ends_and_a_byte_order_mark(tmp_path, name, ends):
    path = written(tmp_path / "data.bin", CONTENTS[name].replace("\n", ends), "utf-8-sig")
    assert sniff(path) == name
    assert all(value == value.strip() for row in FORMATS[name].rows(path) for value in row.values.values())


def test_every_format_of_the_table_is_tried_here():
    assert set(FORMATS) == {*CONTENTS, "dataset", "prose", "parquet"}


def test_parquet_and_saved_datasets_are_recognised(tmp_path):
    pq.write_table(pa.table({"id": [1, 2], "text": ["snow", "ice"]}), tmp_path / "data.bin")
    datasets.Dataset.from_dict({"id": ["1", "2"], "text": ["snow", "ice"]}).save_to_disk(tmp_path / "set")
    assert [row.values["text"] for row in read_rows(str(tmp_path / "data.bin"), "corpus")] == ["snow", "ice"]
    rows = list(read_rows(str(tmp_path / "set"), "corpus"))
    assert [row.values["text"] for row in rows] == ["snow", "ice"]
    assert rows[1].where == f"{tmp_path / 'set'}, row 2"


def test_the_splits_of_a_saved_dataset_dict_stand_in_a_column(tmp_path):
    splits = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    rows = read_rows(str(tmp_path / "set"), "queries")
    assert [row.values for row in rows] == [{"split": name, "text": name} for name in ("train", "test")]


def test_a_named_dataset_is_loaded_with_its_split(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        written(tmp_path / "set" / f"{split}.jsonl", f'{{"id": 1, "text": "{split}"}}\n')
    assert [row.values["split"] for row in read_rows(f"hf:{tmp_path / 'set'}", "corpus")] == ["train", "test"]
    assert [row.values["text"] for row in read_rows(f"hf:{tmp_path / 'set'}:test", "corpus")] == ["test"]


def test_a_named_dataset_that_is_not_there_says_how_to_bring_it(tmp_path):
    with pytest.raises(ValueError, match=r"^hf:.*gone: .*save_to_disk"):
        read_rows(f"hf:{tmp_path / 'gone'}", "corpus")


@pytest.mark.parametrize("content", ["Snow falls.\nOn the hill, it is cold.\n", "\0\1\2", "a,b,c\n1,2,3\n"])
def test_unknown_content_is_refused_with_what_is_understood(tmp_path, content):
    path = written(tmp_path / "data.jsonl", content)
    with pytest.raises(ValueError, match=r"(?s)data\.jsonl begins with .*BEIR.*FiD.*MS MARCO.*hf:name"):
        read_rows(str(path), "corpus")


def test_a_folder_of_data_with_a_readme_is_not_taken_for_prose(tmp_path):
    written(tmp_path / "README.md", "About the data.")
    written(tmp_path / "part-0.parquet", "PAR1")
    with pytest.raises(ValueError, match="is a folder without any of these"):
        read_rows(str(tmp_path), "corpus")


@pytest.mark.parametrize("content", ["", "\ufeff \n\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"data\.tsv is empty"):
        read_rows(str(written(tmp_path / "data.tsv", content)), "corpus")


def test_a_packed_file_is_recognised_and_a_cut_one_refused(tmp_path):
    packed = gzip.compress(CONTENTS["tsv"].encode())
    (tmp_path / "psgs.tsv.gz").write_bytes(packed)
    assert [row.values["title"] for row in read_rows(str(tmp_path / "psgs.tsv.gz"), "corpus")] == ["ice"]
    (tmp_path / "cut.gz").write_bytes(packed[:-9])
    with pytest.raises(ValueError, match=r"cut\.gz: .*expected a whole gzip file"):
        read_rows(str(tmp_path / "cut.gz"), "corpus")


def test_a_path_that_does_not_exist_suggests_its_neighbour(tmp_path):
    written(tmp_path / "corpus.jsonl", "{}")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'corpus\.jsonl'"):
        read_rows(str(tmp_path / "corpis.jsonl"), "corpus")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"id": 1}\n\n{"id": 2,\n', 3),
        ('{"id": 1}\n["id"]\n', 2),
        ('[{"id": 1},\n {"id": 2},\n {"id": ]', 3),
        ('[{"id": 1},\n 5]', 2),
        ('{"data": [{"paragraphs":\n [}', 2),
        ("id\ttext\n1\tsnow\n2\tice\tcold\n", 3),
        ('id,text\n1,"two\nlines"\n2,"lost"quote\n', 4),
        ('id,text\n1,snow\n2,"never closed\nand on\n', 3),
        ("1\tsnow\n2\tice\n3\tfog\n\n5\n", 5),
        ("q 0 p 1\nq 0 p 1\nq 0 p 1\nq 0 p\n", 4),
    ],
)
def test_a_malformed_line_is_named(tmp_path, content, line):
    path = written(tmp_path / "data.bin", content)
    with pytest.raises(ValueError, match=rf"data\.bin:{line}: .*expected "):
        list(read_rows(str(path), "corpus"))


@pytest.mark.parametrize(
    ("articles", "place"),
    [
        ([5], "article 1: 5,"),
        ([{"paragraphs": []}, {"title": "T"}], "article 2: no column 'paragraphs'"),
        ([{"paragraphs": "p"}], "article 1: paragraphs are 'p',"),
        ([{"paragraphs": ["p"]}], "article 1, paragraph 1: 'p',"),
        ([{"paragraphs": [{"context": "c"}, {"qas": []}]}], "article 1, paragraph 2: no column 'context'"),
        ([{"paragraphs": [{"context": "c", "qas": {"id": 1}}]}], "article 1, paragraph 1: questions are {'id': 1},"),
        ([{"paragraphs": [{"context": "c", "qas": ["who"]}]}], "article 1, paragraph 1, question 1: 'who',"),
        ([{"paragraphs": [{"context": "c", "qas": [{"answers": "me"}]}]}], "paragraph 1, question 1: answers are 'me',"),
        ([{"paragraphs": [{"context": "c", "qas": [{"answers": ["me"]}]}]}], "question 1, answer 1: 'me',"),
        ([{"paragraphs": [{"context": "c", "qas": [{"answers": [{}]}]}]}], "question 1, answer 1: no column 'text'"),
    ],
)
def test_what_is_malformed_in_squad_is_named_with_its_place(tmp_path, articles, place):
    path = written(tmp_path / "squad.json", json.dumps({"data": articles, "paragraphs": "of each article"}))
    with pytest.raises(ValueError, match=rf"squad\.json, .*{re.escape(place)}"):
        list(read_rows(str(path), "queries"))


def test_a_broken_parquet_file_is_named(tmp_path):
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"id": [1, 2], "text": ["snow", "ice"]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"corpus\.parquet: .*; expected a whole parquet file"):
        list(read_rows(str(path), "corpus"))


def test_quoted_fields_may_hold_quotes_tabs_and_line_ends(tmp_path):
    path = written(tmp_path / "psgs", 'id\ttext\ttitle\n1\t"the ""big""\ttab\r\nline"\tA\n2\tplain "quote\t"B"\n')
    rows = list(read_rows(str(path), "corpus"))
    assert [row.values["text"] for row in rows] == ['the "big"\ttab\r\nline', 'plain "quote']
    assert rows[1].where == f"{path}:4"


def test_a_field_longer_than_pythons_limit_is_read(tmp_path):
    path = written(tmp_path / "long", "id,text\n1," + "x" * 200_000 + "\n")
    assert len(next(read_rows(str(path), "corpus")).values["text"]) == 200_000


def test_the_items_of_a_json_list_know_their_lines(tmp_path):
    path = written(tmp_path / "list", '[{"id": 1},\n\n{"id":\n2}, {"id": 3}\n]\n')
    assert [row.where for row in read_rows(str(path), "corpus")] == [f"{path}:{line}" for line in (1, 3, 4)]
