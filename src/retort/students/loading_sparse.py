"""Making a stock `SparseEncoder`: one that was saved, or a checkpoint's masked-language-model head with SPLADE pooling.

A checkpoint without that head gets one tied to its input embeddings. Queries may do without inference (Router).
"""

import copy
import warnings
from collections.abc import Collection

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, PreTrainedModel

from retort.config import StudentModel
from retort.students.checkpoints import check_encoder, missing_weights, opened, refuse_missing, saved_as, transformer_path
from retort.students.stock import transformers_of

POSITIONS = 32  # pooled at once: [texts, positions, vocabulary] is the largest tensor, and pooling all copies it twice


def sparse_model(path: str, settings: StudentModel) -> SparseEncoder:
    """The SPLADE model at `path`, or one made of the encoder there; its queries are free of inference where settings say so.

    ValueError: no masked-language model, another kind of sparse model, other towers than the settings'.
    """
    if saved_as(path) == "SparseEncoder":
        model = opened(lambda: SparseEncoder(path, device="cpu"), path)
        check_encoder(model, path)
    else:
        model = SparseEncoder(modules=[_masked_language_model(path), SpladePooling()], device="cpu")
    poolings = [module for module in model.modules() if isinstance(module, SpladePooling)]
    if not poolings:
        raise ValueError(
            f"student model {path!r} is sparse by {type(model[-1]).__name__}: expected SpladePooling; give a SPLADE "
            "model, or an encoder to make one of"
        )
    for pooling in poolings:
        pooling.pooling_strategy, pooling.chunk_size = settings.sparse_pooling, POSITIONS
        pooling.embedding_dimension = transformers_of(model)[0].config.vocab_size
    return _with_query_side(model, path, settings)


def _masked_language_model(path: str) -> Transformer:
    """The encoder at `path` with its head, or with a new one that reads a token's logits off its input embeddings."""
    folder = transformer_path(path)
    config = opened(lambda: AutoConfig.from_pretrained(folder), path)
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        raise _no_head(path, f"{config.model_type} encoders come without a masked-language model")
    transformer = opened(lambda: Transformer(folder, transformer_task="fill-mask"), path)
    missing = missing_weights(transformer, folder)
    encoder = f"{transformer.model.base_model_prefix}."
    refuse_missing(transformer, folder, [name for name in missing if name.startswith(encoder)])
    if missing:
        _tie_head(transformer.model, missing, path)
        warnings.warn(
            f"{path} has no masked-language-model head: one was made that starts as its input embeddings. A checkpoint that "
            "was saved with its head makes a better sparse student",
            stacklevel=4,  # the caller of load_student
        )
    return transformer


def _tie_head(model: PreTrainedModel, missing: Collection[str], path: str) -> None:
    """Ties the head's last layer to the input embeddings; what is new before it passes its input on unchanged."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embeddings is None or head.weight.shape != embeddings.weight.shape:
        raise _no_head(path, "its head does not fit its token embeddings, so it cannot be tied to them")
    head.weight, model.config.tie_word_embeddings = embeddings.weight, True
    with torch.no_grad():
        for name in missing:
            weight = model.get_parameter(name)
            if weight.ndim == 2 and weight is not head.weight:
                torch.nn.init.eye_(weight)
            elif weight.ndim == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)


def _no_head(path: str, found: str) -> ValueError:
    return ValueError(
        f"student model {path!r} cannot be sparse: {found}. Expected an encoder with a logit for each entry of its "
        "vocabulary, such as BERT, DistilBERT or ModernBERT; give one, or set student.kind to dense or late_interaction"
    )


def _with_query_side(model: SparseEncoder, path: str, settings: StudentModel) -> SparseEncoder:
    """The model with weights looked up by token on the query's route, each 1 at first, where inference_free says so."""
    free = [module for module in model.modules() if isinstance(module, SparseStaticEmbedding)]
    routed = any(isinstance(module, Router) for module in model.modules())
    if routed and bool(free) != settings.inference_free:
        raise ValueError(
            f"student.inference_free is {settings.inference_free}, but the queries of {path!r} are encoded by "
            f"{'token lookup' if free else 'a transformer'}: set it to {bool(free)}"
        )
    if settings.inference_free and not routed:
        free = [_token_weights(transformers_of(model)[0], path)]
        router = Router.for_query_document(query_modules=free, document_modules=list(model.children()))  # type: ignore[arg-type]
        model = SparseEncoder(modules=[router], device="cpu")
    for lookup in free:
        lookup.tokenizer.model_max_length = settings.query_tokens  # type: ignore[attr-defined]
    return model


def _token_weights(transformer: Transformer, path: str) -> SparseStaticEmbedding:
    """A weight of 1 for each token; stock loading wants as many of them as the tokeniser has entries."""
    tokenizer = copy.deepcopy(transformer.tokenizer)  # its length is that of queries alone
    entries, logits = len(tokenizer.get_vocab()), transformer.config.vocab_size  # type: ignore[union-attr]
    if entries != logits:
        raise ValueError(
            f"student.inference_free needs as many logits as tokens, and {path!r} has {logits} logits and {entries} tokens: "
            f"resize_token_embeddings({entries}) with transformers and save it, or set inference_free to False"
        )
    return SparseStaticEmbedding(tokenizer)  # type: ignore[arg-type]
