"""Stock sentence-transformers models to be teachers: a folder, an installed package's model, or a hub model.

What a model is shows in its files: a cross-encoder is refused as a retriever, and the other way round, because either would
load with random weights or score by something that it was not trained for.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import load_file_path
from torch.nn import Module

from retort.compute import model_path

StockRetriever = SentenceTransformer | SparseEncoder | MultiVectorEncoder
RETRIEVERS: dict[str, type[StockRetriever]] = {
    "SentenceTransformer": SentenceTransformer,
    "SparseEncoder": SparseEncoder,
    "MultiVectorEncoder": MultiVectorEncoder,
}
# Architectures of folders that plain transformers saved; heads that tell what the model is for.
HEADS = {
    "ForSequenceClassification": "CrossEncoder",
    "ForCausalLM": "CrossEncoder",  # scored by the logits of yes and no
    "HF_ColBERT": "MultiVectorEncoder",
    "ForRetrieval": "MultiVectorEncoder",
}


def load_cross_encoder(name: str, sha256: str | None = None) -> CrossEncoder:
    """The cross-encoder `name` on the CPU. ValueError: not there, not the pinned one, or another kind of model."""
    path = model_path(name, sha256)
    _check_kind(name, path, ["CrossEncoder"])
    return CrossEncoder(path, device="cpu")


def load_retriever(name: str, sha256: str | None = None) -> StockRetriever:
    """The retriever `name` on the CPU, of the class that its files tell. ValueError as for a cross-encoder."""
    path = model_path(name, sha256)
    return RETRIEVERS[_check_kind(name, path, RETRIEVERS)](path, device="cpu")


def check_stock(name: str, sha256: str | None, *, ranker: bool, tokens: int) -> None:
    """ValueError where a model's files show that it cannot be the teacher asked for: its kind, labels, positions.

    Nothing is loaded; of a hub model its small files are fetched.
    """
    path = model_path(name, sha256)
    _check_kind(name, path, ["CrossEncoder"] if ranker else RETRIEVERS)
    config = _json(path, "config.json") or {}
    if ranker and (config.get("architectures") or [""])[0].endswith("ForSequenceClassification"):
        check_labels(len(config.get("id2label") or ()) or config.get("num_labels") or 2)  # as transformers counts
    _check_fits(tokens, config.get("max_position_embeddings"))


def check_labels(count: int) -> None:
    """ValueError where a cross-encoder tells classes apart."""
    if count != 1:
        raise ValueError(
            f"the cross-encoder gives {count} labels for a pair, expected 1: classes are no ranking; give a ranker, or "
            "train one with CrossEncoder(..., num_labels=1)"
        )


def model_kind(path: str) -> str:
    """The name of the sentence-transformers class that a folder or hub model was saved by or is made for.

    A bare encoder is a SentenceTransformer, as sentence-transformers itself takes it. ValueError where nothing is found.
    """
    saved, config = _json(path, "config_sentence_transformers.json"), _json(path, "config.json")
    modular = _file(path, "modules.json") is not None
    if saved is None and config is None and not modular:
        raise ValueError(
            f"model {path!r} cannot be found: give a model folder, package:NAME/folder, or the id of a model that the hub "
            "can be reached for"
        )
    if saved is not None or modular:
        kind = (saved or {}).get("model_type", "SentenceTransformer")
        return "MultiVectorEncoder" if kind == "ColBERT" else kind  # PyLate's word up to version 3
    architecture = ((config or {}).get("architectures") or [""])[0]
    return next((kind for head, kind in HEADS.items() if architecture.endswith(head)), "SentenceTransformer")


def check_positions(model: Module, tokens: int) -> None:
    """ValueError where an encoder inside of `model` has fewer positions than `tokens`."""
    for module in model.modules():
        if isinstance(module, Transformer):
            _check_fits(tokens, getattr(module.config, "max_position_embeddings", None))


def _check_fits(tokens: int, positions: int | None) -> None:
    if positions and tokens > positions:
        raise ValueError(
            f"a teacher is given {tokens} tokens, but its model has {positions} positions: set its tokens to {positions} at "
            "most"
        )


def _check_kind(name: str, path: str, expected: Collection[str]) -> str:
    """The kind of a model, which has to be one of those expected."""
    kind = model_kind(path)
    if kind not in expected:
        other = "retriever" if "CrossEncoder" in expected else "cross_encoder"
        raise ValueError(
            f"model {name!r} is a {kind}, expected a {' or '.join(expected)}: without a head trained for it its scores "
            f"would mean nothing; give such a model, or make this one a teacher of kind: {other}"
        )
    return kind


def _json(path: str, name: str) -> dict[str, Any] | None:
    """What a JSON file of the model says, None where it has none."""
    file = _file(path, name)
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def _file(path: str, name: str) -> str | None:
    """Where a file of a folder or hub model lies here, None where it has none."""
    try:
        return load_file_path(path, name)
    except OSError:  # the hub cannot be reached
        return None
