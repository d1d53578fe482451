"""Stock sentence-transformers models to be teachers: a folder, an installed package's model, or a hub model.

What a model is shows in its files: a cross-encoder is refused as a retriever, and the other way round, because either would
load with random weights or score by something that it was not trained for.
"""

import json
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
    kind = model_kind(path)
    if kind != "CrossEncoder":
        raise ValueError(
            f"model {name!r} is a {kind}, expected a CrossEncoder: without a trained head its scores would be random; give "
            "a trained cross-encoder, or make it a teacher of kind: retriever"
        )
    return CrossEncoder(path, device="cpu")


def load_retriever(name: str, sha256: str | None = None) -> StockRetriever:
    """The retriever `name` on the CPU, of the class that its files tell. ValueError as for a cross-encoder."""
    path = model_path(name, sha256)
    kind = model_kind(path)
    if kind not in RETRIEVERS:
        raise ValueError(f"model {name!r} is a {kind}, expected one of {', '.join(RETRIEVERS)}: use kind: cross_encoder")
    return RETRIEVERS[kind](path, device="cpu")


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
            positions = getattr(module.config, "max_position_embeddings", None) or tokens
            if tokens > positions:
                raise ValueError(
                    f"a teacher is given {tokens} tokens, but its model has {positions} positions: set its tokens to "
                    f"{positions} at most"
                )


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
