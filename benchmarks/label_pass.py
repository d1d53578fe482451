"""How much faster a label is: one encoder pass and one decoder step, against the label as FiD's code obtains it.

The slow side is our own transcription of what that code does: every passage string padded to 200 tokens and encoded with
eager attention, then a greedy generation with a key-value cache, of whose first step the cross-attention scores are kept. It
is timed at 50 generated tokens (FiD's limit, which a batch reaches where one of its answers does not end) and at 5 (a short
answer). All sides take turns, and medians are compared; so are the labels, which must be the same. The T5 is random and in
float32: no time depends on its weights. Prints one line of JSON; needs no data.

    python benchmarks/label_pass.py [--size tiny|small|base] [--repeats 5]
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from rows import print_line
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from retort.teachers.fid.attention import passage_scores

PADDED = 200  # tokens of every passage string in FiD's code
GENERATED = (50, 5)  # answer tokens: FiD's limit, and a short answer
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 200, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "small": {"vocab_size": 32_128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "base": {"vocab_size": 32_128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    model, ids, mask = random_case(arguments.size, arguments.passages)
    systems: dict[str, Callable[[], Tensor]] = {"one step": lambda: label(model, ids, mask)}
    for tokens in GENERATED:
        systems[f"generation of {tokens}"] = lambda tokens=tokens: generated_label(model, ids, mask, tokens=tokens)
    with torch.no_grad():
        labels = {name: system() for name, system in systems.items()}  # warm-up
        seconds = timed(systems, arguments.repeats)
    ours = "one step"
    facts = {
        "size": arguments.size,
        "passages": arguments.passages,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "ratio": {name: round(value / seconds[ours], 2) for name, value in seconds.items() if name != ours},
        "largest difference of labels": max(float((other - labels[ours]).abs().max()) for other in labels.values()),
    }
    print_line("label_pass", facts, argv=argv)


def random_case(size: str, passages: int) -> tuple[T5ForConditionalGeneration, Int[Tensor, "1 K L"], Int[Tensor, "1 K L"]]:
    """A random T5 in evaluation mode and one question's passages of 130 to 200 tokens, 165 on average."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(T5Config(**SIZES[size], pad_token_id=0, eos_token_id=1, decoder_start_token_id=0))
    lengths = torch.randint(130, PADDED + 1, (1, passages, 1), generator=generator)
    mask = (torch.arange(PADDED) < lengths).long()
    ids = torch.randint(2, SIZES[size]["vocab_size"], mask.shape, generator=generator) * mask
    return model.eval(), ids, mask


def label(model: T5ForConditionalGeneration, ids: Int[Tensor, "B K L"], mask: Int[Tensor, "B K L"]) -> Float[Tensor, "B K"]:
    """Retort's label, with the attention kernel that transformers prefers."""
    model.set_attn_implementation("sdpa")
    return passage_scores(model, ids, mask)


def generated_label(
    model: T5ForConditionalGeneration, ids: Int[Tensor, "B K L"], mask: Int[Tensor, "B K L"], *, tokens: int
) -> Float[Tensor, "B K"]:
    """The same label by a whole greedy generation of exactly `tokens`, all passages padded to one length.

    Queries and keys of the first step are taken from the projections of each cross-attention layer, so nothing of
    Retort's own capture is in it.
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
    total = torch.zeros(batch, passages * length)
    for layer in layers:
        query, key = (kept[one].unflatten(-1, (layer.n_heads, -1)).float() for one in (layer.q, layer.k))
        total += torch.einsum("bhd,bshd->bs", query[:, 0], key)
    heads = sum(layer.n_heads for layer in layers)
    return (total.view_as(mask) * mask).sum(-1) / mask.sum(-1) / heads


def timed(systems: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """The median seconds of each system over `repeats` rounds, in each of which all take their turn."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(repeats):
        for name, system in systems.items():
            started = time.perf_counter()
            system()
            seconds[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in seconds.items()}


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="of the random T5 (default small)")
    parser.add_argument("--passages", type=int, default=8, help="of the one question that is labelled (default 8)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each side (default 5)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
