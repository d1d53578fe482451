"""What the decoder of a Fusion-in-Decoder reader is called with: its start token, teacher-forced input, fused states."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

IGNORED = -100  # the label of a target position that is padding: transformers' convention


def start_token(model: PreTrainedModel) -> int:
    """The id that the decoder starts from. ValueError where neither config says it."""
    for name in ("decoder_start_token_id", "bos_token_id"):
        if (token := _configured(model, name)) is not None:
            return token
    raise ValueError(
        f"{type(model).__name__} names no decoder start token: set config.decoder_start_token_id (T5: the pad id, "
        "a BERT decoder: the id of [CLS])"
    )


def shifted(model: PreTrainedModel, labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The decoder's input that predicts `labels`: the start token, and all but the last of them.

    Positions behind a row's end get token 0: the decoder is causal, so they reach nothing that counts.
    """
    start = torch.full_like(labels[:, :1], start_token(model))
    return torch.cat([start, labels[:, :-1].clamp(min=0)], dim=1)


def answer_positions(model: PreTrainedModel, labels: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """The decoder positions that predict an answer's own tokens: those of `labels`, less pads and the end token.

    ValueError where neither config names the end token.
    """
    end = _configured(model, "eos_token_id")
    if end is None:
        raise ValueError(f"{type(model).__name__} names no end token: set config.eos_token_id, or take position 'all'")
    return (labels != IGNORED) & (labels != end)


def fused(
    states: Float[Tensor, "B K L D"], attention_mask: Int[Tensor, "B K L"], decoder_input: Int[Tensor, "B T"]
) -> dict[str, Any]:
    """The arguments of a model's call that decodes over all passages' states of each question."""
    batch, passages, length, width = states.shape
    return {
        "encoder_outputs": BaseModelOutput(last_hidden_state=states.reshape(batch, passages * length, width)),  # type: ignore[arg-type]
        "attention_mask": attention_mask.reshape(batch, passages * length),
        "decoder_input_ids": decoder_input,
    }


def _configured(model: PreTrainedModel, name: str) -> int | None:
    for config in (model.generation_config, model.config):
        token = getattr(config, name, None)
        if token is not None:
            return int(token)
    return None
