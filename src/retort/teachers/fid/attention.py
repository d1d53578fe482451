"""The FiD-KD label: a reader's cross-attention scores, read through transformers' attention interface.

Here: capturing pre-softmax cross-attention of any encoder-decoder under any attention kernel, and its aggregation to one
score a passage. Not here: prompts, tokenising, and the pass over a whole Run (model.py, labelling in pipeline.py).
Source: Izacard & Grave, "Distilling Knowledge from Reader to Retriever for Question Answering" (arXiv 2012.04584), sec. 3.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from retort.teachers.fid.encoding import encode_passages

Reduce = Callable[[Float[Tensor, "B H T S"]], Tensor]
Stage = Literal["pre_softmax", "post_softmax"]
Tokens = Literal["mean", "sum"]


def passage_scores(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "B K L"],
    attention_mask: Int[Tensor, "B K L"],
    *,
    stage: Stage = "pre_softmax",
    tokens: Tokens = "mean",
) -> Float[Tensor, "B K"]:
    """G, the FiD-KD label: the mean pre-softmax cross-attention score that each passage gets at the first decoder position.

    G_p = sum over layers, heads and real tokens of q_0 . k_j, divided by their number (paper, section 3.1; methods 2.3):
    one encoder pass, one decoder step, no answer. The score is what enters the softmax, so BERT's and BART's
    1/sqrt(d) is in it and T5, which has none, has none. Pads count nowhere; a passage without a real token gets -inf.
    G depends on the whole set of passages (the decoder state carries them), not on their order.
    The model is used as it stands: put it in eval mode for labels without dropout. Raw; normalise where it is used.

    `stage` post_softmax with `tokens` sum gives the share of attention that falls on each passage instead, in 0..1; the
    shares of a question add up to 1.
    """
    states = encode_passages(model, input_ids, attention_mask)
    return scores_from_states(model, states, attention_mask, stage=stage, tokens=tokens)


def scores_from_states(
    model: PreTrainedModel,
    states: Float[Tensor, "B K L D"],
    attention_mask: Int[Tensor, "B K L"],
    *,
    stage: Stage = "pre_softmax",
    tokens: Tokens = "mean",
) -> Float[Tensor, "B K"]:
    """`passage_scores` where the passages are already encoded, so that several signals share one encoder pass."""
    scores = first_step_scores(model, states, attention_mask, stage=stage)
    real = attention_mask.bool()
    total = scores.masked_fill(~real, 0.0).sum(-1)
    if tokens == "mean":
        total = total / real.sum(-1).clamp(min=1)
    return torch.where(real.any(-1), total, -torch.inf if stage == "pre_softmax" else 0.0)


def first_step_scores(
    model: PreTrainedModel,
    states: Float[Tensor, "B K L D"],
    attention_mask: Int[Tensor, "B K L"],
    *,
    stage: Stage = "pre_softmax",
) -> Float[Tensor, "B K L"]:
    """Cross-attention of the first decoder position, mean over layers and heads, one value a token.

    Before the softmax, pads hold whatever the kernel's inputs give: mask them; after it, 0. This is also what a heat-map of
    the reader shows.
    """
    batch, passages, length, width = states.shape
    start = torch.full((batch, 1), start_token(model), device=states.device)
    mask = attention_mask.view(batch, passages * length)

    def reduce(scores: Float[Tensor, "B H T S"]) -> Float[Tensor, "B S"]:
        return (scores.float().mean(1) if stage == "pre_softmax" else distribution(scores, mask))[:, 0]

    with captured_scores(model, reduce, passages * length) as layers:
        model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states.view(batch, passages * length, width)),  # type: ignore[arg-type]
            attention_mask=mask,
            decoder_input_ids=start,
            use_cache=False,
        )
    if not layers:
        raise TypeError(
            f"{type(model).__name__} called no cross-attention through transformers' attention interface: expected an "
            "encoder-decoder such as T5, BART or EncoderDecoderModel whose decoder attends to the encoder"
        )
    return torch.stack(layers).mean(0).view(batch, passages, length)


def distribution(scores: Float[Tensor, "B H T S"], mask: Int[Tensor, "B S"]) -> Float[Tensor, "B T S"]:
    """The softmax of cross-attention scores over the real tokens, mean over heads, in float32; 0 at pads."""
    floor = torch.finfo(torch.float32).min
    return scores.float().masked_fill(~mask.bool()[:, None, None], floor).softmax(-1).mean(1)


def start_token(model: PreTrainedModel) -> int:
    """The id that the decoder starts from. ValueError where neither config says it."""
    for name in ("decoder_start_token_id", "bos_token_id"):
        for config in (model.generation_config, model.config):
            token = getattr(config, name, None)
            if token is not None:
                return int(token)
    raise ValueError(
        f"{type(model).__name__} names no decoder start token: set config.decoder_start_token_id (T5: the pad id, "
        "a BERT decoder: the id of [CLS])"
    )


@contextmanager
def captured_scores(model: PreTrainedModel, reduce: Reduce, source_tokens: int) -> Iterator[list[Tensor]]:
    """The list that `reduce(pre-softmax scores)` of each cross-attention call of `model` is appended to, layer by layer.

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
                kept.append(reduce(query @ _repeated(key, query.shape[1]).transpose(-1, -2) * scale))
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


def _repeated(key: Tensor, heads: int) -> Tensor:
    """Keys once per query head (grouped-query attention shares one key head among several)."""
    return key if key.shape[1] == heads else key.repeat_interleave(heads // key.shape[1], dim=1)
