import json

import fairytaleqa
import pytest
import signal_students

from retort.records import Run

SOME = ("fid_kd", "adist", "bm25 + answers")


@pytest.fixture
def line(data, options, tmp_path, capsys):
    fairytaleqa.main(["--out", str(tmp_path / "run"), *options])
    capsys.readouterr()

    def started(*more):
        arguments = [
            str(tmp_path / "run"),
            "--out",
            str(tmp_path / "out"),
            "--signals",
            *SOME,
            "--depth",
            "4",
            *more,
            *options,
        ]
        signal_students.main(arguments)
        return json.loads(capsys.readouterr().out)

    return started


def test_every_signal_trains_a_student_under_one_budget_and_a_second_start_repeats_the_line(line, tmp_path):
    found = line()
    assert list(found["systems"]) == list(found["dev"]) == ["untouched", *SOME]
    assert {(one["system"], one["baseline"]) for one in found["tests"]} == {(name, "fid_kd") for name in SOME[1:]}
    assert all(seconds > 0 for seconds in found["seconds"].values())
    labels = {file.stem: Run.read(file) for file in (tmp_path / "out" / "labels").iterdir()}
    assert set(labels) == {*signal_students.RULES, *signal_students.SIGNALS, *signal_students.FUSED}
    lists = {name: {query: sorted(rows.tolist()) for query, rows, _ in run} for name, run in labels.items()}
    assert all(one == lists["fid_kd"] for one in lists.values())  # the same candidates for all
    assert (tmp_path / "out" / "both sides" / "adist" / "round-0" / "encode").is_symlink()  # made once
    assert line() == found


def test_the_query_side_alone_leaves_the_passages_where_they_were(line, tmp_path):
    line("--query-side")
    parts = [tmp_path / "out" / "query side" / "adist" / f"round-{number}" / "encode" / "parts" for number in (0, 1)]
    first, second = ([file.read_bytes() for file in sorted(folder.iterdir())] for folder in parts)
    assert first == second
