import json

import label_files
import pytest

from retort.data import write_fid_json
from retort.records import Corpus, Passage, Query


@pytest.mark.usefixtures("data")
def test_the_line_holds_the_bytes_of_both_files_and_their_ratio(capsys):
    label_files.main(["--queries", "40", "--candidates", "10", "--repeats", "1"])
    line = json.loads(capsys.readouterr().out)
    size, load = line["targets"]
    assert size["measured"] == pytest.approx(line["bytes"]["JSON"] / line["bytes"]["Run"], rel=1e-3)
    assert load["measured"] == pytest.approx(line["ratio"]["JSON"], rel=1e-3)


def test_both_files_hold_the_scores_to_the_last_bit(tmp_path):
    corpus = Corpus.from_passages([Passage(str(i), "", f"text {i}") for i in range(7)])
    queries = [Query("q0", "who?"), Query("q1", "why?")]
    labels = label_files.random_labels(queries, len(corpus), 5)
    write_fid_json(labels, corpus, queries, tmp_path / "labels.json", labels_as_score=True)
    read = label_files.scores_of(json.loads((tmp_path / "labels.json").read_text()))
    assert read == [scores.tolist() for *_, scores in labels]
    assert [len(scores) for scores in read] == [5, 5]
