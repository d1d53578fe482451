"""What several test files of causal language models share: tiny tokenizers of three families, and tiny models."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)

from tiny import tiny_tokenizer

CHAT = (
    "{% for turn in messages %}[{{ turn.role }}] {{ turn.content }} [SEP]{% endfor %}"
    "{% if add_generation_prompt %} [assistant]\n{% endif %}"
)
SHAPE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "intermediate_size": 32,
    "initializer_range": 0.4,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
}


def config(kind: str, vocabulary: int, context: int):
    shape = SHAPE | {"vocab_size": vocabulary, "max_position_embeddings": context}
    if kind == "gpt2":
        return GPT2Config(
            vocab_size=vocabulary, n_positions=context, n_embd=24, n_layer=2, n_head=4, initializer_range=0.4,
            bos_token_id=2, eos_token_id=3,
        )  # fmt: skip
    if kind == "llama":
        return LlamaConfig(**shape)
    if kind == "mistral":  # sees 6 tokens, itself included
        return MistralConfig(**shape, sliding_window=6)
    if kind == "gemma2":  # caps scores; every second layer sees 6 tokens
        return Gemma2Config(**shape, sliding_window=6, attn_logit_softcapping=2.0, query_pre_attn_scalar=6)
    return GptOssConfig(**shape, sliding_window=6, num_local_experts=2, num_experts_per_tok=1)  # attention to no token


def causal(kind: str, vocabulary: int = 240, *, kernel: str = "eager", context: int = 256):
    """A random causal language model of two layers, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(config(kind, vocabulary, context), attn_implementation=kernel)
    return made.eval()


@pytest.fixture(scope="session")
def build():
    return causal


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """A WordPiece tokenizer that starts a text with [CLS], ends it with [SEP], and has a chat template."""
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("words"))
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = "[CLS]", "[SEP]", CHAT
    return tokenizer


@pytest.fixture
def own_words(words):
    """The same, to be changed by a test."""
    return copy.deepcopy(words)


@pytest.fixture(scope="session")
def in_bytes():
    """A byte-level tokenizer as GPT-2's: the space before a word belongs to the word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "s"), ("n", "o"), ("Ġs", "no"), ("Ġsno", "w"), ("s", "no"), ("sno", "w"), ("Ċ", "Ċ")]
    entries = ["<|end|>", *alphabet, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({entry: i for i, entry in enumerate(entries)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


@pytest.fixture(scope="session")
def in_pieces():
    """A tokenizer as Llama 2's: every text gets a space in front, and spaces belong to the word behind them."""
    letters = [*"abcdefghijklmnopqrstuvwxyz.:?\n", "▁"]
    merges = [("▁", "s"), ("n", "o"), ("▁s", "no"), ("▁sno", "w"), ("s", "no"), ("sno", "w"), ("▁", "▁")]
    entries = ["<unk>", "<s>", "</s>", *letters, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({entry: i for i, entry in enumerate(entries)}, merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
