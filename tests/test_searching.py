"""Rounds in which the query side alone is trained: what stays, and what does not."""

import pytest

from retort.pipeline import run
from retort.plan import plan
from retort.searching import PASSAGE_SIDE, stored_round
from tiny_run import config


def bytes_in(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("way", ["full", "lora"])
def test_passage_vectors_and_their_index_stay_and_the_search_changes(sources, tmp_path, way):
    chosen = config(
        sources, label={"teachers": [{"kind": "answers"}, {"kind": "bm25"}]},
        distil={"student": {"query_side": way, "lora_rank": 2}, "later_rounds": "continue"},
    )  # fmt: skip
    steps = run(chosen, tmp_path)
    first = bytes_in(steps["round-0/encode"].path / "parts")
    for number in (1, 2):
        assert bytes_in(steps[f"round-{number}/encode"].path / "parts") == first
        index = steps[f"round-{number}/index"].path
        assert {path.name: path.read_bytes() for path in index.iterdir() if path.suffix == ".faiss"} == {
            path.name: path.read_bytes() for path in steps["round-0/index"].path.iterdir() if path.suffix == ".faiss"
        }
    found = [(steps[f"round-{number}/retrieve"].path / "student.parquet").read_bytes() for number in range(3)]
    assert len(set(found)) == 3


@pytest.mark.parametrize(("later", "stored"), [("continue", 1), ("restart", 0)])
def test_the_vectors_that_stay_are_those_of_the_student_that_the_round_starts_from(sources, tmp_path, later, stored):
    steps = plan(config(sources, distil={"later_rounds": later}), tmp_path)
    assert stored_round(steps["round-1/distil"]) == 0
    assert stored_round(steps["round-2/distil"]) == stored


@pytest.mark.parametrize("name", ["passage_tokens", "passage_format"])
def test_stored_vectors_of_another_making_are_refused(sources, tmp_path, name):
    assert name in PASSAGE_SIDE
    other = {"passage_tokens": 13, "passage_format": "{text}"}[name]
    chosen = config(
        sources, label={"teachers": [{"kind": "bm25"}]}, distil={"later_rounds": "continue"},
        overrides={2: {"distil": {"student": {"query_side": "full", name: other}}}},
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"round 1, whose passage vectors stay, had another {name}"):
        run(chosen, tmp_path)
