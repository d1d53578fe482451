"""Checkpoints of the ancestors (FiD's reader and retriever, Atlas) turned into folders that load today.

Nothing of a checkpoint is run: its pickle is read as data. What it is shows in its weights, not in the name of its folder.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from retort.config import StudentModel
from retort.data.torch_pickles import read_torch
from retort.store import write_atomic
from retort.students.state_dicts import contriever, fid_retriever
from retort.teachers.fid.checkpoints import imported_reader
from retort.teachers.fid.loading import save_reader

FILES = ("pytorch_model.bin", "model.pth.tar")  # FiD's and Atlas's
TOKENIZERS = {"reader": "google-t5/t5-base", "retriever": "google-bert/bert-base-uncased"}  # the ancestors', of all sizes
ATLAS_PASSAGE = "question: {question} answer: <extra_id_0> title: {title} context: {text}"
ATLAS_ANSWER = "<extra_id_0> {answer}"
ATLAS_TOKENS, BERT_POSITIONS = 200, 512  # Atlas's default text_maxlength, and the most that its retriever reads
STOCK_HEAD = "its per-token projection and LayerNorm are written as stock modules, which give the same vectors"
ONE_TOWER = "its two retriever towers are equal (Atlas's code did not untie them): one is kept for both sides"
ATLAS_QUESTION = "questions were trained with ' answer: <extra_id_0>' behind them: append it for the same vectors"
TOWERS = ("contriever", "query_contriever", "passage_contriever")
Tokenizers = Callable[[str], PreTrainedTokenizerBase]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint was, the folders made of it by role, the settings that fit them, and what is not as it was."""

    kind: str
    folders: Mapping[str, Path]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """The same as JSON takes it."""
        folders = {role: str(folder) for role, folder in self.folders.items()}
        return {"kind": self.kind, "folders": folders, "settings": dict(self.settings), "notes": list(self.notes)}

    def lines(self) -> Iterator[str]:
        """The same for a person."""
        yield self.kind
        yield from (f"{role}: {folder}" for role, folder in self.folders.items())
        yield from (f"setting {name}: {json.dumps(value)}" for name, value in self.settings.items())
        yield from (f"note: {note}" for note in self.notes)


def convert(
    source: Path,
    out: Path,
    *,
    reader_tokenizer: str | None = None,
    retriever_tokenizer: str | None = None,
    with_bias: bool = False,
) -> Conversion:
    """What was made, in `out`, of the checkpoint in `source`: FiD's or Atlas's folder, or its file of weights.

    A reader becomes what `read.model` takes, a retriever a sentence-transformers folder, Atlas both in `out/reader` and
    `out/retriever`. No checkpoint holds a tokeniser: it is the one named, else the folder's own, else T5's or BERT's.
    `with_bias` keeps the cross-attention bias that a reader of transformers 3.0.2 has (exact); else it is dropped, and said.
    ValueError: `out` is there, nothing that is understood, code in a pickle, missing or unknown weights, no tokeniser.
    """
    if out.exists():
        raise ValueError(f"{out} is there already, expected a new folder: name another, or move it away")
    file = _weights_file(source)
    given = {"reader": reader_tokenizer, "retriever": retriever_tokenizer}

    def tokenizer(role: str) -> PreTrainedTokenizerBase:
        own = file.parent if (file.parent / "tokenizer_config.json").exists() else None
        return _tokenizer(given[role] or str(own or TOKENIZERS[role]), role)

    loaded = read_torch(file)
    is_atlas = isinstance(loaded, dict) and isinstance(loaded.get("model"), dict)
    state = {} if is_atlas else _unwrapped(loaded, file)
    if with_bias and "shared.weight" not in state:
        raise ValueError(f"{file} holds no reader of FiD, which alone has a bias to be kept: leave --keep-bias out")
    if is_atlas:
        return _atlas(loaded, file, out, tokenizer)
    if "shared.weight" in state:
        return _fid_reader(state, file, out, tokenizer, with_bias)
    if "model.embeddings.word_embeddings.weight" in state:
        return _fid_retriever(state, file, out, tokenizer)
    raise ValueError(
        f"{file} holds the weights {sorted(state)[:3]}, expected FiD's reader (encoder.encoder...), FiD's retriever "
        "(model.embeddings...) or Atlas (model, opt): a folder that transformers loads needs no conversion"
    )


def _fid_reader(state: State, file: Path, out: Path, tokenizer: Tokenizers, with_bias: bool) -> Conversion:
    reader, dropped = imported_reader(state, tokenizer("reader"), _config(file), with_bias=with_bias)
    with write_atomic(out) as folder:
        save_reader(reader, folder)
    return Conversion("FiD reader", {"reader": out}, {"read.model": str(out)}, (*dropped, *_not_read(file)))


def _fid_retriever(state: State, file: Path, out: Path, tokenizer: Tokenizers) -> Conversion:
    student = fid_retriever(state, _config(file), tokenizer("retriever"))
    with write_atomic(out) as folder:
        student.save(folder)
    notes = (*((STOCK_HEAD,) if "proj.weight" in state else ()), *_not_read(file))
    return Conversion("FiD retriever", {"retriever": out}, _student_settings(student.settings, out), notes)


def _atlas(loaded: dict[str, Any], file: Path, out: Path, tokenizer: Tokenizers) -> Conversion:
    """The reader and the retriever of an Atlas checkpoint; one of them alone where there is no other."""
    parts = _parts(_unwrapped(loaded["model"], file), file)
    tokens = int((loaded.get("opt") or {}).get("text_maxlength", ATLAS_TOKENS))
    folders, settings, notes = {}, {}, []
    with write_atomic(out) as folder:
        if "reader" in parts:
            reader, dropped = imported_reader(parts["reader"], tokenizer("reader"))
            save_reader(reader, folder / "reader")
            folders["reader"] = out / "reader"
            prompts = {
                "passage": ATLAS_PASSAGE, "answer": ATLAS_ANSWER, "passage_tokens": tokens, "special_tokens": True
            }  # fmt: skip
            settings["read.model"] = str(out / "reader")
            settings |= {f"read.prompts.{name}": value for name, value in prompts.items()}
            notes += dropped
        if towers := [parts[name] for name in TOWERS if name in parts]:
            if len(towers) > 1 and _same(*towers):
                towers = towers[:1]
                notes.append(ONE_TOWER)
            student = contriever(towers, tokenizer("retriever"), tokens=min(tokens, BERT_POSITIONS))
            student.save(folder / "retriever")
            folders["retriever"] = out / "retriever"
            settings |= _student_settings(student.settings, out / "retriever")
            notes.append(ATLAS_QUESTION)
    left = [name for name, value in loaded.items() if name not in ("model", "step", "opt") and value is not None]
    notes += [f"{', '.join(left)} of step {loaded.get('step')} are left behind"] if left else []
    return Conversion("Atlas", folders, settings, tuple(notes))


def _parts(state: State, file: Path) -> dict[str, State]:
    """Atlas's weights by model: reader, and contriever or query_contriever and passage_contriever."""
    prefixes = {"reader": "reader."} | {tower: f"retriever.{tower}." for tower in TOWERS}
    parts: dict[str, State] = {}
    for name, value in state.items():
        part = next((part for part, prefix in prefixes.items() if name.startswith(prefix)), None)
        if part is None:
            raise ValueError(f"{file} holds a weight {name!r}, expected {', '.join(prefixes.values())}: no Atlas checkpoint")
        parts.setdefault(part, {})[name.removeprefix(prefixes[part])] = value
    if parts.keys() - {"reader"} not in (set(), {TOWERS[0]}, set(TOWERS[1:])):
        raise ValueError(
            f"{file} holds {sorted(parts)}, expected one contriever, or a query's and a passage's: it is not whole"
        )
    return parts


def _same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _unwrapped(state: object, file: Path) -> State:
    """The weights by name without the `module` of wrappers. ValueError: no tensors by name, or two of one name."""
    if not isinstance(state, dict) or not state or not all(torch.is_tensor(value) for value in state.values()):
        raise ValueError(
            f"{file} holds {type(state).__name__} {state!r:.60}, expected tensors by name: no checkpoint of weights"
        )
    names = {name: ".".join(part for part in name.split(".") if part != "module") for name in state}
    if len(set(names.values())) < len(names):
        raise ValueError(f"{file} holds weights that differ in `module` only, expected one model: save it alone")
    return {names[name]: value for name, value in state.items()}


def _weights_file(source: Path) -> Path:
    """The file of weights. ValueError that says which folder to give."""
    found = [file for file in ([source] if source.is_file() else [source / name for name in FILES]) if file.is_file()]
    if len(found) != 1:
        near = sorted(str(file.parent) for name in FILES for file in source.rglob(name))
        hint = f" (did you mean {near[-1]}?)" if near else ""
        raise ValueError(
            f"{source} holds {len(found)} of the files {' and '.join(FILES)}, expected one{hint}: give the unpacked folder "
            "of a checkpoint, such as NAME/checkpoint/best_dev"
        )
    return found[0]


def _config(file: Path) -> dict[str, Any]:
    """What stands in config.json beside the weights of FiD."""
    path = file.parent / "config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}), expected the config of {file.name}: put it there") from error


def _tokenizer(name: str, role: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"tokeniser {name!r} of the {role} cannot be loaded: {str(error).splitlines()[0]} The checkpoint holds none: "
            f"name a folder with the one that it was trained with ({TOKENIZERS[role]}, if it is as published)"
        ) from error


def _student_settings(settings: StudentModel, folder: Path) -> dict[str, Any]:
    """The settings by which a run loads the student as it is."""
    names = ("query_prefix", "passage_format", "query_tokens", "passage_tokens", "towers")
    return {"distil.student.model": str(folder)} | {f"distil.student.{name}": getattr(settings, name) for name in names}


def _not_read(file: Path) -> list[str]:
    optimiser = file.parent / "optimizer.pth.tar"
    return [f"{optimiser.name} (optimiser, schedule, command line) is left behind"] if optimiser.exists() else []
