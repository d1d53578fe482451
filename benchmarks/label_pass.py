"""How much faster a label is by one encoder pass and one decoder step than as FiD's code obtains it, and how near its floor.

The slow side is our own transcription of what that code does (tests/reference/fid_label.py): every passage string padded to
200 tokens and encoded with eager attention in float32, then a greedy generation with a key-value cache, of whose first step
the cross-attention scores are kept. It is timed at 50 generated tokens (FiD's limit, which a batch reaches where one of its
answers does not end) and at 5 (a short answer). The floor is what the encoder's products of the real tokens alone would
take at the rate of bare matrix products of the same shapes, measured in the same rounds.

Ours is timed in float32, and in bfloat16 where the machine multiplies it natively; the labels of all sides are compared as
softmax of scores that are divided by their own spread, since a random reader's hardly differ. The T5 is random: no time
depends on its weights. Passages have the lengths of real ones, counted by WordPiece. Prints one line of JSON.

    python benchmarks/label_pass.py [--size tiny|small|base] [--passages 100] [--repeats 5]
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from runpy import run_path
from typing import Any

import torch
from jaxtyping import Float, Int
from rows import ROOT, print_line
from scipy.stats import kendalltau
from speed import MINILM, Target, drawn, has_bfloat16, options, ratios, real_texts, seconds_of, timed
from torch import Tensor
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from retort.compute import model_path
from retort.config import Prompts
from retort.records import Group
from retort.teachers.fid.attention import passage_scores
from retort.teachers.fid.encoding import CHUNK_TOKENS
from retort.teachers.fid.prompts import passage_strings
from retort.tensors import suited

FID = run_path(str(ROOT / "tests" / "reference" / "fid_label.py"))
PADDED, generated_label = FID["PADDED"], FID["generated_label"]
GENERATED = (50, 5)  # answer tokens: FiD's limit, and a short answer
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 200, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "small": {"vocab_size": 32_128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "base": {"vocab_size": 32_128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lengths = real_lengths(arguments.passages, arguments.tokenizer)
    model, ids, mask = random_case(arguments.size, lengths, device)
    precisions = {"float32": torch.float32} | ({"bfloat16": torch.bfloat16} if has_bfloat16() else {})
    labels: dict[str, Callable[[], Tensor]] = {
        f"one step, {name}": lambda kind=kind: label(model, ids, mask, kind).cpu() for name, kind in precisions.items()
    }
    for tokens in GENERATED:
        labels[f"generation of {tokens}"] = lambda tokens=tokens: generated_label(model, ids, mask, tokens=tokens).cpu()
    found = {name: system() for name, system in labels.items()}  # warm-up
    best = list(precisions)[-1]
    product, operations = layer_products(model.config, suited(CHUNK_TOKENS, device), precisions[best], device)
    times = timed({**labels, "products of a layer": product}, arguments.repeats)
    floor = encoder_operations(model.config, lengths) / operations * times["products of a layer"].median
    ours, slow = f"one step, {best}", f"generation of {GENERATED[0]}"
    to_floor = times[ours].median / floor
    likeness = {name: alike(found[f"one step, {name}"], found[slow]) for name in precisions}
    ratio = ratios({name: one for name, one in times.items() if name in labels}, ours)
    facts = {
        "size": arguments.size,
        "passages": arguments.passages,
        "texts": real_texts().name,
        "tokens": {"real": sum(lengths), "FiD": len(lengths) * PADDED, "ours": encoded_tokens(model, ids, mask)},
        **seconds_of(times),
        "ratio": ratio,
        "floor": {"seconds": round(floor, 4), "GFLOP/s": round(operations / times["products of a layer"].median / 1e9, 1)},
        "labels": likeness,
        "targets": targets(f"label pass, T5-{arguments.size}, {best}", ratio[slow], to_floor, likeness),
    }
    print_line("label_pass", facts, argv=argv)


def targets(what: str, ratio: float, to_floor: float, likeness: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The verdicts on speed, and on how alike the labels are in each precision."""
    entries = [
        Target(what, f"FiD's code, {GENERATED[0]} tokens", at_least=5).found(ratio),
        Target(what, "its floor", at_most=1.5).found(to_floor),
    ]
    bounds = {"float32": 1e-5, "bfloat16": 2e-2}
    for name, bound in bounds.items():
        varying = Target(f"labels in {name}", "FiD's labels", at_most=bound, unit="total variation")
        ranking = Target(f"labels in {name}", "FiD's labels", at_least=0.99, unit="Kendall tau")
        for target, key in ((varying, "total variation"), (ranking, "Kendall tau")):
            missing = "no native bfloat16 here"
            entries.append(target.found(likeness[name][key]) if name in likeness else target.unmeasured(missing))
    return entries


def real_lengths(count: int, tokenizer: str) -> list[int]:
    """Tokens of `count` passage strings with a real question, cut to 200 as FiD's are."""
    texts = real_texts()
    group = Group(texts.queries[0], tuple(drawn(texts.passages, count)))
    counted = AutoTokenizer.from_pretrained(model_path(tokenizer))(
        passage_strings(group, Prompts()), truncation=True, max_length=PADDED
    )
    return [len(row) for row in counted["input_ids"]]


def random_case(
    size: str, lengths: Sequence[int], device: torch.device
) -> tuple[T5ForConditionalGeneration, Int[Tensor, "1 K L"], Int[Tensor, "1 K L"]]:
    """A random T5 in evaluation mode and one question's passages of these lengths, of random words."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(T5Config(**SIZES[size], pad_token_id=0, eos_token_id=1, decoder_start_token_id=0))
    mask = (torch.arange(PADDED) < torch.tensor(lengths)[None, :, None]).long()
    ids = torch.randint(2, SIZES[size]["vocab_size"], mask.shape, generator=generator) * mask
    return model.eval().to(device), ids.to(device), mask.to(device)


def label(
    model: T5ForConditionalGeneration, ids: Int[Tensor, "B K L"], mask: Int[Tensor, "B K L"], precision: torch.dtype
) -> Float[Tensor, "B K"]:
    """Retort's label, with the attention kernel that transformers prefers."""
    model.set_attn_implementation("sdpa")
    low = precision != torch.float32
    with torch.no_grad(), torch.autocast(ids.device.type, dtype=precision if low else torch.bfloat16, enabled=low):
        return passage_scores(model, ids, mask)


def encoded_tokens(model: T5ForConditionalGeneration, ids: Int[Tensor, "B K L"], mask: Int[Tensor, "B K L"]) -> int:
    """How many tokens Retort's label encodes, with the pads that remain."""
    seen: list[int] = []
    hook = model.get_encoder().register_forward_pre_hook(
        lambda module, inputs, named: seen.append(named["input_ids"].numel()), with_kwargs=True
    )
    label(model, ids, mask, torch.float32)
    hook.remove()
    return sum(seen)


def alike(found: Float[Tensor, "B K"], expected: Float[Tensor, "B K"]) -> dict[str, float]:
    """How near labels are to the `expected`: of softmax labels the total variation, of the orders Kendall's tau."""
    shares = [(scores.double() / expected.double().std()).softmax(-1) for scores in (found, expected)]
    variation = 0.5 * (shares[0] - shares[1]).abs().sum(-1).max()
    tau = kendalltau(found.flatten(), expected.flatten()).statistic
    return {"total variation": float(f"{variation:.3g}"), "Kendall tau": round(float(tau), 5)}


def encoder_operations(config: T5Config, lengths: Sequence[int]) -> float:
    """Floating-point operations of the encoder's matrix products over the real tokens, two for a multiplication and sum."""
    inner = config.num_heads * config.d_kv
    linear = 2 * (4 * config.d_model * inner + 2 * config.d_model * config.d_ff)
    return config.num_layers * sum(length * (linear + 4 * length * inner) for length in lengths)


def layer_products(
    config: T5Config, tokens: int, precision: torch.dtype, device: torch.device
) -> tuple[Callable[[], Any], float]:
    """The bare products of an encoder layer over so many tokens at once, and their operations."""
    inner, width = config.num_heads * config.d_kv, config.d_model
    shapes = [(width, inner)] * 3 + [(inner, width), (width, config.d_ff), (config.d_ff, width)]
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator).to(device, precision)

    weights, inputs = [matrix(*shape) for shape in shapes], {rows: matrix(tokens, rows) for rows in {r for r, _ in shapes}}

    def multiply() -> Any:  # noqa: ANN401
        for weight in weights:
            result = inputs[len(weight)] @ weight
        return result[0, 0].item()  # a GPU is waited for

    return multiply, 2 * tokens * sum(rows * columns for rows, columns in shapes)


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--size", choices=SIZES, default="base", help="of the random T5 (default base)")
    parser.add_argument("--passages", type=int, default=100, help="of the one question that is labelled (default 100)")
    parser.add_argument("--tokenizer", default=MINILM, help="that counts the tokens of real texts (default MiniLM's)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
