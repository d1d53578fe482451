"""Readers out of the state dicts of FiD and Atlas: the names of their weights, and the T5 that they are of.

Not here: reading the files (importing.py), a T5 out of a state dict whose names are transformers' (loading.py).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from retort.teachers.fid.bias import REMOVED_BIAS, keep_bias
from retort.teachers.fid.loading import load_t5
from retort.teachers.fid.model import Reader
from retort.teachers.tokenizers import check_vocabulary, padding_token

ARCHITECTURE = (
    "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "dropout_rate",
    "relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj",
    "pad_token_id", "eos_token_id", "decoder_start_token_id", "tie_word_embeddings",
)  # fmt: skip


def t5_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under transformers' names: FiD's second encoder and every wrapper's `module` go.

    ValueError where two weights get one name.

    >>> list(t5_names({"encoder.encoder.block.0.module.layer.1.layer_norm.weight": torch.ones(2)}))
    ['encoder.block.0.layer.1.layer_norm.weight']
    """
    names: dict[str, Tensor] = {}
    for name, value in state.items():
        short = ".".join(part for part in name.split(".") if part != "module")
        if short.startswith("encoder.encoder."):
            short = short.removeprefix("encoder.")
        if short in names:
            raise ValueError(
                f"two weights are called {short!r}, the second as {name!r}: expected one reader in a checkpoint"
            )
        names[short] = value
    return names


def t5_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of a T5Config that the shapes of its weights (by transformers' names) tell; Atlas saves no config.

    An output table of its own or a gated feed-forward layer is T5 1.1's. The rest is the same in all published T5.
    ValueError where it is no T5.
    """
    try:
        words, width = state["shared.weight"].shape
        buckets, heads = state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].shape
        inner = len(state["encoder.block.0.layer.0.SelfAttention.q.weight"])
        forward = "encoder.block.0.layer.1.DenseReluDense."
        gated = f"{forward}wi_0.weight" in state
        hidden = len(state[f"{forward}{'wi_0' if gated else 'wi'}.weight"])
    except KeyError as error:
        raise ValueError(f"no T5 state dict: it lacks {error}; found {sorted(state)[:5]}") from None
    layers = {side: len({name.split(".")[2] for name in state if name.startswith(f"{side}.block.")})
              for side in ("encoder", "decoder")}  # fmt: skip
    return {
        "vocab_size": words, "d_model": width, "d_kv": inner // heads, "num_heads": heads, "d_ff": hidden,
        "num_layers": layers["encoder"], "num_decoder_layers": layers["decoder"], "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu" if gated else "relu", "decoder_start_token_id": 0,
        "tie_word_embeddings": torch.equal(state.get("lm_head.weight", state["shared.weight"]), state["shared.weight"]),
    }  # fmt: skip


def imported_reader(
    state: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    config: Mapping[str, Any] | None = None,
    *,
    with_bias: bool = False,
) -> tuple[Reader, tuple[str, ...]]:
    """The reader of FiD's or Atlas's weights, and a sentence for each thing that it does not keep.

    `config` is what stands beside FiD's weights; without one it is told from their shapes. `with_bias` keeps the
    cross-attention bias of transformers 3.0.2, so that its scores, losses and answers are exact. ValueError: missing,
    unknown or misshapen weights, no bias where it is to be kept, a tokeniser of another vocabulary.
    """
    weights = t5_names(state)
    if config is None:
        architecture = t5_architecture(weights)
    else:
        architecture = {"decoder_start_token_id": 0} | {name: config[name] for name in ARCHITECTURE if name in config}
    if with_bias and REMOVED_BIAS not in weights:
        raise ValueError(f"the cross-attention bias is to be kept, but there is no {REMOVED_BIAS}: leave --keep-bias out")
    model = load_t5(weights, architecture)
    if with_bias:
        keep_bias(model, weights[REMOVED_BIAS])
    padding_token(tokenizer)
    check_vocabulary(model, tokenizer)
    return Reader(model, tokenizer), () if with_bias else _dropped(weights)


def _dropped(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    bias = weights.get(REMOVED_BIAS)
    if bias is None:
        return ()
    # at the first decoder position every key is in bucket 0, so all of them get the same (methods 2.3)
    constant = float(bias[0].float().mean())
    return (
        f"{REMOVED_BIAS} is dropped, which no T5 since transformers 3.1 has: raw fid_kd scores are lower by {constant:.4f} "
        "for every passage alike, their softmax is the same; answers and their likelihood may change a little "
        "(--keep-bias keeps it)",
    )
