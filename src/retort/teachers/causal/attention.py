"""Where a causal language model looks: the attention that falls on each passage of one long prompt, as it is computed.

In-context re-ranking (Chen, Jimenez Gutierrez & Su, arXiv 2410.02642, section 3): the attention from the question's tokens
to a passage's, less what the same tokens get from a question without content. No attention map is ever stored: only the
rows that are asked for are computed a second time, from the queries and keys that the kernel is handed.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from transformers import Cache, PreTrainedModel

from retort.teachers.causal.likelihood import common_prefix, forward
from retort.teachers.heads import Heads, check_layers, heads_of
from retort.teachers.watching import watched

OUTLIERS = 2.0  # standard deviations (arXiv 2410.02642, section 3.2)


@dataclass(frozen=True)
class Looking:
    """The token ids of a prompt, and the positions in it that look back at the passages."""

    ids: list[int]
    rows: Sequence[int]


@torch.inference_mode()
def passage_attention(
    model: PreTrainedModel,
    prompt: Looking,
    passages: Sequence[range],
    *,
    calibration: Looking | None = None,
    heads: Heads | None = None,
    outliers: float = OUTLIERS,
) -> Float32[Tensor, "K"]:
    """The share of attention that falls on the tokens of each passage, mean over looking positions, heads and layers.

    With `calibration`, the same prompt around a question without content, what it gives a token is subtracted from that
    token's share first, and tokens that lie more than `outliers` standard deviations below the mean of their passage are
    left out of its sum, as in the paper. Then a score may be below 0. The passages must stand at the same positions in both
    prompts; what both begin with is read once. A passage without a token gets 0.
    The model is used as it stands: put it in eval mode. ValueError for a position or head that is not there.
    """
    if calibration is None:
        found = token_attention(model, prompt, heads=heads)
        return torch.stack([found[span.start : span.stop].sum() for span in passages])
    _check_alike(prompt, calibration, passages)
    shared = min(common_prefix([prompt.ids, calibration.ids]), *prompt.rows, *calibration.rows)
    prefix = _read(model, prompt.ids[:shared])
    bias = token_attention(model, calibration, heads=heads, shared=shared, prefix=deepcopy(prefix))
    found = token_attention(model, prompt, heads=heads, shared=shared, prefix=prefix)
    return torch.stack([_calibrated(found, bias, span, outliers) for span in passages])


@torch.inference_mode()
def token_attention(
    model: PreTrainedModel,
    prompt: Looking,
    *,
    heads: Heads | None = None,
    shared: int = 0,
    prefix: Cache | None = None,
) -> Float32[Tensor, "L"]:
    """The attention that each token of the prompt gets, after the softmax, mean over looking positions, heads and layers.

    `prefix` holds keys and values of the first `shared` tokens, none of which looks; it is written to. TypeError where the
    model's attention does not go through transformers' attention interface.
    """
    if not prompt.rows or not shared <= min(prompt.rows) <= max(prompt.rows) < len(prompt.ids):
        raise ValueError(
            f"looking positions {list(prompt.rows)}, expected one or more from {shared} to {len(prompt.ids) - 1}: look at "
            "the prompt and its question"
        )
    ids = torch.tensor(prompt.ids[shared:], device=model.device)[None]
    rows = torch.tensor(prompt.rows, device=model.device)
    kept: list[Float[Tensor, "h L"]] = []
    found: set[int] = set()

    def look(module: Any, query: Tensor, key: Tensor, _: Tensor, mask: Tensor | None, options: Mapping[str, Any]) -> None:  # noqa: ANN401
        found.add(module.layer_idx)
        if chosen := heads_of(module.layer_idx, heads, query.shape[1]):
            kept.append(_attention(query[0], key[0], mask, rows, torch.tensor(chosen), len(prompt.ids), options))

    with watched(model, look):
        everything = torch.ones((1, len(prompt.ids)), dtype=torch.bool, device=model.device)
        forward(model, ids, everything, prefix, use_cache=prefix is not None, logits_to_keep=1)
    if not found:
        raise TypeError(
            f"{type(model).__name__} called no attention through transformers' attention interface: expected a causal "
            "language model such as GPT-2, Llama or Qwen; label by a likelihood instead"
        )
    check_layers(heads, found)
    return torch.cat(kept).mean(0).cpu()


def _attention(
    query: Float[Tensor, "H T D"],
    key: Float[Tensor, "G S D"],
    mask: Tensor | None,
    rows: Tensor,
    heads: Tensor,
    length: int,
    options: Mapping[str, Any],
) -> Float32[Tensor, "h L"]:
    """What each of the prompt's `length` tokens gets from the rows, mean over the rows; 0 for those out of a window.

    The inputs are the last T tokens of the prompt, the keys its last S.
    """
    tokens, keys = query.shape[1], key.shape[1]
    local = rows - (length - tokens)
    groups = heads // (query.shape[0] // key.shape[0])  # grouped-query attention: one key head for several
    scale = options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query[heads][:, local] @ key[groups].transpose(1, 2)).float() * scale
    if (cap := options.get("softcap")) is not None:  # Gemma 2
        scores = (scores / cap).tanh() * cap
    if mask is not None and mask.dim() == 4:
        visible = mask[0].expand(len(query), -1, -1)[heads][:, local, :keys]
        scores = scores.masked_fill(~visible, -torch.inf) if mask.dtype == torch.bool else scores + visible.float()
    else:
        place = torch.arange(length - keys, length, device=rows.device)
        hidden = place > rows[:, None]
        if (window := options.get("sliding_window")) is not None:
            hidden |= place <= rows[:, None] - window
        scores = scores.masked_fill(hidden, -torch.inf)
    if (sinks := options.get("s_aux")) is not None:  # gpt-oss: attention that falls on no token
        scores = torch.cat([scores, sinks[heads].float()[:, None, None].expand(-1, len(rows), 1)], dim=-1)
    shares = scores.softmax(-1)[..., :keys].mean(1)
    return torch.cat([shares.new_zeros(len(heads), length - keys), shares], dim=1)


def _calibrated(
    found: Float32[Tensor, "L"], bias: Float32[Tensor, "M"], span: range, outliers: float
) -> Float32[Tensor, ""]:
    """The sum over a passage's tokens of what they get beyond their bias, outliers below left out."""
    gained = (found[span.start : span.stop] - bias[span.start : span.stop]).double()  # so that equal ones equal their mean
    if not len(gained):
        return gained.sum().float()
    least = gained.mean() - outliers * gained.std(correction=0)
    return gained[gained >= least].sum().float()


def _read(model: PreTrainedModel, ids: list[int]) -> Cache | None:
    """Keys and values of the tokens; None of no token."""
    if not ids:
        return None
    everything = torch.ones((1, len(ids)), dtype=torch.bool, device=model.device)
    inputs = torch.tensor(ids, device=model.device)[None]
    return forward(model, inputs, everything, None, use_cache=True, logits_to_keep=1).past_key_values


def _check_alike(prompt: Looking, calibration: Looking, passages: Sequence[range]) -> None:
    end = max((span.stop for span in passages), default=0)
    if prompt.ids[:end] != calibration.ids[:end]:
        raise ValueError(
            f"the prompts of question and calibration differ within the first {end} tokens, expected the same passages at "
            "the same positions in both: put the question behind the passages"
        )
