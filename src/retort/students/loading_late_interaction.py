"""Making a stock `MultiVectorEncoder`: a ColBERT model of any format that sentence-transformers reads, or a new one.

An encoder or a dense model becomes one with a new projection of its token vectors.
"""

import string
import warnings

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from retort.config import StudentModel
from retort.students.checkpoints import architectures, check_encoder, module_types, opened, saved_as, transformer_path
from retort.students.stock import transformers_of

SAVED = ("MultiVectorEncoder", "ColBERT")  # as sentence-transformers and PyLate name what they save
STANFORD = "HF_ColBERT"  # the architecture in ColBERT's own checkpoints, which hold the projection beside BERT


def late_interaction_model(path: str, settings: StudentModel) -> MultiVectorEncoder:
    """The ColBERT model at `path`, or one made of the encoder there, with the settings' expansion and punctuation.

    ValueError: no transformer there, or a projection of another length than student.dimension.
    """
    saved = saved_as(path) in SAVED
    if not saved:
        transformer_path(path)  # refuses what sentence-transformers could not make one of
    model = opened(lambda: MultiVectorEncoder(path, device="cpu"), path)
    check_encoder(model, path)
    if not saved and "Dense" not in module_types(path).values() and STANFORD not in architectures(path):
        model = _projected(model, path, settings.dimension)
    if (found := model.get_embedding_dimension()) != settings.dimension:
        raise ValueError(
            f"student.dimension is {settings.dimension}, but {path!r} projects to {found}: set it to {found}, or start from "
            "an encoder without a projection"
        )
    _set_expansion(model, settings)
    for mask in model.modules():
        if isinstance(mask, MultiVectorMask):
            mask.skiplist_words = (mask.skiplist_words or list(string.punctuation)) if settings.skip_punctuation else []
            mask.resolve_with_tokenizer(model.tokenizer)
    return model


def _projected(model: MultiVectorEncoder, path: str, dimension: int) -> MultiVectorEncoder:
    """The model with a new projection to `dimension` in place of the one that sentence-transformers has just drawn.

    Without bias, as ColBERT's.
    """
    width = transformers_of(model)[0].get_embedding_dimension()

    def drawn() -> Dense:
        return Dense(
            width, dimension, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings"
        )

    projection = opened(drawn, path)
    warnings.warn(
        f"{path} has no projection of token vectors: one of {width} to {dimension} was drawn, alike each time, and has to "
        "be trained",
        stacklevel=4,  # the caller of load_student
    )
    modules = [projection if isinstance(module, Dense) else module for module in model.children()]
    return MultiVectorEncoder(modules=modules, device="cpu")


def _set_expansion(model: MultiVectorEncoder, settings: StudentModel) -> None:
    """Queries of exactly query_tokens, filled up with [MASK]; the encoder sees those only where the model says so."""
    for transformer in transformers_of(model):
        known = transformer.query_expansion or {"strategy": "fixed", "attend": False}
        transformer.query_length = None  # set again with the other lengths; stock compares the two
        wanted = {**known, "length": settings.query_tokens} if settings.query_expansion else None
        transformer.query_expansion = wanted  # type: ignore[assignment]
