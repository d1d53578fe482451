"""Dense students out of the state dicts of FiD's retriever and of Contriever towers, as Atlas keeps them.

Here: which weight is which, and what a folder of ours must say to encode alike. Not here: reading the files (importing.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.base.modules.module import Module
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

from retort.config import StudentModel
from retort.students.dense import DenseStudent
from retort.students.loading import load_student
from retort.students.token_head import token_head

ENCODER = "model."
HEAD = ("proj.weight", "proj.bias", "norm.weight", "norm.bias")
MASKS = ("apply_question_mask", "apply_passage_mask")
POSITIONS = "embeddings.position_ids"  # 0, 1, 2, ...: not a weight, and no longer saved
WORDS = "embeddings.word_embeddings.weight"
HEAD_WIDTH = 64  # of an attention head, in BERT of every published size
SHOWN = 5  # names of weights in an error
ARCHITECTURE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob",
    "pad_token_id",
)  # fmt: skip


def fid_retriever(
    state: Mapping[str, Tensor], config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> DenseStudent:
    """FiD's retriever: one BERT for both sides, its head where the checkpoint has one, pooling and lengths of its config.

    The weights decide on the head, not `indexing_dimension`, which the published code records wrongly where there is none
    (methods 5.1, A1). ValueError: missing or unknown weights, masks off, a tokeniser of another vocabulary.
    """
    _check_masks(config)
    pooling = "cls" if config.get("extract_cls") else "mean"
    head = _head(state, config)
    behind = token_head(*head, pooling=pooling) if head else []
    encoder = _bert(
        {name.removeprefix(ENCODER): value for name, value in state.items() if name not in HEAD},
        {name: config[name] for name in ARCHITECTURE if name in config},
    )
    lengths = {"query_tokens": config.get("question_maxlength", 40), "passage_tokens": config.get("passage_maxlength", 200)}
    modules = behind or [Pooling(encoder.config.hidden_size, pooling)]
    return _student([(encoder, modules)], tokenizer, StudentModel(**lengths))


def contriever(towers: Sequence[Mapping[str, Tensor]], tokenizer: PreTrainedTokenizerBase, *, tokens: int) -> DenseStudent:
    """Atlas's retriever: a Contriever (BERT, masked mean) for both sides, or one for queries and one for passages.

    `tokens` is what both sides are cut to. The config, which Atlas does not save, is told from the shapes. Questions get the
    prefix of Atlas's prompt. ValueError: missing or unknown weights, a width that BERT's heads of 64 do not divide.
    """
    settings = StudentModel(
        query_prefix="question: ",
        passage_format="{title} {text}",
        query_tokens=tokens,
        passage_tokens=tokens,
        towers="tied" if len(towers) == 1 else "separate",
    )
    encoders = [_bert(state, bert_architecture(state)) for state in towers]
    return _student([(encoder, [Pooling(encoder.config.hidden_size, "mean")]) for encoder in encoders], tokenizer, settings)


def bert_architecture(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The fields of a BertConfig that the shapes of its weights tell, with heads of 64 as in every published size."""
    try:
        words, width = state[WORDS].shape
        shapes = {
            "max_position_embeddings": len(state["embeddings.position_embeddings.weight"]),
            "type_vocab_size": len(state["embeddings.token_type_embeddings.weight"]),
            "intermediate_size": len(state["encoder.layer.0.intermediate.dense.weight"]),
        }
    except KeyError as error:
        raise ValueError(f"no BERT state dict: it lacks {error}; found {sorted(state)[:SHOWN]}") from None
    if width % HEAD_WIDTH:
        raise ValueError(f"a BERT of width {width}, expected a multiple of {HEAD_WIDTH}, which one attention head has")
    layers = {name.split(".")[2] for name in state if name.startswith("encoder.layer.")}
    heads = width // HEAD_WIDTH
    return {
        **shapes, "vocab_size": words, "hidden_size": width, "num_hidden_layers": len(layers), "num_attention_heads": heads,
    }  # fmt: skip


def _check_masks(config: Mapping[str, Any]) -> None:
    for name in MASKS:
        if config.get(name) is not True:
            raise ValueError(
                f"the config says {name}: {config.get(name)}, expected true: without masks BERT attends to padding and the "
                "mean includes it, so a text's vector depends on how far it was padded, which is not kept here; set it to "
                "true to take the weights all the same, with other vectors, and train on"
            )


def _head(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> list[Tensor]:
    """The projection's weight and bias and the LayerNorm's, or nothing. ValueError where they are not what config says."""
    found = [name for name in HEAD if name in state]
    wanted = list(HEAD) if config.get("projection", bool(found)) else []
    if found != wanted:
        raise ValueError(
            f"the config says projection: {config.get('projection')}, so the head's weights are expected to be {wanted}, "
            f"found {found}: give the config and the weights of one checkpoint"
        )
    return [state[name] for name in found]


def _bert(state: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> BertModel:
    """The encoder of these weights; a pooler is taken where there is one, though neither pooling reads it."""
    weights = {name: value for name, value in state.items() if name != POSITIONS}
    pooler = any(name.startswith("pooler.") for name in weights)
    model = BertModel(BertConfig(**architecture), add_pooling_layer=pooler)
    try:
        missing, unknown = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"not a BERT state dict of this config: {error}; check the config") from None
    if missing or unknown:
        raise ValueError(
            f"not a BERT state dict of this config: {len(missing)} weights are missing {missing[:SHOWN]}, {len(unknown)} "
            f"are unknown {unknown[:SHOWN]}; give the config and the weights of one checkpoint"
        )
    return model


def _student(
    towers: Sequence[tuple[BertModel, list[Module]]], tokenizer: PreTrainedTokenizerBase, settings: StudentModel
) -> DenseStudent:
    """The student of one tower for both sides, or of a query's and a passage's. Stock modules load from folders only."""
    with TemporaryDirectory() as name:
        folder, sides = Path(name), []
        for number, (encoder, behind) in enumerate(towers):
            if len(tokenizer) > encoder.config.vocab_size:
                raise ValueError(
                    f"the tokeniser has {len(tokenizer)} entries, but the encoder {encoder.config.vocab_size} embeddings: "
                    "give the tokeniser that it was trained with"
                )
            encoder.save_pretrained(folder / str(number))
            tokenizer.save_pretrained(folder / str(number))
            sides.append([Transformer(str(folder / str(number))), *behind])
        modules: list[nn.Module] = [*sides[0]] if len(sides) == 1 else [Router.for_query_document(*sides)]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"), create_model_card=False)
        return cast(DenseStudent, load_student(settings, folder=folder / "model"))
