"""Reading cross-attention through transformers' attention interface, under any kernel and without keeping a map.

Here: capturing the scores before the softmax, and the softmax itself. Not here: what is made of them (attention.py).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from retort.teachers.watching import watched

# takes one layer's scores before the softmax, and its values
See = Callable[[Float[Tensor, "B H T S"], Float[Tensor, "B H S d"]], None]


@contextmanager
def captured_scores(model: PreTrainedModel, see: See, source_tokens: int) -> Iterator[None]:
    """Inside, `see(pre-softmax scores, values)` is called at each cross-attention of `model`, layer by layer.

    Works for every attention kernel, since it takes the queries and keys that are handed to it and leaves the kernel its
    work. A position bias that the kernel would add is in the scores. Nothing is kept, so a call holds one layer's map.
    A call of the model is cross-attention where its keys are as many as the `source_tokens` and it is not marked
    causal, as the decoder's self-attention is; the encoder must not run inside this block. It replaces an entry of a global
    table of transformers, so one thread at a time.
    """

    def look(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: object, options: Mapping[str, Any]) -> None:
        if key.shape[-2] != source_tokens or getattr(module, "is_causal", False):
            return
        heads, scale, bias = query.shape[1], options.get("scaling"), options.get("position_bias")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        scores = query @ _repeated(key, heads).transpose(-1, -2) * scale
        see(scores if bias is None else scores + bias, _repeated(value, heads))

    with watched(model, look):
        yield


def shares(scores: Float[Tensor, "B H T S"], mask: Int[Tensor, "B S"]) -> Float[Tensor, "B H T S"]:
    """The softmax of cross-attention scores over the real tokens, in float32; 0 at pads."""
    floor = torch.finfo(torch.float32).min
    return scores.float().masked_fill(~mask.bool()[:, None, None], floor).softmax(-1)


def _repeated(heads_of: Tensor, heads: int) -> Tensor:
    """Keys or values once per query head (grouped-query attention shares one of them among several)."""
    return heads_of if heads_of.shape[1] == heads else heads_of.repeat_interleave(heads // heads_of.shape[1], dim=1)
