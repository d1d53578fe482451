"""Which folders hold a causal language model, and which tokenizers fit it."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTModel

from retort.teachers.causal.loading import check_context, check_tokenizer, load_causal, padding_token
from tiny import tiny_masked_model, tiny_t5


@pytest.fixture
def folder(build, words, tmp_path):
    build("llama", len(words)).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_model_comes_back_weight_for_weight_in_evaluation_mode(build, words, folder):
    model, tokenizer = load_causal(str(folder), hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())
    assert not model.training
    for name, value in build("llama", len(words)).state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert tokenizer.chat_template == words.chat_template
    assert load_causal(str(folder), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_only_the_pinned_model_is_loaded(folder):
    with pytest.raises(ValueError, match="it is not the pinned model"):
        load_causal(str(folder), "0" * 64)


def test_a_model_without_weights_or_nowhere_is_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"language model '.*' cannot be loaded: .* Give a model folder with weights"):
        load_causal(str(folder))
    with pytest.raises(ValueError, match="language model 'nobody/nothing' cannot be loaded"):
        load_causal("nobody/nothing")


def test_a_checkpoint_that_lacks_weights_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, for example 'model\.norm\.weight'"):
        load_causal(str(folder))


def test_weights_that_the_config_has_no_place_for_or_of_another_shape_or_broken_are_refused(folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {"model.layers.7.mlp.up_proj.weight": torch.ones(2)}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"language model '.*' holds 1 weights that its config has no place for.*layers\.7"):
        load_causal(str(folder))
    save_file(weights | {"model.norm.weight": torch.ones(7)}, file, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"1 weights of another shape than its config says, for example 'model\.norm\.weight'"
    ):
        load_causal(str(folder))
    file.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"the weights of language model '.*' cannot be read"):
        load_causal(str(folder))


def test_encoders_encoder_decoders_and_models_of_images_are_no_causal_language_models(words, tmp_path):
    masked = tiny_masked_model(tmp_path / "masked")
    with pytest.raises(ValueError, match="a bert encoder, which sees the words that it is to foretell, expected a causal"):
        load_causal(str(masked))
    tiny_t5(words).save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="is a t5 encoder-decoder, expected a causal language model"):
        load_causal(str(tmp_path / "t5"))
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTModel(ViTConfig(**shape, image_size=8, patch_size=4)).save_pretrained(tmp_path / "images")
    with pytest.raises(ValueError, match="is a vit model, expected a causal language model"):
        load_causal(str(tmp_path / "images"))


def test_batches_are_filled_up_with_the_end_token_where_no_padding_token_is_named(own_words, in_bytes, build):
    assert padding_token(own_words) == own_words.pad_token_id != own_words.eos_token_id
    own_words.pad_token = None
    assert padding_token(own_words) == own_words.eos_token_id
    own_words.eos_token = None
    with pytest.raises(ValueError, match="neither a padding token nor an end token, expected one of them"):
        check_tokenizer(build("llama"), own_words)
    check_tokenizer(build("llama", 300), in_bytes)


def test_a_tokenizer_of_another_model_is_refused(words, build):
    with pytest.raises(ValueError, match=rf"the tokenizer has {len(words)} tokens, its model's vocabulary 20"):
        check_tokenizer(build("gpt2", 20), words)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_text_longer_than_the_context_is_refused_with_both_numbers(build, kind):
    model = build(kind, context=32)
    check_context(model, 32, "this", "cut it")
    with pytest.raises(ValueError, match="this has 33 tokens, the model's context is 32: cut it"):
        check_context(model, 33, "this", "cut it")
