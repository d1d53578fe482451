"""Causal language models to be teachers, with their tokenizers: a folder, an installed package's model, or a hub model."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from retort.compute import model_path
from retort.teachers.tokenizers import check_vocabulary, padding_token
from retort.teachers.weights import check_whole, loaded


def load_causal(
    name: str, sha256: str | None = None, *, dtype: torch.dtype | str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model `name` on the CPU in evaluation mode, in its own precision or `dtype`, and its tokenizer.

    ValueError: not there, not the pinned one, another kind of model, weights that do not fit it, or a tokenizer that does
    not.
    """
    path, what = model_path(name, sha256), f"language model {name!r}"
    try:
        config = AutoConfig.from_pretrained(path)
        if config.is_encoder_decoder:
            raise _other_kind(name, f"a {config.model_type} encoder-decoder")
        model, found = loaded(AutoModelForCausalLM, path, what=what, config=config, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except OSError as error:
        raise ValueError(
            f"{what} cannot be loaded: {str(error).splitlines()[0]} Give a model folder with weights and "
            "tokenizer, package:NAME/folder, or the id of a model that the hub can be reached for"
        ) from error
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise _other_kind(name, f"a {config.model_type} model") from error
    sees_ahead = [not module.is_causal for module in model.modules() if isinstance(getattr(module, "is_causal", None), bool)]
    if sees_ahead and all(sees_ahead):  # an image tower beside a causal decoder may
        raise _other_kind(name, f"a {config.model_type} encoder, which sees the words that it is to foretell")
    check_whole(found, what)
    check_tokenizer(model, tokenizer)
    return model.eval(), tokenizer


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """ValueError where the tokenizer is slow, has nothing to pad with, or knows more tokens than the model."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} cannot tell where in a text its tokens stand, expected a fast tokenizer: save the "
            "model with a tokenizer.json"
        )
    padding_token(tokenizer)
    check_vocabulary(model, tokenizer)


def check_context(model: PreTrainedModel, tokens: int, what: str, remedy: str) -> None:
    """ValueError with both numbers where `what`, of so many `tokens`, is longer than the model's context."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and tokens > context:
        raise ValueError(f"{what} has {tokens} tokens, the model's context is {context}: {remedy}")


def _other_kind(name: str, found: str) -> ValueError:
    return ValueError(
        f"model {name!r} is {found}, expected a causal language model, which foretells each token from those before it, "
        "such as GPT-2, Llama or Qwen"
    )
