"""Making a student from its settings: a folder, an installed package's model, or a hub model; one tower or two.

Here: what holds for every kind, and dense models. Not here: sparse models (loading_sparse.py), late interaction
(loading_late_interaction.py), what a folder must hold (checkpoints.py).
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import Normalize, Router
from sentence_transformers.sentence_transformer.modules import Pooling

from retort.compute import freeze_lowest, model_path
from retort.config import StudentModel
from retort.students.checkpoints import check_encoder, opened
from retort.students.dense import DenseStudent
from retort.students.late_interaction import LateInteractionStudent
from retort.students.loading_late_interaction import late_interaction_model
from retort.students.loading_sparse import sparse_model
from retort.students.query_side import QuerySideStudent, train_query_side
from retort.students.sparse import SparseStudent
from retort.students.stock import transformers_of
from retort.students.texts import passage_prompt

AnyStudent = DenseStudent | SparseStudent | LateInteractionStudent
InTraining = AnyStudent | QuerySideStudent  # over stored passages, where its query side alone is trained


def load_student(settings: StudentModel, *, folder: Path | None = None) -> AnyStudent:
    """The student of `settings` on the CPU, in evaluation mode; with the weights in `folder` where one is given.

    `folder` is what a student's `save` left, for example after a round of training. ValueError: no model there, not the
    pinned one, not of this kind, weights missing, lengths beyond the model's positions, towers that the model does not have.
    UserWarning: a masked-language-model head or a projection had to be made.
    """
    path = str(folder) if folder is not None else model_path(settings.model, settings.sha256)
    model_of, student_of = KINDS[settings.kind]
    model = _with_towers(model_of(path, settings), settings)
    model.prompts |= {"query": settings.query_prefix, "document": passage_prompt(settings.passage_format)[0]}
    model.default_prompt_name = None
    model.similarity_fn_name = "maxsim" if settings.kind == "late_interaction" else settings.score  # type: ignore[assignment]
    _set_lengths(model, settings)
    if settings.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = settings.dropout
    if settings.query_side is not None:
        train_query_side(model, settings)  # type: ignore[arg-type]
    for transformer in transformers_of(model):
        freeze_lowest(transformer, settings.frozen_layers, "student.frozen_layers")
    return student_of(model.eval(), settings)


def dense_model(path: str, settings: StudentModel) -> SentenceTransformer:
    """The model at `path`, pooled and normalised as the settings say; a bare encoder gets mean pooling."""
    model = opened(lambda: SentenceTransformer(path, device="cpu"), path)
    check_encoder(model, path)
    if settings.pooling is not None:
        _set_pooling(model, settings.pooling)
    normalised = [m for m in model.modules() if isinstance(m, Normalize) and m.module_input_name == "sentence_embedding"]
    if settings.score == "cosine" and not normalised:
        model.append(Normalize())  # an inner product of the saved model's vectors is a cosine, too
    return model


KINDS: dict[str, tuple[Callable[[str, StudentModel], BaseModel], Callable[..., AnyStudent]]] = {
    "dense": (dense_model, DenseStudent),
    "sparse": (sparse_model, SparseStudent),
    "late_interaction": (late_interaction_model, LateInteractionStudent),
}


def _set_pooling(model: SentenceTransformer, mode: str) -> None:
    found = [module for module in model.modules() if isinstance(module, Pooling)]
    if not found:
        raise ValueError(f"student.pooling is {mode!r}, but the model pools by itself: leave student.pooling unset")
    for module in found:
        module.pooling_mode = mode  # type: ignore[assignment]


def _with_towers(model: BaseModel, settings: StudentModel) -> BaseModel:
    """One tower for both sides, or two that start from the same weights (sentence-transformers' Router)."""
    routed = any(isinstance(module, Router) for module in model.modules())
    one = settings.towers == "tied" and not settings.inference_free and settings.query_side is None
    if one and routed:
        raise ValueError("student.towers is 'tied', but the model has a tower for each side: set it to 'separate'")
    if one or routed:
        return model
    towers = list(model.children())
    router = Router.for_query_document(query_modules=towers, document_modules=copy.deepcopy(towers))  # type: ignore[arg-type]
    return type(model)(modules=[router], device="cpu")


def _set_lengths(model: BaseModel, settings: StudentModel) -> None:
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
