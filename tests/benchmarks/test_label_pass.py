import json

import label_pass
import pytest
import torch
from transformers import T5Config

from tiny import tiny_encoder

CPU = torch.device("cpu")


def test_both_ways_to_a_label_agree_and_the_line_holds_their_ratio(data, tmp_path, capsys):
    tiny_encoder(tmp_path)
    label_pass.main(["--size", "tiny", "--passages", "24", "--repeats", "2", "--tokenizer", str(tmp_path)])
    line = json.loads(capsys.readouterr().out)
    assert line["texts"] == "fairytaleqa"
    assert line["labels"]["float32"]["total variation"] < 1e-5
    assert line["labels"]["float32"]["Kendall tau"] > 0.99
    assert {"generation of 50", "generation of 5"} <= set(line["ratio"])
    assert min(line["seconds"].values()) > 0
    tokens = line["tokens"]
    assert tokens["real"] <= tokens["ours"] < tokens["FiD"] == 24 * 200
    by_name = {(one["what"], one["against"], one["unit"]): one for one in line["targets"]}
    speed = by_name["label pass, T5-tiny, float32", "FiD's code, 50 tokens", "x"]
    assert speed["measured"] == pytest.approx(line["ratio"]["generation of 50"], rel=1e-2)
    assert by_name["labels in float32", "FiD's labels", "total variation"]["verdict"] == "pass"


def test_lengths_are_those_of_real_strings_cut_to_what_fid_pads_to(data, tmp_path):
    tiny_encoder(tmp_path)
    lengths = label_pass.real_lengths(30, str(tmp_path))
    assert len(lengths) == 30
    assert lengths[:10] == lengths[20:]  # of 20 passages, the first ten come again
    assert 10 < min(lengths) < max(lengths) <= 200


def test_the_labels_that_are_timed_tell_passages_apart():
    model, ids, mask = label_pass.random_case("tiny", [130, 200, 165], CPU)
    assert label_pass.label(model, ids, mask, torch.float32).std() > 1e-3
    assert mask.sum(-1).tolist() == [[130, 200, 165]]


def test_likeness_is_none_of_the_scores_own_size():
    expected = torch.tensor([[0.01, 0.02, 0.03]])
    assert label_pass.alike(expected, expected) == {"total variation": 0.0, "Kendall tau": 1.0}
    turned = label_pass.alike(expected.flip(-1), expected)
    assert turned["Kendall tau"] == -1
    shares = torch.tensor([-1.0, 0.0, 1.0]).softmax(-1)
    assert turned["total variation"] == pytest.approx(float(shares[2] - shares[0]), rel=1e-2)


def test_operations_of_an_encoder_are_those_of_its_products():
    config = T5Config(d_model=3, d_kv=2, num_heads=5, d_ff=7, num_layers=2)
    one_token = 2 * (4 * 3 * 10 + 2 * 3 * 7)
    assert label_pass.encoder_operations(config, [1]) == 2 * (one_token + 4 * 10)
    assert label_pass.encoder_operations(config, [4, 1]) == 2 * (5 * one_token + 4 * 10 * (16 + 1))
    _, operations = label_pass.layer_products(config, 6, torch.float32, CPU)
    assert operations == 6 * one_token
