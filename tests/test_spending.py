"""Planned and spent stand side by side only where both are known."""

import pytest

from retort.spending import bytes_of, compared

PLANNED = {"memory": 2e6, "disk": 500, "requests": 10, "request_tokens": 900, "money": 2.5, "seconds": 1.0}
ASKED = {"requests": 12, "prompt_tokens": 700, "completion_tokens": 50, "money": 1.5}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "one").write_bytes(b"x" * 700)
    (tmp_path / "two").write_bytes(b"x" * 300)
    return tmp_path


def pairs(found):
    return {one.what: (one.planned, one.spent) for one in found}


def test_the_bytes_of_a_folder_are_those_of_all_its_files(folder):
    assert bytes_of(folder) == 1000


def test_what_servers_were_asked_is_added_up(folder):
    remote = [ASKED, {**ASKED, "money": None}]
    assert pairs(compared("label", PLANNED, {"peak_mb": 3.0, "remote": remote}, folder)) == {
        "peak memory, MB": (2.0, 3.0),
        "disk, MB": (0.0005, 0.001),
        "requests to servers": (10, 24),
        "tokens of servers": (900, 1500),
        "money, at most": (2.5, 1.5),
    }


def test_nothing_is_compared_that_was_not_measured(folder):
    assert pairs(compared("encode", PLANNED, {"peak_mb": 3.0}, folder)) == {
        "peak memory, MB": (2.0, 3.0),
        "disk, MB": (0.0005, 0.001),
    }
    assert set(pairs(compared("retrieve", PLANNED, {"peak_mb": 3.0}, folder))) == {"disk, MB"}  # it maps files
    free = {"peak_mb": 3.0, "remote": [{**ASKED, "money": None}]}
    assert "money, at most" not in pairs(compared("label", PLANNED, free, folder))


def test_nothing_is_compared_that_was_not_planned(folder):
    assert compared("read", {}, {"peak_mb": 3.0}, folder) == []
    older = {"seconds": 1.0, "disk": 500}  # a bill without memory
    assert set(pairs(compared("read", older, {"peak_mb": 3.0}, folder))) == {"disk, MB"}
