"""What a language model's tokenizer must have to fill up batches, whoever the teacher is."""

from typing import cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to fill up batches with: the end token's where no padding token is named. ValueError where neither is."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)  # type: ignore[arg-type]
    raise ValueError(
        "the tokenizer has neither a padding token nor an end token, expected one of them to fill up batches with: set "
        "tokenizer.pad_token to a token of its vocabulary and save it"
    )


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """ValueError where the tokenizer knows more tokens than the model has embeddings."""
    known = len(cast(nn.Embedding, model.get_input_embeddings()).weight)
    if len(tokenizer) > known:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, its model's vocabulary {known}: expected at most as many; give "
            "the tokenizer that the model was trained with"
        )
