"""How likely the reader finds the answer: PDist, leave-one-out (LOOP), and EMDR2's marginal likelihood.

Sources: Izacard et al., "Atlas" (arXiv 2208.03299), section 2.2; Singh et al., "End-to-End Training of Multi-Document Reader
and Retriever" (EMDR2, arXiv 2106.05346). Temperatures belong to the student's loss: none ever touches vocabulary logits.
"""

from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from retort.teachers.fid.decoding import IGNORED, start_token
from retort.teachers.fid.encoding import encode_passages
from retort.teachers.fid.model import FusionInDecoder

Decoder = PreTrainedModel | FusionInDecoder


def pdist(
    model: Decoder, input_ids: Int[Tensor, "B K L"], attention_mask: Int[Tensor, "B K L"], labels: Int[Tensor, "B T"]
) -> Float[Tensor, "B K"]:
    """The mean log-probability of the target's tokens where the reader sees one passage alone (Atlas's PDist, `ppmean`).

    gold_k = (1/z) sum_t log p(a_t | a_<t, q, d_k), over the z real tokens of `labels` ([B, T], -100 behind the end), in nats
    a token: the end token counts. A passage's score depends on no other passage. A missing passage gets -inf.
    """
    reader = as_fusion(model)
    states = encode_passages(reader.model, input_ids, attention_mask)
    return per_token(alone(reader, states, input_ids, attention_mask, labels), labels)


def loop(
    model: Decoder, input_ids: Int[Tensor, "B K L"], attention_mask: Int[Tensor, "B K L"], labels: Int[Tensor, "B T"]
) -> Float[Tensor, "B K"]:
    """What the target costs without each passage: a higher loss without passage k says that k was of use (Atlas's LOOP).

    gold_k = (1/z) sum_t -log p(a_t | a_<t, q, D without d_k), in nats a token. Passages are encoded once, and the decoder
    makes their keys and values once a question; only the mask differs. A missing passage gets -inf. ValueError where a
    question has one passage only: without it, nothing is left to read.
    """
    reader = as_fusion(model)
    states = encode_passages(reader.model, input_ids, attention_mask)
    return left_out(reader, states, input_ids, attention_mask, labels)


def emdr2(
    token_log_probs: Float[Tensor, "B K T *V"],
    retriever_log_probs: Float[Tensor, "B K"],
    labels: Int[Tensor, "B T"],
    *,
    level: Literal["token", "sequence"] = "token",
) -> Float[Tensor, ""]:
    """The negative marginal log-likelihood of the targets, the passage being a latent variable; a scalar, to be minimised.

    `token_log_probs`: log p(a_t | a_<t, q, d_k) of the target tokens, or of the whole vocabulary ([B, K, T, V]), each
    passage alone. `retriever_log_probs`: log p(d_k | q), a log-softmax of the student's scores, which learns.
    token: -(1/#tokens) sum_b sum_t logsumexp_k(log p(a_t|..., d_k) + log p(d_k)), as both public codes compute it.
    sequence: -mean_b logsumexp_k(sum_t log p(a_t|..., d_k) + log p(d_k)), as the paper writes it. With one passage
    token is the reader's cross-entropy; with targets of one token both are the same.

    >>> p, q = torch.tensor([[[0.5, 0.5], [0.2, 0.8]]]), torch.tensor([[0.5, 0.5]])
    >>> [round(float(emdr2(p.log(), q.log(), torch.tensor([[7, 1]]), level=level)), 4) for level in ("token", "sequence")]
    [0.7403, 1.5847]
    """
    real = labels != IGNORED
    given = token_log_probs
    if given.ndim == 4:  # the whole vocabulary
        wanted = labels.clamp(min=0)[:, None, :, None].expand(-1, given.shape[1], -1, -1)
        given = given.gather(-1, wanted)[..., 0]
    given = given.masked_fill(~real[:, None], 0.0)
    if level == "sequence":
        return -(given.sum(-1) + retriever_log_probs).logsumexp(1).mean()
    marginal = (given + retriever_log_probs[..., None]).logsumexp(1)
    return -marginal.masked_fill(~real, 0.0).sum() / real.sum()


def as_fusion(model: Decoder) -> FusionInDecoder:
    """A reader as it is; a bare encoder-decoder as one that does not copy."""
    return model if isinstance(model, FusionInDecoder) else FusionInDecoder(model)


def per_token(log_probs: Float[Tensor, "B K T"], labels: Int[Tensor, "B T"]) -> Float[Tensor, "B K"]:
    """The mean over a target's real tokens."""
    return log_probs.sum(-1) / (labels != IGNORED).sum(-1).clamp(min=1)[:, None]


def alone(
    reader: FusionInDecoder,
    states: Float[Tensor, "B K L D"],
    input_ids: Int[Tensor, "B K L"],
    attention_mask: Int[Tensor, "B K L"],
    labels: Int[Tensor, "B T"],
) -> Float[Tensor, "B K T"]:
    """Log-probabilities of the target's tokens given each passage alone; 0 at pads, -inf for missing passages."""
    batch, passages = attention_mask.shape[:2]
    present = attention_mask.bool().any(-1).flatten()
    each = [tensor.flatten(0, 1)[present][:, None] for tensor in (states, input_ids, attention_mask)]
    targets = labels.repeat_interleave(passages, 0)
    found = torch.full(targets.shape, -torch.inf, device=states.device)
    found[present] = reader.target_log_probs(each[0], each[1], each[2], targets[present])
    return found.view(batch, passages, -1)


def left_out(
    reader: FusionInDecoder,
    states: Float[Tensor, "B K L D"],
    input_ids: Int[Tensor, "B K L"],
    attention_mask: Int[Tensor, "B K L"],
    labels: Int[Tensor, "B T"],
) -> Float[Tensor, "B K"]:
    """`loop` where the passages are already encoded."""
    present = attention_mask.bool().any(-1)
    if single := (present.sum(1) < 2).nonzero().flatten().tolist():
        raise ValueError(
            f"leaving one passage out of one leaves nothing to read (rows {single[:5]} of the batch): give each question "
            "two passages or more, or take pdist"
        )
    scores = torch.full(present.shape, -torch.inf, device=states.device)
    for row, kept in enumerate(present):
        count = int(kept.sum())
        without = attention_mask[row, kept][None] * (1 - torch.eye(count, dtype=torch.long, device=states.device))[..., None]
        whole = states[row, kept][None], input_ids[row, kept][None]
        past = _keys_of(reader, *whole, attention_mask[row, kept][None], count)
        every = [tensor.expand(count, *tensor.shape[1:]) for tensor in (*whole, labels[row][None])]
        found = reader.target_log_probs(every[0], every[1], without, every[2], past)
        scores[row, kept] = -per_token(found[:, None], every[2])[:, 0]
    return scores


def _keys_of(reader: FusionInDecoder, states: Tensor, input_ids: Tensor, attention_mask: Tensor, rows: int) -> Cache:
    """The decoder's cross-attention keys and values of one question's passages, seen by `rows` rows without a copy."""
    start = torch.full_like(input_ids[:, 0, :1], start_token(reader.model))
    _, past = reader.next_token(states, input_ids, attention_mask, start, cached=True)
    cross = cast(EncoderDecoderCache, past).cross_attention_cache
    for layer in cross.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)  # type: ignore[union-attr]
        layer.values = layer.values.expand(rows, -1, -1, -1)  # type: ignore[union-attr]
    return EncoderDecoderCache(DynamicCache(), cross)
