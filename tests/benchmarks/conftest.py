"""Makes the scripts importable as when they are run, and gives them invented data and tiny models."""

import json
import sys
from pathlib import Path

import pytest

from tiny import tiny_encoder, tiny_student

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "fairytaleqa_cpu.yaml"
sys.path.insert(0, str(ROOT / "benchmarks"))

COLOURS, ANIMALS = ("red", "blue", "green", "white"), ("cat", "dog", "fish", "bird", "horse")
PLACES = ("north", "south", "east", "west", "city", "lake", "house", "street", "river", "tree", "hill", "ship")
SPLITS = ("train", "train", "train", "dev", "test")  # of every five questions


def write_fairytaleqa(root: Path) -> Path:
    """`root`, holding a set called fairytaleqa in BEIR layout: 20 passages, one question each, 12 of them for training."""
    folder = root / "fairytaleqa"
    (folder / "qrels").mkdir(parents=True)
    names = [f"{colour} {animal}" for colour in COLOURS for animal in ANIMALS]
    places = [f"{PLACES[i % 12]} {PLACES[(5 * i + 1) % 12]}" for i in range(20)]
    passages = [
        {"_id": f"p{i}", "title": name, "text": f"the {name} lives in the {place} near the {names[i - 1]}."}
        for i, (name, place) in enumerate(zip(names, places, strict=True))
    ]
    questions = [
        {"_id": f"q{i}", "text": f"where is the {name}", "answers": [place], "split": SPLITS[i % 5]}
        for i, (name, place) in enumerate(zip(names, places, strict=True))
    ]
    for file, rows in (("corpus", passages), ("queries", questions)):
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split in set(SPLITS):
        lines = [f"q{i}\tp{i}\t1\n" for i in range(20) if SPLITS[i % 5] == split]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return root


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The folder of the invented set, with RETORT_DATA set to the folder around it."""
    monkeypatch.setenv("RETORT_DATA", str(write_fairytaleqa(tmp_path / "data")))
    return tmp_path / "data" / "fairytaleqa"


@pytest.fixture(scope="session")
def options(tmp_path_factory):
    """Options that make the recipe one of seconds: no overrides, tiny models, short texts, few steps."""
    folder = tmp_path_factory.mktemp("models")
    encoder, student = tiny_encoder(folder / "reader"), tiny_student(folder)
    (folder / "recipe.yaml").write_text(RECIPE.read_text().partition("\noverrides:")[0])
    settings = [
        f"read.model={encoder}", "read.sha256=null", "read.frozen_layers=0", "read.evaluate_every=2",
        "read.prompts.passage_tokens=48", "read.prompts.answer_tokens=6", "read.optimiser.warmup_steps=1",
        "read.phases=[{passages: 1, select: answer, steps: 1, batch: 4}, {passages: 3, select: answer, steps: 1, batch: 4}]",
        "label.depth=4", f"distil.student.model={student}", "distil.student.sha256=null", "distil.candidates=3",
        "distil.student.query_tokens=16", "distil.student.passage_tokens=32", "distil.batch=4", "distil.steps=2",
        "retrieve.depth=10", "evaluate.samples=100", "compute.device=cpu", "compute.precision=float32",
    ]  # fmt: skip
    return ["--recipe", str(folder / "recipe.yaml"), *(word for setting in settings for word in ("--set", setting))]
