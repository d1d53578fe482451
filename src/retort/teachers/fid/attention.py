"""The reader's attention as a label: FiD-KD's, Atlas's ADist, and every other point of their grid.

Here: the aggregation of captured cross-attention to one score a passage. Not here: capturing it (capture.py), the named
signals and their prompts (signals.py), likelihoods (likelihood.py).
Sources: Izacard & Grave, "Distilling Knowledge from Reader to Retriever for Question Answering" (arXiv 2012.04584), sec. 3;
Izacard et al., "Atlas" (arXiv 2208.03299), sec. 2.2.
"""

from collections.abc import Collection
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from retort.teachers.fid.capture import captured_scores, shares
from retort.teachers.fid.decoding import IGNORED, answer_positions, fused, shifted, start_token
from retort.teachers.fid.encoding import encode_passages
from retort.teachers.heads import Heads, check_layers, heads_of

Position = Literal["first", "all", "answer"]
Stage = Literal["pre_softmax", "post_softmax"]


def passage_scores(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "B K L"],
    attention_mask: Int[Tensor, "B K L"],
    *,
    labels: Int[Tensor, "B T"] | None = None,
    position: Position = "first",
    stage: Stage = "pre_softmax",
    tokens: str = "mean",
    value_norm: bool = False,
    exclude: Bool[Tensor, "B K L"] | None = None,
    layers: Collection[int] | None = None,
    heads: Heads | None = None,
) -> Float[Tensor, "B K"]:
    """The cross-attention that each passage gets. By default G, the FiD-KD label.

    G_p = sum over layers, heads and real tokens of q_0 . k_j, divided by their number (paper, section 3.1; methods 2.3):
    one encoder pass, one decoder step, no answer. The score is what enters the softmax, so BERT's and BART's
    1/sqrt(d) is in it and T5, which has none, has none. Pads count nowhere; a passage without a token that counts gets -inf.
    G depends on the whole set of passages (the decoder state carries them), not on their order.
    The model is used as it stands: put it in eval mode for labels without dropout. Raw; normalise where it is used.

    position: the decoder positions that look. first: the one that predicts the first token. all: every target position of
    `labels` ([B, T], -100 behind the end), teacher-forced. answer: of those, the ones that predict no end token.
    stage: the scores as they enter the softmax, or the shares of attention that leave it, which a question's real tokens
    share out among them (so a passage without a token that counts has 0).
    tokens: mean, sum or max over a passage's tokens; topN: the sum of its N largest over N, so that a token which a short
    passage does not have counts 0.
    value_norm: each token's value is multiplied by the length of its value vector before the output projection.
    exclude: True for tokens that do not count, such as the question's (`prompts.parts_of`). They keep their share.
    layers: those of the decoder that count, from 0, with all their heads; heads: single heads, by layer. None: all. Each
    head counts alike. All means are plain means.

    Order: mean over heads of all layers, tokens, positions. Atlas's ADist is position all, post_softmax, sum and
    value_norm; its code divides that by 256 besides. ValueError: no labels where they are read, an unknown aggregation, a
    layer or head that is not there, layers and heads together.
    """
    if layers is not None:
        if heads is not None:
            raise ValueError(f"layers {sorted(layers)} and heads {dict(heads)} are both given: name all as heads")
        heads = {layer: () for layer in layers}
    states = encode_passages(model, input_ids, attention_mask)
    return scores_from_states(
        model, states, attention_mask, labels=labels, position=position, stage=stage, tokens=tokens, value_norm=value_norm,
        exclude=exclude, heads=heads,
    )  # fmt: skip


def scores_from_states(
    model: PreTrainedModel,
    states: Float[Tensor, "B K L D"],
    attention_mask: Int[Tensor, "B K L"],
    *,
    labels: Int[Tensor, "B T"] | None = None,
    position: Position = "first",
    stage: Stage = "pre_softmax",
    tokens: str = "mean",
    value_norm: bool = False,
    exclude: Bool[Tensor, "B K L"] | None = None,
    heads: Heads | None = None,
) -> Float[Tensor, "B K"]:
    """`passage_scores` where the passages are already encoded, so that several signals share one encoder pass."""
    looking = _looking(model, labels, position).to(states.device)
    counted = attention_mask.bool()
    if exclude is not None:
        counted = counted & ~exclude
    by_token = token_scores(
        model, states, attention_mask, labels=None if position == "first" else labels, stage=stage, value_norm=value_norm,
        heads=heads,
    )  # fmt: skip
    by_position = aggregated(by_token, counted[:, None], tokens)
    score = (by_position * looking[..., None]).sum(1) / looking.sum(1).clamp(min=1)[:, None]
    return torch.where(counted.any(-1), score, -torch.inf if stage == "pre_softmax" else 0.0)


def token_scores(
    model: PreTrainedModel,
    states: Float[Tensor, "B K L D"],
    attention_mask: Int[Tensor, "B K L"],
    *,
    labels: Int[Tensor, "B T"] | None = None,
    stage: Stage = "pre_softmax",
    value_norm: bool = False,
    heads: Heads | None = None,
) -> Float[Tensor, "B T K L"]:
    """Cross-attention of each decoder position to each token, mean over the heads of all layers.

    Without labels, of the first position alone. Before the softmax, pads hold whatever the kernel's inputs give: mask them;
    after it, 0. This is also what a heat-map of the reader shows. Layers are summed as they come, so that one map is held.
    """
    batch, passages, length, _ = states.shape
    counts: list[int] = []  # of heads that count, by layer
    total = torch.zeros((), device=states.device)
    mask = attention_mask.reshape(batch, passages * length)

    def add(scores: Float[Tensor, "B H T S"], values: Float[Tensor, "B H S d"]) -> None:
        nonlocal total
        found = scores.float() if stage == "pre_softmax" else shares(scores, mask)
        if value_norm:
            found = found * values.float().norm(dim=-1)[:, :, None]
        chosen = heads_of(len(counts), heads, found.shape[1])
        counts.append(len(chosen))
        total = total + (found if heads is None else found[:, chosen]).sum(1)

    inputs = torch.full((batch, 1), start_token(model), device=states.device) if labels is None else shifted(model, labels)
    with captured_scores(model, add, passages * length):
        model(**fused(states, attention_mask, inputs), use_cache=False)
    if not counts:
        raise TypeError(
            f"{type(model).__name__} called no cross-attention through transformers' attention interface: expected an "
            "encoder-decoder such as T5, BART or EncoderDecoderModel whose decoder attends to the encoder"
        )
    check_layers(heads, range(len(counts)))
    return (total / sum(counts)).view(batch, -1, passages, length)


def aggregated(values: Float[Tensor, "*rows L"], counted: Bool[Tensor, "*#rows L"], tokens: str) -> Float[Tensor, "*rows"]:
    """One number for the tokens that count: their mean, sum, maximum, or topN. 0, or -inf of max, where none does.

    >>> values, counted = torch.tensor([1.0, 4.0, 2.0, 9.0]), torch.tensor([True, True, True, False])
    >>> [round(float(aggregated(values, counted, how)), 2) for how in ("mean", "sum", "max", "top2", "top4")]
    [2.33, 7.0, 4.0, 3.0, 1.75]
    """
    total = values.masked_fill(~counted, 0.0)
    if tokens in ("sum", "mean"):
        return total.sum(-1) / (counted.sum(-1).clamp(min=1) if tokens == "mean" else 1)
    ranked = values.masked_fill(~counted, -torch.inf)
    if tokens == "max":
        return ranked.amax(-1)
    if not (tokens.startswith("top") and tokens[3:].isdecimal() and int(tokens[3:]) > 0):
        raise ValueError(f"tokens is {tokens!r}, expected mean, sum, max, or top and a number such as top5")
    most = int(tokens[3:])
    best = ranked.topk(min(most, ranked.shape[-1])).values
    return best.masked_fill(best == -torch.inf, 0.0).sum(-1) / most


def _looking(model: PreTrainedModel, labels: Tensor | None, position: Position) -> Bool[Tensor, "_ T"]:
    """Which positions count; the first has no other beside it. ValueError where no labels are there to be teacher-forced."""
    if position == "first":
        return torch.ones((1, 1), dtype=torch.bool)
    if labels is None:
        raise ValueError(f"position {position!r} is teacher-forced: give `labels`, the target ids of each question")
    return labels != IGNORED if position == "all" else answer_positions(model, labels)
