"""Which models can be readers is known from their config, and from a look at two passages."""

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    EncoderDecoderConfig,
    FSMTConfig,
    GPT2Config,
    LEDConfig,
    ProphetNetConfig,
    RobertaConfig,
    SwitchTransformersConfig,
    T5Config,
)

from retort.config import Prompts, Read
from retort.teachers.fid.fitting import check_attended, check_lengths, check_reader_config, positions
from retort.teachers.fid.model import Reader
from tiny import tiny_reader

SMALL = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 0,
}  # fmt: skip
UNREADABLE = {
    "fsmt": FSMTConfig(src_vocab_size=235, tgt_vocab_size=235, langs=["a", "b"], **SMALL),
    "led": LEDConfig(vocab_size=235, attention_window=4, **SMALL),
    "prophetnet": ProphetNetConfig(
        vocab_size=235, hidden_size=16, encoder_ffn_dim=16, decoder_ffn_dim=16, num_encoder_layers=1, num_decoder_layers=1,
        num_encoder_attention_heads=2, num_decoder_attention_heads=2, decoder_start_token_id=0,
    ),
    "switch_transformers": SwitchTransformersConfig(
        vocab_size=235, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0, num_experts=2
    ),
}  # fmt: skip
SHORT = Prompts(passage_tokens=60, answer_tokens=20)
BERT = BertConfig(num_hidden_layers=2, max_position_embeddings=64)
two_sides = EncoderDecoderConfig.from_encoder_decoder_configs


@pytest.mark.parametrize("config", [GPT2Config(), BERT], ids=["gpt2", "bert"])
def test_a_model_that_is_no_encoder_decoder_is_refused_with_what_it_is_and_what_fits(config):
    message = (
        rf"read\.model 'mine' is a {config.model_type} model and read\.decoder_layers is not set, expected an encoder-dec"
        r".* T5, BART.* set read\.decoder_layers .* kind: language_model"
    )
    with pytest.raises(ValueError, match=message):
        check_reader_config(config, Read(model="mine"))


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_kind_whose_attention_cannot_be_read_is_refused_by_its_config(kind):
    with pytest.raises(
        ValueError, match=rf"is a {kind} model, whose cross-attention cannot be read, expected an encoder-dec"
    ):
        check_reader_config(UNREADABLE[kind], Read(model="mine"))


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_reader_whose_attention_cannot_be_read_is_refused_before_it_is_trained(kind, tokenizer):
    reader = Reader(AutoModelForSeq2SeqLM.from_config(UNREADABLE[kind]), tokenizer)
    with pytest.raises(
        ValueError, match=r"read\.model 'mine' is a \w+, whose cross-attention cannot be read \(.*\), expected"
    ):
        check_attended(reader, "mine")


@pytest.mark.parametrize("kind", ["t5", "bart", "bert", "copying"])
def test_the_look_at_a_reader_changes_neither_its_mode_nor_the_random_state(tokenizer, kind):
    reader = tiny_reader("bert" if kind == "copying" else kind, tokenizer, copies=kind == "copying", dropout=0.5).train()
    before = torch.random.get_rng_state()
    check_attended(reader, "mine")
    assert reader.training
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["passage_tokens", "answer_tokens"])
@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (BartConfig(max_position_embeddings=64), {}),
        (BERT, {"decoder_layers": 1}),
        (two_sides(BERT, BertConfig(max_position_embeddings=64)), {}),
    ],
    ids=["bart", "warm start", "encoder-decoder"],
)
def test_strings_longer_than_the_models_positions_are_refused_by_the_name_of_their_setting(config, settings, name):
    check_reader_config(config, Read(model="mine", prompts=Prompts(passage_tokens=64, answer_tokens=64), **settings))
    side = "encoder" if name == "passage_tokens" else "decoder"
    long = Prompts(**{"passage_tokens": 64, "answer_tokens": 64, name: 65})
    with pytest.raises(
        ValueError, match=rf"read\.prompts\.{name} is 65, but the {side} of .* has 64 positions: set it to 64"
    ):
        check_reader_config(config, Read(model="mine", prompts=long, **settings))


def test_relative_positions_have_no_end():
    check_reader_config(T5Config(), Read(model="mine", prompts=Prompts(passage_tokens=5000, answer_tokens=5000)))


def test_each_side_of_a_model_has_positions_of_its_own_and_roberta_counts_from_behind_its_pad():
    config = two_sides(RobertaConfig(max_position_embeddings=514), GPT2Config(n_positions=32))
    assert [positions(config, side) for side in ("encoder", "decoder")] == [512, 32]


def test_the_decoder_of_a_saved_reader_is_there_already():
    saved = two_sides(BERT, BERT)
    check_reader_config(saved, Read(model="mine", decoder_layers=9, prompts=SHORT), saved=True)
    with pytest.raises(ValueError, match=r"is a encoder-decoder model and read\.decoder_layers is set"):
        check_reader_config(saved, Read(model="mine", decoder_layers=9, prompts=SHORT))


def test_a_warm_start_from_fewer_layers_is_refused_by_the_config():
    with pytest.raises(ValueError, match=r"decoder_layers is 3, .* layers, which are 2"):
        check_reader_config(BERT, Read(model="mine", decoder_layers=3, prompts=SHORT))


def test_lengths_are_checked_of_any_model_by_its_name():
    with pytest.raises(ValueError, match=r"answer_tokens is 70, but the decoder of this one has 64 positions"):
        check_lengths(BERT, Prompts(passage_tokens=60, answer_tokens=70), "this one")
