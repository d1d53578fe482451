"""The encoder half of Fusion-in-Decoder: every passage string encoded alone, in chunks of similar length.

Source: Izacard & Grave, "Leveraging Passage Retrieval with Generative Models" (arXiv 2007.01282), section 3.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from retort.tensors import suited

CHUNK_TOKENS = 8192  # padded tokens of one encoder call on a GPU: fills it, and bounds activations


def encode_passages(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "B K L"],
    attention_mask: Int[Tensor, "B K L"],
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Float[Tensor, "B K L D"]:
    """Encoder states of B x K independent strings, zero at pads.

    Strings are sorted by length and encoded in chunks trimmed to their longest member, so that pads cost little; a string
    without a real token (a missing passage) is not encoded at all. A chunk has `chunk_tokens` at most, and no more than
    suits the device. ValueError where a pad stands before a real token.
    """
    chunk_tokens = suited(chunk_tokens, input_ids.device)
    batch, passages, length = input_ids.shape
    if bool((attention_mask[..., 1:] > attention_mask[..., :-1]).any()):
        raise ValueError("a pad stands before a real token: expected pads on the right, as `tokenise_passages` puts them")
    ids, mask = input_ids.reshape(-1, length), attention_mask.reshape(-1, length)
    lengths = mask.sum(-1)
    order = lengths.argsort(descending=True, stable=True)
    encoder = model.get_encoder()
    states: list[Tensor] = []
    at = 0
    while at < len(order) and (longest := int(lengths[order[at]])) > 0:
        rows = order[at : at + max(1, chunk_tokens // longest)]
        rows = rows[lengths[rows] > 0]
        part = encoder(input_ids=ids[rows, :longest], attention_mask=mask[rows, :longest]).last_hidden_state
        part = part * mask[rows, :longest, None].to(part.dtype)
        states.append(torch.nn.functional.pad(part, (0, 0, 0, length - longest)))
        at += len(rows)
    if not states:
        raise ValueError(f"none of the {batch} x {passages} passage strings has a token: expected at least one real token")
    missing = len(order) - at
    if missing:
        states.append(states[0].new_zeros(missing, length, states[0].shape[-1]))
    return torch.cat(states)[order.argsort()].view(batch, passages, length, -1)
