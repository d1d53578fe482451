import json

import label_pass
import torch


def test_both_ways_to_a_label_agree_and_the_line_holds_their_ratio(capsys):
    label_pass.main(["--size", "tiny", "--passages", "3", "--repeats", "2"])
    line = json.loads(capsys.readouterr().out)
    assert line["largest difference of labels"] < 1e-5
    assert list(line["ratio"]) == ["generation of 50", "generation of 5"]
    assert min(line["seconds"].values()) > 0


def test_the_labels_that_are_timed_tell_passages_apart():
    model, ids, mask = label_pass.random_case("tiny", 3)
    with torch.no_grad():
        assert label_pass.label(model, ids, mask).std() > 1e-3


def test_timings_take_turns():
    order = []
    label_pass.timed({name: lambda name=name: order.append(name) for name in "ab"}, 3)
    assert order == ["a", "b"] * 3
