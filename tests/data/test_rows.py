"""Rows: lines as they stand in real files, and values with errors that name the place."""

import gzip

import pytest

from retort.data.rows import Row, read_lines


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


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"good\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"latin\.txt:2: .*expected UTF-8"):
        list(read_lines(path))


@pytest.mark.parametrize("value", [None, "", "  ", ["a"], True])
def test_a_string_is_refused_unless_it_says_something(value):
    with pytest.raises(ValueError, match=r"^here:3: "):
        Row({"text": value}, "here:3").string(("text",))


@pytest.mark.parametrize("value", ["nan", "inf", float("nan"), "high"])
def test_a_score_that_is_no_finite_number_is_refused(value):
    with pytest.raises(ValueError, match=r"^here:3: score is .*expected a finite number"):
        Row({"score": value}, "here:3").number(("score",))


def test_numbers_are_read_from_strings_and_ids_from_numbers():
    row = Row({"score": "1.5", "id": 7}, "here:3")
    assert (row.number(("score",)), row.string(("id",))) == (1.5, "7")
