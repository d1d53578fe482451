"""The FiD-KD label as the published code comes to it, written from the paper: slow, and meant to be.

Here: a whole greedy generation over padded passages, of whose first step the cross-attention scores are kept. It is what
Retort's label must equal (test_fid_label.py), and what it is timed against (benchmarks/label_pass.py). Nothing of Retort's
own encoding or capture is in it. Source: Izacard & Grave, arXiv 2012.04584, section 3; methods 2.3.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

PADDED = 200  # tokens of every passage string
GENERATED = 50  # answer tokens at most


@torch.no_grad()
def generated_label(
    model: T5ForConditionalGeneration, ids: Int[Tensor, "B K L"], mask: Int[Tensor, "B K L"], *, tokens: int = GENERATED
) -> Float[Tensor, "B K"]:
    """G of each passage: the mean of q_0 . k_j over layers, heads and real tokens, before the softmax and in float32.

    All passages are encoded in one call, pads with them, by eager attention; then exactly `tokens` are generated with a
    key-value cache. Queries and keys of the first step are what the projections of each cross-attention layer give.
    """
    model.set_attn_implementation("eager")
    batch, passages, length = ids.shape
    states = model.get_encoder()(ids.view(-1, length), attention_mask=mask.view(-1, length)).last_hidden_state
    layers = [block.layer[1].EncDecAttention for block in model.get_decoder().block]
    kept: dict[nn.Module, Tensor] = {}

    def keep_first(projection: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.setdefault(projection, output)

    hooks = [projection.register_forward_hook(keep_first) for layer in layers for projection in (layer.q, layer.k)]
    model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states.view(batch, passages * length, -1)),
        attention_mask=mask.view(batch, -1), do_sample=False, num_beams=1, min_new_tokens=tokens, max_new_tokens=tokens,
    )  # fmt: skip
    for hook in hooks:
        hook.remove()
    total = torch.zeros(batch, passages * length, device=ids.device)
    for layer in layers:
        query, key = (kept[one].unflatten(-1, (layer.n_heads, -1)).float() for one in (layer.q, layer.k))
        total += torch.einsum("bhd,bshd->bs", query[:, 0], key)
    heads = sum(layer.n_heads for layer in layers)
    return (total.view_as(mask) * mask).sum(-1) / mask.sum(-1) / heads
