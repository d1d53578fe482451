"""Making, saving and loading readers: from a hub or folder, from an encoder alone, or from a plain T5 state dict."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertLMHeadModel,
    BertModel,
    EncoderDecoderModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)

from retort.compute import model_path
from retort.config import Read
from retort.store import read_json
from retort.teachers.fid.model import Reader

MARK, GATE = "reader.json", "gate.safetensors"
# FiD's readers were trained with transformers 3.0.2, whose cross-attention owned a bias that later versions removed
REMOVED_BIAS = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
DROPOUTS = ("dropout_rate", "dropout", "attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob")


def make_reader(settings: Read) -> Reader:
    """The reader that the settings name, before its training: a saved reader, an encoder-decoder, or a warm start.

    ValueError where there is no such model, where it lacks weights, or where it cannot become the reader that is asked for.
    """
    path = model_path(settings.model, settings.sha256)
    try:
        return _made(path, settings)
    except OSError as error:
        raise ValueError(
            f"reader model {settings.model!r} cannot be loaded: {str(error).splitlines()[0]} Give a model folder, "
            "package:NAME/folder, or the id of a model that the hub can be reached for"
        ) from error


def _made(path: str, settings: Read) -> Reader:
    if (Path(path) / MARK).exists():
        reader = load_reader(Path(path), dropout=settings.dropout)
        if settings.copies and reader.gate is None:
            raise ValueError(f"read.copies is set, but the reader in {path} was trained without: unset it, or start anew")
        return reader
    config = _config(path, settings.dropout)
    if settings.decoder_layers is None:
        model = _loaded(AutoModelForSeq2SeqLM, path, config=config)
        return Reader(model, AutoTokenizer.from_pretrained(path), copies=settings.copies)
    if config.model_type != "bert":
        raise ValueError(
            f"read.model {settings.model!r} is a {config.model_type} model and read.decoder_layers is set: a reader is "
            "warm-started from a bert encoder only; give one, or leave decoder_layers out for an encoder-decoder"
        )
    encoder = _loaded(BertModel, path, config=config, add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = warm_start(encoder, tokenizer, decoder_layers=settings.decoder_layers)
    return Reader(model, tokenizer, copies=settings.copies)


def load_reader(folder: Path, *, dropout: float | None = None) -> Reader:
    """The reader that `save_reader` put in `folder`, weight for weight. ValueError where it is not there or not whole."""
    if not (folder / MARK).exists():
        raise ValueError(f"{folder} holds no {MARK}: expected a folder that a reader was saved to")
    mark = read_json(folder / MARK)
    model = _loaded(AutoModelForSeq2SeqLM, str(folder), config=_config(str(folder), dropout))
    if mark["shared_embeddings"]:
        _share_embeddings(model)
    reader = Reader(model, AutoTokenizer.from_pretrained(folder), copies=mark["copies"])
    if reader.gate is not None:
        reader.gate.load_state_dict(load_file(folder / GATE))
    return reader


def save_reader(reader: Reader, folder: Path) -> None:
    """A transformers folder (model and tokenizer), plus reader.json and, for a reader that copies, its gate."""
    shared = _shares_embeddings(reader.model)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in reader.model.state_dict().items()}
    if shared:  # one tensor, three names: safetensors wants each name to own its memory
        state = {name: value.clone() for name, value in state.items()}
    reader.model.save_pretrained(folder, state_dict=state)
    reader.tokenizer.save_pretrained(folder)
    if reader.gate is not None:
        save_file(reader.gate.state_dict(), folder / GATE)
    (folder / MARK).write_text(json.dumps({"copies": reader.gate is not None, "shared_embeddings": shared}))


def warm_start(encoder: BertModel, tokenizer: PreTrainedTokenizerBase, *, decoder_layers: int) -> EncoderDecoderModel:
    """An encoder-decoder around a BERT encoder: its first layers, copied, become the decoder's.

    Cross-attention starts as a copy of self-attention, the output transform is new, and encoder, decoder and output share
    one table of word embeddings (Rothe et al. 2020, arXiv 1907.12461, "BERTShare"). For a machine on which no pre-trained
    encoder-decoder is at hand. ValueError where the encoder has fewer layers than the decoder is to have.
    """
    if decoder_layers > encoder.config.num_hidden_layers:
        raise ValueError(
            f"read.decoder_layers is {decoder_layers}, but they start from the encoder's layers, which are "
            f"{encoder.config.num_hidden_layers}: set it to that at most"
        )
    changes = {"num_hidden_layers": decoder_layers, "is_decoder": True, "add_cross_attention": True}
    decoder = BertLMHeadModel(type(encoder.config).from_dict({**encoder.config.to_dict(), **changes}))
    decoder.bert.load_state_dict(encoder.state_dict(), strict=False)
    for layer in decoder.bert.encoder.layer:
        layer.crossattention.load_state_dict(layer.attention.state_dict())  # type: ignore[union-attr]
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)  # type: ignore[arg-type]
    _share_embeddings(model)
    model.config.decoder_start_token_id = tokenizer.cls_token_id  # type: ignore[assignment]
    model.config.pad_token_id = tokenizer.pad_token_id  # type: ignore[assignment]
    model.config.eos_token_id = tokenizer.sep_token_id
    model.generation_config.decoder_start_token_id = tokenizer.cls_token_id  # type: ignore[union-attr]
    return model


def load_t5(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> T5ForConditionalGeneration:
    """A T5 from a plain state dict, in eval mode; strict: a missing, unknown or misshapen weight is an error.

    The cross-attention bias of transformers 3.0.2 is dropped, since no later T5 has it: raw G falls by one constant for all
    passages, softmax(G) stays as it is, and the likelihood of answers changes a little (methods 2.3).
    """
    model = T5ForConditionalGeneration(T5Config(**config))
    weights = {name: value for name, value in state.items() if name != REMOVED_BIAS}
    tied = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    tied += ["lm_head.weight"] if config.get("tie_word_embeddings", True) else []
    head = weights.get("lm_head.weight")
    if head is not None and not torch.equal(head, weights.get("shared.weight", head)):  # T5 1.1; the class ties by itself
        model.lm_head.weight = nn.Parameter(torch.empty_like(head))
    try:
        missing, unknown = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"not a T5 state dict of this config: {error}; check the config") from None
    missing = [name for name in missing if name not in tied]
    if missing or unknown:
        raise ValueError(
            f"not a T5 state dict of this config: missing {missing[:3]}, unknown {unknown[:3]}; check the config"
        )
    return model.eval()


def _loaded(kind: Any, path: str, **arguments: object) -> Any:  # noqa: ANN401 (transformers' classes)
    """The model at `path` without a pooler. ValueError where a weight is missing there, as it would be random.

    Fusion-in-Decoder reads token states; a pooler would only stop DistributedDataParallel, which wants every weight used.
    """
    model, found = kind.from_pretrained(path, output_loading_info=True, **arguments)
    missing = sorted(name for name in found["missing_keys"] if "pooler." not in name)
    if missing:
        raise ValueError(
            f"the model in {path} lacks {len(missing)} weights, for example {missing[0]!r}: expected all of them, as they "
            "would be random; give a whole checkpoint"
        )
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return model


def _share_embeddings(model: PreTrainedModel) -> None:
    """One word table for encoder, decoder input and decoder output."""
    table = cast(nn.Embedding, model.get_encoder().get_input_embeddings())
    decoder = cast(PreTrainedModel, model.decoder)
    decoder.set_input_embeddings(table)
    cast(nn.Linear, decoder.get_output_embeddings()).weight = table.weight


def _shares_embeddings(model: PreTrainedModel) -> bool:
    """Whether `_share_embeddings` made it so; T5 and BART know by themselves what they share."""
    table = model.get_encoder().get_input_embeddings().weight
    return isinstance(model, EncoderDecoderModel) and cast(nn.Linear, model.get_output_embeddings()).weight is table


def _config(path: str, dropout: float | None) -> Any:  # noqa: ANN401 (any model's config)
    """The config at `path` with every dropout that it and its parts have set to `dropout`, unless that is None."""
    config = AutoConfig.from_pretrained(path)
    for part in (config, getattr(config, "encoder", None), getattr(config, "decoder", None)):
        for name in DROPOUTS if dropout is not None else ():
            if hasattr(part, name):
                setattr(part, name, dropout)
    return config
