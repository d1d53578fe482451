"""Rows: lines as they stand in real files, and values with errors that name the place."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retort.data.rows import Row, open_parquet, read_lines


def test_a_byte_order_mark_is_dropped_and_line_ends_are_kept(tmp_path):
    path = tmp_path / "bom.txt"
    path.write_bytes("\ufeffSnöw\r\nice\u2028cold\n".encode())
    assert list(read_lines(path)) == [(1, "Snöw\r\n"), (2, "ice\u2028cold\n")]


def test_gzip_is_unpacked_by_content_whatever_the_name(tmp_path):
    path = tmp_path / "plain.txt"
    path.write_bytes(gzip.compress(b"one\ntwo\n"))
    assert list(read_lines(path)) == [(1, "one\n"), (2, "two\n")]


def test_a_cut_gzip_file_is_refused(tmp_path):
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n" * 1000)[:-12])
    with pytest.raises(ValueError, match=r"cut\.gz: .*expected a whole gzip file"):
        list(read_lines(path))


@pytest.mark.parametrize(
    "broken",
    [lambda b: b[:-9], lambda b: b[:6], lambda b: b[:900] + bytes(300) + b[1200:]],
    ids=["cut", "tiny", "overwritten"],
)
def test_a_parquet_file_that_is_not_whole_is_named(tmp_path, broken):
    path = tmp_path / "broken.parquet"
    pq.write_table(pa.table({"id": [f"p{i}" for i in range(1000)]}), path)
    path.write_bytes(broken(path.read_bytes()))
    with (
        pytest.raises(ValueError, match=r"broken\.parquet: .*; expected a whole parquet file: fetch"),
        open_parquet(path) as file,
    ):
        file.read()


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"good\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"latin\.txt:2: .*expected UTF-8"):
        list(read_lines(path))


@pytest.mark.parametrize("value", [None, "", "  ", ["a"], True])
def test_a_string_is_refused_unless_it_says_something(value):
    with pytest.raises(ValueError, match=r"^here:3: "):
        Row({"text": value}, "here:3").string(("text",))


@pytest.mark.parametrize(("names", "said"), [(("text",), "'text'"), (("text", "contents"), "'text' and 'contents'")])
def test_a_column_without_a_value_is_told_from_one_that_is_missing(names, said):
    row = Row(dict.fromkeys(names), "here:3")
    with pytest.raises(ValueError, match=rf"^here:3: {said} is there but empty \(null\), expected a value: fill it$"):
        row.need((*names, "passage"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a", r"^here:3: passages are 'a', expected a list of objects"),
        ({"id": 1}, r"^here:3: passages are {'id': 1}, expected a list of objects"),
        ([{"id": 1}, 5], r"^here:3, passage 2: 5, expected an object with named values"),
        (None, r"^here:3: 'of' is there but empty"),
    ],
)
def test_a_list_of_objects_is_refused_where_it_is_none(value, message):
    with pytest.raises(ValueError, match=message):
        Row({"of": value}, "here:3").objects(("of",), "passage")


@pytest.mark.parametrize("value", ["nan", "inf", float("nan"), "high"])
def test_a_score_that_is_no_finite_number_is_refused(value):
    with pytest.raises(ValueError, match=r"^here:3: score is .*expected a finite number"):
        Row({"score": value}, "here:3").number(("score",))


def test_numbers_are_read_from_strings_and_ids_from_numbers():
    row = Row({"score": "1.5", "id": 7}, "here:3")
    assert (row.number(("score",)), row.string(("id",))) == (1.5, "7")
