"""Making, saving and loading readers: from a hub or folder, from an encoder alone, or from a plain T5 state dict."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
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
from retort.teachers.fid.bias import KEY_MAPPING, MAPPED, REMOVED_BIAS, keep_bias, kept_bias, warn_of_removed_bias
from retort.teachers.fid.fitting import check_attended, check_decoder_layers, check_reader_config
from retort.teachers.fid.model import Reader
from retort.teachers.tokenizers import check_vocabulary, padding_token
from retort.teachers.weights import BESIDE, check_whole, loaded

MARK, GATE = "reader.json", "gate.safetensors"
BIAS, BIAS_KEPT = "cross_attention_bias.safetensors", "cross_attention_bias"  # of a reader that was converted with it
HEADS = rf"{BESIDE}|^(?!(bert\.)?(embeddings|encoder)\.)"  # beside a bare encoder: what it was trained with, not its own
DROPOUTS = ("dropout_rate", "dropout", "attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob")


def make_reader(settings: Read) -> Reader:
    """The reader that the settings name, before its training: a saved reader, an encoder-decoder, or a warm start.

    ValueError where there is no such model, where its weights are not whole, or where it, or its tokenizer, cannot be the
    reader that is asked for.
    """
    path = model_path(settings.model, settings.sha256)
    with _said_of(settings.model):
        reader = _made(path, settings)
    check_attended(reader, settings.model)
    return reader


def check_reader(settings: Read) -> None:
    """`check_reader_config` of the model that the settings name; a hub model's config is fetched, and nothing else."""
    path = model_path(settings.model, settings.sha256)
    with _said_of(settings.model):
        check_reader_config(_config(path, None), settings, saved=_is_saved(path))


def _made(path: str, settings: Read) -> Reader:
    config, saved = _config(path, settings.dropout), _is_saved(path)
    check_reader_config(config, settings, saved=saved)
    if saved:
        reader = load_reader(Path(path), dropout=settings.dropout)
        if settings.copies and reader.gate is None:
            raise ValueError(f"read.copies is set, but the reader in {path} was trained without: unset it, or start anew")
        return reader
    if settings.decoder_layers is None:
        model = _loaded(AutoModelForSeq2SeqLM, path, config=config)
        return _fitted(model, AutoTokenizer.from_pretrained(path), copies=settings.copies)
    encoder = _loaded(BertModel, path, beside=HEADS, config=config, add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = warm_start(encoder, tokenizer, decoder_layers=settings.decoder_layers)
    return _fitted(model, tokenizer, copies=settings.copies)


def load_reader(folder: Path, *, dropout: float | None = None) -> Reader:
    """The reader that `save_reader` put in `folder`, weight for weight. ValueError where it is not there or not whole."""
    if not (folder / MARK).exists():
        raise ValueError(f"{folder} holds no {MARK}: expected a folder that a reader was saved to")
    mark = read_json(folder / MARK)
    model = _loaded(AutoModelForSeq2SeqLM, str(folder), config=_config(str(folder), dropout))
    if mark["shared_embeddings"]:
        _share_embeddings(model)
    if mark.get(BIAS_KEPT, False):
        keep_bias(model, _tensors(folder / BIAS)["weight"])
    reader = _fitted(model, AutoTokenizer.from_pretrained(folder), copies=mark["copies"])
    if reader.gate is not None:
        reader.gate.load_state_dict(_tensors(folder / GATE))
    return reader


def save_reader(reader: Reader, folder: Path) -> None:
    """A transformers folder (model and tokenizer), reader.json, and what transformers has no place for: gate and bias."""
    shared, bias = _shares_embeddings(reader.model), kept_bias(reader.model)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in reader.model.state_dict().items() if name != REMOVED_BIAS}
    if shared:  # one tensor, three names: safetensors wants each name to own its memory
        state = {name: value.clone() for name, value in state.items()}
    reader.model.save_pretrained(folder, state_dict=state)
    reader.tokenizer.save_pretrained(folder)
    mark = {"copies": reader.gate is not None, "shared_embeddings": shared}
    if reader.gate is not None:
        save_file(reader.gate.state_dict(), folder / GATE)
    if bias is not None:
        save_file({"weight": bias.detach()}, folder / BIAS)
        mark[BIAS_KEPT] = True
    (folder / MARK).write_text(json.dumps(mark))


def warm_start(encoder: BertModel, tokenizer: PreTrainedTokenizerBase, *, decoder_layers: int) -> EncoderDecoderModel:
    """An encoder-decoder around a BERT encoder: its first layers, copied, become the decoder's.

    Cross-attention starts as a copy of self-attention, the output transform is new, and encoder, decoder and output share
    one table of word embeddings (Rothe et al. 2020, arXiv 1907.12461, "BERTShare"). For a machine on which no pre-trained
    encoder-decoder is at hand. ValueError where the encoder has fewer layers than the decoder is to have.
    """
    check_decoder_layers(decoder_layers, encoder.config)
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


@contextmanager
def _said_of(model: str) -> Iterator[None]:
    """Inside, files that transformers cannot find are the user's to give."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"reader model {model!r} cannot be loaded: {str(error).splitlines()[0]} Give a model folder, "
            "package:NAME/folder, or the id of a model that the hub can be reached for"
        ) from error


def _loaded(kind: Any, path: str, *, beside: str = BESIDE, config: Any, **arguments: object) -> Any:  # noqa: ANN401 (transformers' classes)
    """The model at `path`, whole, without a pooler.

    Fusion-in-Decoder reads token states; a pooler would only stop DistributedDataParallel, which wants every weight used.
    """
    what, renamed = f"the model in {path}", KEY_MAPPING if config.model_type == "t5" else None
    model, found = loaded(kind, path, what=what, config=config, key_mapping=renamed, **arguments)
    check_whole(found, what, beside=f"{beside}|^{MAPPED}$")
    warn_of_removed_bias(found["unexpected_keys"], what)
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return model


def _fitted(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, copies: bool) -> Reader:
    """The reader of both. ValueError where the tokenizer cannot fill up batches, or is another model's."""
    padding_token(tokenizer)
    check_vocabulary(model, tokenizer)
    return Reader(model, tokenizer, copies=copies)


def _is_saved(path: str) -> bool:
    return (Path(path) / MARK).exists()


def _tensors(file: Path) -> dict[str, Tensor]:
    """What a file that `save_reader` left holds. ValueError where it is not there or broken."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}), expected what a saved reader has there: copy it again"
        ) from error


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
