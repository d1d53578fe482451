"""Reading cross-attention through transformers' attention interface, under any kernel and without keeping a map.

Here: capturing the scores before the softmax, and the softmax itself. Not here: what is made of them (attention.py).
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# makes of one layer's scores before the softmax, and of its values, what is kept
Reduce = Callable[[Float[Tensor, "B H T S"], Float[Tensor, "B H S d"]], Tensor]


@contextmanager
def captured_scores(model: PreTrainedModel, reduce: Reduce, source_tokens: int) -> Iterator[list[Tensor]]:
    """The list that `reduce(pre-softmax scores, values)` of each cross-attention call of `model` is appended to, by layer.

    Works for every attention kernel, since it takes the queries and keys that are handed to it and leaves the kernel its
    work. A call of the model is cross-attention where its keys are as many as the `source_tokens` and it is not marked
    causal, as the decoder's self-attention is; the encoder must not run inside this block. It replaces an entry of a global
    table of transformers, so one thread at a time.
    """
    kept: list[Tensor] = []
    ours = set(model.modules())
    names = {module.config._attn_implementation for module in ours if isinstance(module, PreTrainedModel)}
    table = ALL_ATTENTION_FUNCTIONS

    def capturing(base: Callable | None) -> Callable:
        def attention(
            module: torch.nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            mask: Tensor | None,
            **kwargs: Any,  # noqa: ANN401 (each kernel's own)
        ) -> tuple[Tensor, Tensor | None]:
            if module in ours and key.shape[-2] == source_tokens and not getattr(module, "is_causal", False):
                scale = kwargs.get("scaling")
                scale = query.shape[-1] ** -0.5 if scale is None else scale
                heads = query.shape[1]
                kept.append(reduce(query @ _repeated(key, heads).transpose(-1, -2) * scale, _repeated(value, heads)))
            kernel = base or sys.modules[type(module).__module__].eager_attention_forward
            return kernel(module, query, key, value, mask, **kwargs)

        return attention

    before = {name: table._local_mapping.get(name) for name in names}
    try:
        for name in names:
            table[name] = capturing(table.get(name))
        yield kept
    finally:
        for name, function in before.items():
            if function is None:
                del table[name]
            else:
                table[name] = function


def shares(scores: Float[Tensor, "B H T S"], mask: Int[Tensor, "B S"]) -> Float[Tensor, "B H T S"]:
    """The softmax of cross-attention scores over the real tokens, in float32; 0 at pads."""
    floor = torch.finfo(torch.float32).min
    return scores.float().masked_fill(~mask.bool()[:, None, None], floor).softmax(-1)


def _repeated(heads_of: Tensor, heads: int) -> Tensor:
    """Keys or values once per query head (grouped-query attention shares one of them among several)."""
    return heads_of if heads_of.shape[1] == heads else heads_of.repeat_interleave(heads // heads_of.shape[1], dim=1)
