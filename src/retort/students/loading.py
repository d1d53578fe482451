"""Making a dense student from its settings: a folder, an installed package's model, or a hub model; one tower or two.

No loaded weight is ever replaced (methods 5.1, A1): a projection head in the folder stays, and a folder that lacks a weight
of its own encoder is refused.
"""

import copy
from pathlib import Path

import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router
from sentence_transformers.sentence_transformer.modules import Pooling

from retort.compute import model_path
from retort.config import StudentModel
from retort.students.dense import DenseStudent, transformers_of
from retort.students.texts import passage_prompt

UNUSED = "pooler."  # BERT's pooler is not read by mean or cls pooling; checkpoints of its relatives come without


def load_student(settings: StudentModel, *, folder: Path | None = None) -> DenseStudent:
    """The student of `settings` on the CPU, in evaluation mode; with the weights in `folder` where one is given.

    `folder` is what `DenseStudent.save` left, for example after a round of training. ValueError: no model there, not the
    pinned one, weights missing, lengths beyond the model's positions, towers that the model does not have.
    """
    path = str(folder) if folder is not None else model_path(settings.model, settings.sha256)
    model = _opened(path)
    _check_complete(model, Path(path))
    if settings.pooling is not None:
        _set_pooling(model, settings.pooling)
    model = _with_towers(_normalised(model) if settings.score == "cosine" else model, settings)
    model.prompts |= {"query": settings.query_prefix, "document": passage_prompt(settings.passage_format)[0]}
    model.default_prompt_name = None
    model.similarity_fn_name = settings.score
    _set_lengths(model, settings)
    if settings.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = settings.dropout
    return DenseStudent(model.eval(), settings)


def _opened(path: str) -> SentenceTransformer:
    """The model at `path`; a bare encoder gets mean pooling. What its checkpoint lacks is drawn alike each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return SentenceTransformer(path, device="cpu")
        except OSError as error:
            raise ValueError(
                f"student model {path!r} cannot be loaded: {str(error).splitlines()[0]} Give a model folder, "
                "package:NAME/folder, or the id of a model that the hub can be reached for"
            ) from error


def _check_complete(model: SentenceTransformer, folder: Path) -> None:
    """ValueError where the folder's one weight file lacks weights of the encoder: they would be random."""
    file = folder / "model.safetensors"
    if not file.exists():
        return
    with safe_open(file, framework="pt") as weights:
        found = set(weights.keys())
    wanted = transformers_of(model)[0].model.state_dict()
    prefixed = {name.partition(".")[2] for name in found}  # "bert.encoder..." of a model with a head
    missing = [name for name in wanted if name not in found | prefixed and not name.startswith(UNUSED)]
    if missing:
        raise ValueError(
            f"{file} lacks {len(missing)} of {len(wanted)} weights of its encoder, for example {missing[0]!r}: expected all "
            "of them, as they would be random; give a whole checkpoint"
        )


def _set_pooling(model: SentenceTransformer, mode: str) -> None:
    found = [module for module in model.modules() if isinstance(module, Pooling)]
    if not found:
        raise ValueError(f"student.pooling is {mode!r}, but the model pools by itself: leave student.pooling unset")
    for module in found:
        module.pooling_mode = mode  # type: ignore[assignment]


def _normalised(model: SentenceTransformer) -> SentenceTransformer:
    """The model with vectors of length 1 at its end, so that an inner product is a cosine."""
    if not any(isinstance(module, Normalize) for module in model.modules()):
        model.append(Normalize())
    return model


def _with_towers(model: SentenceTransformer, settings: StudentModel) -> SentenceTransformer:
    """One tower for both sides, or two that start from the same weights (sentence-transformers' Router)."""
    routed = any(isinstance(module, Router) for module in model.modules())
    if settings.towers == "tied" and routed:
        raise ValueError("student.towers is 'tied', but the model has a tower for each side: set it to 'separate'")
    if settings.towers == "tied" or routed:
        return model
    towers = list(model.children())
    router = Router.for_query_document(query_modules=towers, document_modules=copy.deepcopy(towers))  # type: ignore[arg-type]
    return SentenceTransformer(modules=[router], device="cpu")


def _set_lengths(model: SentenceTransformer, settings: StudentModel) -> None:
    longest = max(settings.query_tokens, settings.passage_tokens)
    for transformer in transformers_of(model):
        positions = getattr(transformer.config, "max_position_embeddings", longest)
        if longest > positions:
            raise ValueError(
                f"student lengths are query_tokens {settings.query_tokens} and passage_tokens {settings.passage_tokens}, "
                f"but the model has {positions} positions: set them to {positions} at most"
            )
        transformer.query_length, transformer.document_length = settings.query_tokens, settings.passage_tokens
        transformer.max_seq_length = longest  # for readers of the folder that know one length only
