"""Readers out of FiD's and Atlas's state dicts: every weight in its place, what is dropped is said, the rest is refused."""

import pytest
import torch

from ancestors import fid_names, small_tokenizer, t5_1_1
from retort.teachers.fid.attention import passage_scores
from retort.teachers.fid.bias import REMOVED_BIAS
from retort.teachers.fid.checkpoints import imported_reader, t5_architecture, t5_names
from retort.teachers.fid.loading import load_reader, save_reader


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"), end="</s>")


def test_the_names_are_transformers_names_and_no_weight_is_lost(golden_weights):
    old = fid_names(golden_weights)
    assert "encoder.encoder.block.2.module.layer.1.DenseReluDense.wo.weight" in old
    assert "encoder.encoder.embed_tokens.weight" in old
    found = t5_names(old)
    assert found.keys() == golden_weights.keys()
    assert all(found[name] is value for name, value in golden_weights.items())


def test_transformers_own_names_stay(golden_weights):
    assert t5_names(golden_weights) == golden_weights


def test_two_weights_of_one_name_are_refused():
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"two weights are called 'encoder.a', the second as 'encoder.encoder.a'"):
        t5_names({"encoder.a": one, "encoder.encoder.a": one})


def test_fids_reader_gives_the_published_labels_less_the_constant_that_is_told(golden, golden_weights, golden_inputs, small):
    reader, (note,) = imported_reader(fid_names(golden_weights), small, golden["cfg"])
    assert REMOVED_BIAS in note
    assert "lower by 0.2286 " in note
    with torch.no_grad():
        scores = passage_scores(reader.model, *golden_inputs)
    torch.testing.assert_close(scores, torch.tensor(golden["scores"]) - 0.2286353, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.softmax(-1), torch.tensor(golden["softmax"]), atol=2e-6, rtol=0)


def test_without_the_removed_bias_there_is_nothing_to_tell(golden, golden_weights, small):
    few = {name: value for name, value in golden_weights.items() if name != REMOVED_BIAS}
    assert imported_reader(fid_names(few), small, golden["cfg"])[1] == ()


def test_the_config_is_told_from_the_shapes(golden, golden_weights):
    found = t5_architecture(golden_weights)
    assert found.pop("tie_word_embeddings") is True
    assert found == {name: golden["cfg"][name] for name in found if name in golden["cfg"]} | {
        "decoder_start_token_id": 0, "feed_forward_proj": "relu", "num_decoder_layers": 3
    }  # fmt: skip
    model = t5_1_1()
    found = t5_architecture(model.state_dict())
    assert found == {name: getattr(model.config, name) for name in found} | {"tie_word_embeddings": False}


def test_a_t5_of_two_tables_gives_its_own_logits_after_saving(small, golden_inputs, tmp_path):
    """T5 1.1, on which Atlas's readers stand: an output table of its own, logits that are not scaled."""
    model = t5_1_1()
    save_reader(imported_reader(model.state_dict(), small)[0], tmp_path / "reader")
    again = load_reader(tmp_path / "reader").model
    arguments = {"input_ids": golden_inputs[0][:, 0], "decoder_input_ids": torch.tensor([[0, 3], [0, 4]])}
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**arguments).logits, model(**arguments).logits)


def test_missing_and_unknown_weights_are_listed(golden, golden_weights, small):
    key = "encoder.block.1.layer.0.SelfAttention.k.weight"
    less = {name: value for name, value in golden_weights.items() if name != key}
    with pytest.raises(ValueError, match=rf"missing \['{key}'\], unknown \['encoder.extra'\]"):
        imported_reader(fid_names(less | {"encoder.extra": torch.ones(1)}), small, golden["cfg"])


def test_what_is_no_t5_and_a_tokeniser_of_more_words_are_refused(golden, golden_weights, small, tokenizer):
    with pytest.raises(ValueError, match=r"no T5 state dict: it lacks 'shared.weight'; found \['a'\]"):
        imported_reader({"a": torch.ones(1)}, small)
    with pytest.raises(ValueError, match=rf"the tokenizer has {len(tokenizer)} tokens, its model's vocabulary 64"):
        imported_reader(golden_weights, tokenizer, golden["cfg"])
