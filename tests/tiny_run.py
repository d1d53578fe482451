"""A whole run in small: 40 passages, 34 questions that they answer, two random models, and a config that takes seconds.

`write_sources` leaves the files and models in a folder, `settings` is a config on them as a dict, `write_config` its YAML.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from retort.config import Config, merged, parse
from retort.pipeline import search_run
from retort.prepared import Prepared
from retort.records import Run
from retort.store import read_json
from retort.teachers.fid.loading import save_reader
from tiny import tiny_reader, tiny_student, tiny_tokenizer

PASSAGES = 40
SPLITS = {"train": range(20), "dev": range(20, 26), "test": range(26, 34)}
UNANSWERED = (18, 19)  # train questions whose answer stands in no passage
OWNERS = ["king", "queen", "woman", "man", "child", "mother", "father", "brother"]
PLACES = ["north", "south", "east", "west", "sea"]
COLOURS = ["red", "blue", "green", "white", "black", "gold", "old", "new"]
THINGS = ["house", "ship", "horse", "book", "lake"]
# files of a run whose bytes may differ between two runs of one config
FREE = ("cost.json", ".lock", "report.json", "index.html")


def write_sources(folder: Path) -> Path:
    """`folder`, holding corpus.jsonl, a file of questions for each split, TREC grades of dev and test, and two models."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "corpus.jsonl", (passage(i) for i in range(PASSAGES)))
    for split, numbers in SPLITS.items():
        write_lines(folder / f"{split}.jsonl", (question(i) for i in numbers))
        (folder / f"{split}.qrels").write_text("".join(f"q{i} 0 p{i} 1\n" for i in numbers))
    tiny_student(folder / "parts").rename(folder / "student")
    save_reader(tiny_reader("t5", tiny_tokenizer(folder / "parts")), folder / "reader")
    shutil.rmtree(folder / "parts")
    return folder


def passage(number: int) -> dict[str, str]:
    """The passage that answers question `number`, and no other."""
    owner, place, answer = _facts(number)
    text = f"the {owner} of the {place} has a {answer} and bread and milk"
    return {"id": f"p{number}", "title": f"{owner} {place}", "text": text}


def question(number: int) -> dict[str, Any]:
    owner, place, answer = _facts(number)
    answers = [answer if number not in UNANSWERED else "last week"]
    return {"id": f"q{number}", "question": f"what has the {owner} of the {place}", "answers": answers}


def _facts(number: int) -> tuple[str, str, str]:
    owner, place = OWNERS[number % 8], PLACES[number // 8]
    return owner, place, f"{COLOURS[(3 * number) % 8]} {THINGS[(number + number // 8) % 5]}"


def settings(sources: Path, **changes: Any) -> dict[str, Any]:
    """A config of two rounds on `write_sources`' folder; `changes` are laid over it section by section."""
    optimiser = {"learning_rate": 1e-3, "warmup_steps": 1}
    values = {
        "rounds": 2,
        "prepare": {
            "corpus": str(sources / "corpus.jsonl"),
            "queries": {split: str(sources / f"{split}.jsonl") for split in SPLITS},
            "qrels": {split: str(sources / f"{split}.qrels") for split in ("dev", "test")},
        },
        "retrieve": {"depth": 10, "later": ["bm25", "student"]},
        "read": {
            "model": str(sources / "reader"),
            "dropout": 0.1,  # so that random states matter
            "prompts": {"passage_tokens": 40, "answer_tokens": 6},
            "phases": [{"passages": 2, "steps": 2, "batch": 4, "select": "answer"}, {"passages": 3, "steps": 2, "batch": 4}],
            "optimiser": optimiser,
            "evaluate_every": 2,
            "checkpoint_every": 1,
        },
        "label": {"depth": 6, "queries_per_part": 12},
        "distil": {
            "student": {"model": str(sources / "student"), "query_tokens": 20, "passage_tokens": 40, "dropout": 0.1},
            "candidates": 4,
            "batch": 4,
            "steps": 4,
            "optimiser": optimiser,
            "evaluate_every": 2,
            "checkpoint_every": 2,
        },
        "encode": {"passages_per_part": 16},
        "evaluate": {"measures": ["nDCG@10", "R@5"], "answers_at": [1, 5], "samples": 100},
        "report": {"examples": 3, "maps": 2},
        "compute": {"device": "cpu", "precision": "float32"},
    }
    return merged(values, changes)


def config(sources: Path, **changes: Any) -> Config:
    return parse(settings(sources, **changes))


def write_config(path: Path, sources: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(settings(sources, **changes)))
    return path


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def tree(root: Path) -> dict[str, str]:
    """The digest of every file of a run that a kill must not change, hidden ones included; what costs show is left out."""
    files = [file for file in sorted(root.rglob("*")) if file.is_file() and file.name not in FREE]
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def times(root: Path) -> dict[str, int]:
    """When each file of a run, and each folder, was changed last."""
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*")}


def searched(root: Path) -> tuple[list[dict[str, Any]], list[str], list[float]]:
    """What the command finds for a test question in a finished run; ids and scores of what its best round found."""
    best, prepared = read_json(root / "report" / "best.json")["round"], Prepared(root / "prepare")
    query = prepared.splits["test"][0]
    rows, scores = Run.read(root / f"round-{best}/retrieve/student.parquet").of(query.id)
    return search_run(root, query.text, 3), prepared.corpus.ids(rows[:3]), scores[:3].tolist()
