"""The cross-attention bias of T5 in transformers 3.0.2, with which FiD's readers were trained, on a T5 of today.

The first decoder layer owned it and all layers shared it (methods 2.3). Keys are told apart by how far behind a decoder
position they stand in the whole of a question's passages, so it touches the first few tokens of the first passage alone.
"""

import warnings
from collections.abc import Collection
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, T5ForConditionalGeneration

REMOVED_BIAS = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
MAPPED = "removed_cross_attention_bias"  # what its name is turned into, since transformers ignores it under its own
KEY_MAPPING = {rf"^{REMOVED_BIAS}$".replace(".", r"\."): MAPPED}


def keep_bias(model: T5ForConditionalGeneration, bias: Float[Tensor, "buckets H"]) -> None:
    """Give the model its bias back, as a weight under its old name: scores, losses and answers are then 3.0.2's."""
    attention = _owner(model)
    attention.relative_attention_bias = nn.Embedding.from_pretrained(bias.clone(), freeze=False)
    attention.register_forward_pre_hook(_biased, with_kwargs=True)


def kept_bias(model: PreTrainedModel) -> Float[Tensor, "buckets H"] | None:
    """The bias that `keep_bias` gave the model, or None."""
    if not isinstance(model, T5ForConditionalGeneration):
        return None
    table = getattr(_owner(model), "relative_attention_bias", None)
    return None if table is None else table.weight


def warn_of_removed_bias(names: Collection[str], what: str) -> None:
    """Say that a checkpoint's bias is dropped, where `names`, which the model has no place for, hold it."""
    if MAPPED in names:
        warnings.warn(
            f"{what} holds {REMOVED_BIAS}, which no T5 since transformers 3.1 has: it is dropped. A pre-trained T5 "
            "loses nothing by it; answers of a reader that FiD trained change a little, and it keeps the bias if it is "
            "converted by `retort convert --keep-bias`",
            stacklevel=2,
        )


def _owner(model: T5ForConditionalGeneration) -> Any:  # noqa: ANN401 (modules in lists have no type)
    return model.decoder.block[0].layer[1].EncDecAttention  # type: ignore[union-attr, index]


def _biased(attention: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ANN401
    """The arguments of the first layer's cross-attention with the bias, which that layer hands on to the others."""
    positions, keys, past = arguments[0].shape[1], named["key_value_states"].shape[1], named["past_key_values"]
    before = 0 if past is None else past.get_seq_length() - positions  # self-attention has cached these positions already
    return arguments, named | {"position_bias": attention.compute_bias(positions, keys, past_seen_tokens=before)}
