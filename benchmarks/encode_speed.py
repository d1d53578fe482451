"""How much faster the corpus is encoded: Retort's buckets of tokens against `SentenceTransformer.encode`, on the same model.

Ours computes as `retort encode` does: bfloat16 where the hardware multiplies it natively, else float32. Theirs is timed as
it comes (float32, 32 texts a batch, sorted by characters) and at its best: in the precision of ours, with the quickest of
BATCHES. The vectors must agree: to 1e-5 in float32, to a cosine of 0.999 in bfloat16. The share of padding in our batches is
counted over the whole set. Prints one line of JSON for each set; without RETORT_DATA both are docstrings.

    python benchmarks/encode_speed.py [--passages 512] [--repeats 5] [--sets fairytaleqa squad]
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from rows import print_line
from sentence_transformers import SentenceTransformer
from speed import MINILM, Target, drawn, options, ratios, real_texts, seconds_of, timed

from retort.compute import accelerator, model_path
from retort.config import Compute, Encode, StudentModel
from retort.records import Passage
from retort.students.dense import DenseStudent
from retort.students.loading import load_student
from retort.students.stock import BLOCK
from retort.students.texts import passage_prompt
from retort.tensors import suited
from retort.text import passage_text

SETS = ("fairytaleqa", "squad")
BATCHES = (8, 32, 128)
OURS, DEFAULT, BEST = "ours", "sentence-transformers", "sentence-transformers, best"
TARGETS = {DEFAULT: Target("encode", "encode() as it comes", at_least=2.5), BEST: Target("encode", "its best", at_least=1.1)}
PADDING = Target("encode: padding", "all tokens", at_most=0.03, unit="of the tokens")
CLOSENESS = {torch.float32: Target("encode: difference", "its vectors", at_most=1e-5, unit="of a value"),
             torch.bfloat16: Target("encode: least cosine", "its vectors", at_least=0.999, unit="cosine")}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    for name in arguments.sets:
        texts = real_texts(name)
        tokens = {"query_tokens": min(40, arguments.tokens), "passage_tokens": arguments.tokens}
        settings = StudentModel(model=model_path(arguments.model), **tokens)
        facts = compared(drawn(texts.passages, arguments.passages), texts.passages, settings, arguments.repeats)
        for target in facts["targets"]:
            target["what"] += f", {texts.name}"
        print_line("encode_speed", {"set": texts.name, **facts}, argv=argv)


def compared(passages: Sequence[Passage], every: Sequence[Passage], settings: StudentModel, repeats: int) -> dict[str, Any]:
    """The facts of a line: seconds and ratios over `passages`, how far the vectors differ, padding of `every` passage."""
    engine = accelerator(Compute())
    student = dense(settings)
    student.module.to(engine.device)
    stock = student.model
    rest = passage_prompt(student.settings.passage_format)[1]
    texts = [passage_text(passage, rest) for passage in passages]
    precision = torch.bfloat16 if engine.mixed_precision == "bf16" else torch.float32
    theirs = stock if precision == torch.float32 else dense(settings).model.to(engine.device, precision)
    batch = best_batch(theirs, texts)
    systems = {
        OURS: lambda: student.embed(
            passages, "passage", batch_tokens=Encode().batch_tokens, autocast=lambda: engine.autocast()
        ),
        DEFAULT: lambda: stock.encode_document(texts),
        BEST: lambda: theirs.encode_document(texts, batch_size=batch),
    }
    closeness = nearness(systems[OURS](), np.asarray(systems[DEFAULT]()), precision)  # warms two of them up
    times = timed(systems, repeats)
    ratio, waste = ratios(times, OURS), padding(student, every)
    targets = [*(target.found(ratio[name]) for name, target in TARGETS.items()), PADDING.found(waste)]
    return {
        "passages": len(passages), "precision": str(precision).removeprefix("torch."), "best batch": batch,
        **seconds_of(times), "ratio": ratio, "targets": [*targets, CLOSENESS[precision].found(closeness)],
    }  # fmt: skip


def dense(settings: StudentModel) -> DenseStudent:
    """The untouched student."""
    student = load_student(settings)
    assert isinstance(student, DenseStudent)
    return student


def best_batch(model: SentenceTransformer, texts: Sequence[str]) -> int:
    """The batch size of BATCHES that encodes a quarter of the texts the quickest; each is tried twice."""
    some = list(texts[: max(1, len(texts) // 4)])
    tried = timed({str(size): lambda size=size: model.encode_document(some, batch_size=size) for size in BATCHES}, 2)
    return int(min(tried, key=lambda size: min(tried[size].seconds)))


def nearness(ours: Float32[np.ndarray, "n D"], theirs: np.ndarray, precision: torch.dtype) -> float:
    """The largest difference of a value in float32, the least cosine of two vectors in bfloat16."""
    if precision == torch.float32:
        return float(np.abs(ours - theirs).max())
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / lengths).min())


def padding(student: DenseStudent, passages: Sequence[Passage], batch_tokens: int = Encode().batch_tokens) -> float:
    """The share of padding among the tokens that the student encodes, in 0..1."""
    real = padded = 0
    for start in range(0, len(passages), BLOCK):
        tokens = student.tokenise(passages[start : start + BLOCK], "passage")
        real += int(tokens.lengths.sum())
        most = suited(batch_tokens, student.model.device)
        padded += sum(part.used.numel() for _, part in tokens.buckets(most))
    return 1 - real / padded


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--passages", type=int, default=512, help="that are timed (default 512)")
    parser.add_argument("--sets", nargs="+", default=SETS, help="in RETORT_DATA (default both)")
    parser.add_argument("--tokens", type=int, default=200, help="of a passage at most (default 200)")
    parser.add_argument("--model", default=MINILM, help="the encoder (default MiniLM)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
