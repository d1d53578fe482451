"""How much faster the cross-encoder teacher labels than `CrossEncoder.predict` as its defaults leave it.

Both score the same pairs, a real question and a real passage, with the same random head on the body of MiniLM, cut to the
same length; ours in the precision that `compute.precision: auto` takes. Theirs are sigmoids, so ours are put through one
before they are compared. Prints one line of JSON.

    python benchmarks/cross_encoder.py [--pairs 1024] [--repeats 5]
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import torch
from rows import print_line
from scipy.special import expit
from sentence_transformers import CrossEncoder
from speed import MINILM, Target, drawn, options, ratios, real_texts, seconds_of, timed
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from retort.compute import accelerator, model_path
from retort.config import Compute
from retort.records import Group
from retort.teachers.cross_encoder import CrossEncoderTeacher
from retort.text import passage_text

CANDIDATES = 8  # passages of a question


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    groups, model = real_groups(arguments.pairs), random_ranker(arguments.model, arguments.tokens)
    engine = accelerator(Compute())
    teacher = CrossEncoderTeacher(model.to(engine.device), tokens=arguments.tokens, autocast=engine.autocast)
    pairs = [(group.query.text, passage_text(one, teacher.passage_format)) for group in groups for one in group.passages]
    systems: dict[str, Callable[[], np.ndarray]] = {
        "retort": lambda: np.concatenate(teacher.score(groups)),
        "CrossEncoder.predict": lambda: model.predict(pairs, show_progress_bar=False),
    }
    found = {name: system() for name, system in systems.items()}  # warm-up
    times = timed(systems, arguments.repeats)
    ratio = ratios(times, "retort")
    facts = {
        "pairs": len(pairs),
        "tokens": arguments.tokens,
        "texts": real_texts().name,
        "precision": engine.mixed_precision,
        **seconds_of(times),
        "ratio": ratio,
        "largest difference of scores": float(np.abs(expit(found["retort"]) - found["CrossEncoder.predict"]).max()),
        "targets": [Target("cross-encoder labels", "CrossEncoder.predict", at_least=2).found(ratio["CrossEncoder.predict"])],
    }
    print_line("cross_encoder", facts, argv=argv)


def real_groups(pairs: int) -> list[Group]:
    """Real questions with 8 real passages each, `pairs` in all, or a few more."""
    texts, count = real_texts(), -(-pairs // CANDIDATES)
    queries, passages = drawn(texts.queries, count), drawn(texts.passages, count * CANDIDATES)
    return [Group(query, tuple(passages[i * CANDIDATES : (i + 1) * CANDIDATES])) for i, query in enumerate(queries)]


def random_ranker(name: str, tokens: int) -> CrossEncoder:
    """A cross-encoder of the body `name` with a random head, in evaluation mode on the CPU."""
    path, before = model_path(name), logging.get_verbosity()
    logging.set_verbosity_error()  # that the head is new is known
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_pretrained(path, num_labels=1).save_pretrained(folder)
        AutoTokenizer.from_pretrained(path).save_pretrained(folder)
        model = CrossEncoder(folder, device="cpu", max_length=tokens).eval()
    logging.set_verbosity(before)
    return model


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--pairs", type=int, default=1024, help="that are scored (default 1024)")
    parser.add_argument("--tokens", type=int, default=256, help="that a pair is cut to (default 256)")
    parser.add_argument("--model", default=MINILM, help="the body (default MiniLM)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
