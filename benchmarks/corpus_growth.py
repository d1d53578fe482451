"""How memory and time grow with the corpus: prepare, encode, index, retrieve and label, each as its own command and process.

The corpus is made of invented passages of 10 to 30 words; the student is a random encoder of two narrow layers, because
what is measured is what Retort holds and does beside the model. Questions are 60 whatever the corpus. Of every process the
peak of its resident memory is recorded, as a whole and without the pages of mapped files, and the seconds that the stage
itself counts. Prints one line of JSON; needs no data, but 1 GB of disk for a million passages.

    python benchmarks/corpus_growth.py [--passages 10000 100000 1000000] [--folder DIR]
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from rows import parser_of, print_line
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from speed import Target
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from retort.store import COST, read_json

SIZES = (10_000, 100_000, 1_000_000)
WORDS = 20_000  # of the invented language, drawn by Zipf's law
QUESTIONS = 20  # of each split
STAGES: Mapping[str, tuple[str, ...]] = {
    "prepare": (), "encode": ("--round", "0"), "index": ("--round", "0"), "retrieve": ("--round", "0"),
    "label": ("--round", "1"),
}  # fmt: skip
PER_PASSAGE = ("prepare", "encode", "index")  # the others' work is the questions'
MEMORY = Target("memory: peak of any stage", "whole corpus", at_most=4, unit="GiB")
FLAT = Target("memory beyond mapped files, largest corpus", "smallest corpus", at_most=1.15)
GROWTH = Target("time a passage, largest corpus", "smallest corpus", at_most=1.15)


@dataclass(frozen=True)
class Taken:
    """What a stage took: seconds by its own count, the peak of its process in MiB, and that without mapped files."""

    seconds: float
    peak: float
    own: float


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        model = tiny_student(Path(folder))
        sizes = sorted(arguments.passages)
        taken = {size: run(Path(folder) / str(size), size, model) for size in sizes}
    print_line("corpus_growth", facts(taken), argv=argv)


def facts(taken: Mapping[int, Mapping[str, Taken]]) -> dict[str, Any]:
    """The facts of a line from what each stage took at each size, smallest first."""
    low, high = next(iter(taken)), list(taken)[-1]
    own = {stage: taken[high][stage].own / taken[low][stage].own for stage in STAGES}
    seconds = {f"{stage}, {size}": one[stage].seconds / size for size, one in taken.items() for stage in PER_PASSAGE}
    growth = {stage: seconds[f"{stage}, {high}"] / seconds[f"{stage}, {low}"] for stage in PER_PASSAGE}
    peak = max(one.peak for stages in taken.values() for one in stages.values()) / 1024
    return {
        "stages": {size: {stage: asdict(one) for stage, one in stages.items()} for size, stages in taken.items()},
        "seconds": {name: float(f"{value:.3g}") for name, value in seconds.items()},  # a passage
        "ratio": {f"{stage}, {high} against {low}": round(value, 3) for stage, value in growth.items()},
        "targets": [
            MEMORY.found(peak),
            *(_of_stage(FLAT, stage).found(value) for stage, value in own.items()),
            *(_of_stage(GROWTH, stage).found(value) for stage, value in growth.items()),
        ],
    }


def run(folder: Path, passages: int, model: Path) -> dict[str, Taken]:
    """What each stage takes over a corpus of `passages`; the run's files are removed."""
    folder.mkdir()
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(settings(folder, passages, model)))
    command = [sys.executable, "-c", "from retort.cli import app; app()"]
    taken = {}
    for stage, options in STAGES.items():
        peak, own = watched([*command, stage, str(config), "--out", str(folder / "run"), *options])
        written = folder / "run" / ("" if stage == "prepare" else f"round-{options[-1]}") / stage / COST
        taken[stage] = Taken(round(read_json(written)["seconds"], 3), round(peak, 1), round(own, 1))
    shutil.rmtree(folder)
    return taken


def settings(folder: Path, passages: int, model: Path) -> dict[str, Any]:
    """The config of a run over an invented corpus, whose files are written into `folder`."""
    _write(folder / "corpus.jsonl", texts(passages))
    asked = [{**row, "answers": [row["text"].split()[0]]} for row in texts(3 * QUESTIONS, words=(5, 10), seed=1)]
    queries = {}
    for number, split in enumerate(("train", "dev", "test")):
        queries[split] = str(folder / f"{split}.jsonl")
        own = asked[number * QUESTIONS : (number + 1) * QUESTIONS]
        _write(folder / f"{split}.jsonl", ({**row, "_id": f"{split}{row['_id']}"} for row in own))
    return {
        "rounds": 1,
        "prepare": {"corpus": str(folder / "corpus.jsonl"), "queries": queries},
        "retrieve": {"depth": 20, "first": ["bm25", "student"]},
        "label": {"teachers": [{"kind": "answers"}], "depth": 20, "require_answer": False},
        "distil": {"student": {"model": str(model), "query_tokens": 16, "passage_tokens": 48}},
        "compute": {"device": "cpu", "precision": "float32"},
    }


def texts(count: int, *, words: tuple[int, int] = (10, 30), seed: int = 0) -> Iterator[dict[str, str]]:
    """So many records of an invented language; word w is drawn as often as 1 / (w + 10)."""
    rng = np.random.default_rng(seed)
    bounds = np.cumsum(1 / (np.arange(WORDS) + 10))
    for row in range(count):
        drawn = np.searchsorted(bounds, rng.random(int(rng.integers(*words))) * bounds[-1])
        yield {"_id": str(row), "text": " ".join(f"w{word}" for word in drawn.tolist())}


def watched(command: Sequence[str]) -> tuple[float, float]:
    """The peak memory of a command's process in MiB: as a whole, and without the pages of mapped files.

    Looked at every 20 ms. RuntimeError where the command fails.
    """
    peak = own = 0.0
    with tempfile.TemporaryFile("w+") as said:
        process = psutil.Popen(command, stdout=said, stderr=said, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        while process.poll() is None:
            try:
                held = process.memory_info()
            except psutil.NoSuchProcess:
                break
            peak, own = max(peak, held.rss / 2**20), max(own, (held.rss - held.shared) / 2**20)
            time.sleep(0.02)
        if process.wait():
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed: {said.read()[-2000:]}")
    return peak, own


def tiny_student(folder: Path) -> Path:
    """`folder`/model: a random sentence-transformers model of two layers of 32 dimensions over the invented words."""
    vocabulary = {name: i for i, name in enumerate(["[PAD]", "[UNK]", *(f"w{word}" for word in range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = folder / "encoder"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(encoder)
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=len(vocabulary), max_position_embeddings=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    BertModel(shape).save_pretrained(encoder)
    transformer = Transformer(str(encoder))
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu")
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def _of_stage(target: Target, stage: str) -> Target:
    return Target(f"{stage}: {target.what}", target.against, target.at_least, target.at_most, target.unit)


def _write(path: Path, records: Iterator[dict[str, Any]]) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def _options() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument("--passages", type=int, nargs="+", default=SIZES, help="of each corpus (default 10k, 100k, 1M)")
    parser.add_argument("--folder", type=Path, help="where the corpora stand meanwhile (default: the system's)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
