"""Model folders: what one holds before it is opened, opening it alike each time, and whether it holds every weight.

No loaded weight is ever replaced (methods 5.1, A1), and none is silently random: a folder that lacks a weight of its own
encoder is refused.
"""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.util import load_dir_path, load_file_path
from transformers.utils import logging

from retort.students.stock import transformers_of

Model = TypeVar("Model")
Json = TypeVar("Json", list[Any], dict[str, Any])
UNUSED = "pooler."  # BERT's pooler is not read by mean or cls pooling; checkpoints of its relatives come without


def opened(make: Callable[[], Model], path: str) -> Model:
    """What `make` opens at `path`; whatever its checkpoint lacks is drawn alike each time. ValueError: no whole model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return make()
        except OSError as error:
            raise ValueError(
                f"student model {path!r} cannot be loaded: {str(error).splitlines()[0]} Give a model folder, "
                "package:NAME/folder, or the id of a model that the hub can be reached for"
            ) from error
        except SafetensorError as error:
            raise ValueError(
                f"student model {path!r} holds a broken weight file ({error}), expected whole safetensors: fetch or copy "
                "the model again"
            ) from error


def saved_as(path: str) -> str | None:
    """The kind of model that sentence-transformers saved at `path`, "SparseEncoder" for example; None for a bare encoder."""
    if not module_types(path):
        return None
    return _read(path, "config_sentence_transformers.json", {}).get("model_type", "SentenceTransformer")


def module_types(path: str) -> dict[str, str]:
    """The modules of the sentence-transformers model at `path`, class name by subfolder; none for a bare encoder."""
    return {module["path"]: module["type"].rpartition(".")[2] for module in _read(path, "modules.json", [])}


def architectures(path: str) -> Collection[str]:
    """The classes that the transformer at `path` was saved from, as its own config names them."""
    return _read(path, "config.json", {}).get("architectures") or []


def transformer_path(path: str) -> str:
    """Where in the model at `path` its one transformer is: the folder itself, most often.

    ValueError where there is none, as in a model of static embeddings, or one for each side.
    """
    types = module_types(path)
    if not types:
        return path
    for folder, name in types.items():
        if name.endswith("Transformer"):
            return str(load_dir_path(path, folder)) if folder else path
    raise ValueError(
        f"student model {path!r} consists of {', '.join(types.values())}: expected a Transformer among its modules, from "
        "whose weights and token embeddings a student starts; give a transformer's folder, or another kind of student"
    )


def check_encoder(model: BaseModel, path: str) -> None:
    """ValueError where the model at `path` has no transformer, or its checkpoint lacks weights of it. Two towers pass."""
    if any(isinstance(module, Router) for module in model.modules()):
        return
    within = transformer_path(path)
    transformer = transformers_of(model)[0]
    refuse_missing(transformer, within, missing_weights(transformer, within))


def missing_weights(transformer: Transformer, path: str) -> list[str]:
    """The names of the weights that the checkpoint at `path` lacks, so that they were drawn; tied ones are not missing."""
    loader: Any = type(transformer.model)
    with _quiet():  # what it has to say was said when the weights were loaded; here none are
        _, found = loader.from_pretrained(path, config=transformer.config, device_map="meta", output_loading_info=True)
    return sorted(name for name in found["missing_keys"] if not name.startswith(UNUSED))


def refuse_missing(transformer: Transformer, path: str, missing: Collection[str]) -> None:
    """ValueError where weights are missing that must have been trained before."""
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} of {len(transformer.model.state_dict())} weights of its encoder, for example "
            f"{min(missing)!r}: expected all of them, as they would be random; give a whole checkpoint"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _read(path: str, name: str, default: Json) -> Json:
    """The JSON file `name` of the model at `path`, or `default` where it has none."""
    file = load_file_path(path, name)
    return json.loads(Path(file).read_text(encoding="utf8")) if file else default
