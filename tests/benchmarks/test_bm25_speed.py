import json

import bm25_speed
import pytest

from retort.indexes.bm25 import BM25Index
from retort.records import Passage, Query

PASSAGES = [Passage("a", "Snow", "White snow fell."), Passage("b", "", "Water is wet."), Passage("c", "", "Snow melts.")]


@pytest.mark.usefixtures("data")
def test_both_sides_give_the_same_scores_and_the_line_judges_building_and_searching(capsys):
    bm25_speed.main(["--passages", "30", "--queries", "8", "--repeats", "1"])
    line = json.loads(capsys.readouterr().out)
    verdicts = {one["what"]: one["verdict"] for one in line["targets"]}
    assert list(verdicts) == ["BM25: build", "BM25: search", bm25_speed.SCORES.what]
    assert verdicts[bm25_speed.SCORES.what] == "pass"


def test_an_index_of_other_texts_is_told_by_its_scores():
    other = bm25_speed.built([*PASSAGES[1:], Passage("d", "", "Snow, snow, snow.")])
    assert bm25_speed.difference(BM25Index.build(PASSAGES), other, [Query("q", "white snow")]) > 0.01
