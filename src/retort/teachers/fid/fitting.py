"""Which models can be readers: known from the config before a weight is loaded, and from one small look at the model.

Not here: loading (loading.py), and what of their tokenizers a signal needs (signals.py).
"""

from typing import Literal

import torch
from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, PretrainedConfig

from retort.config import Prompts, Read
from retort.teachers.fid.attention import passage_scores
from retort.teachers.fid.model import Reader, end_token

Side = Literal["encoder", "decoder"]
FITTING = "an encoder-decoder whose decoder attends to its encoder, such as T5, BART or an EncoderDecoderModel"
# encoder-decoders that cannot be fused or looked into (transformers 5.23): their attention does not pass through its
# interface, or their decoder asks the encoder for more than its states
UNREADABLE = ("fsmt", "led", "mvp", "nllb-moe", "prophetnet", "switch_transformers", "t5gemma2")
PADS_FIRST = ("camembert", "roberta", "xlm-roberta", "xlm-roberta-xl")  # whose positions begin behind the pad's id


def check_reader_config(config: PretrainedConfig, settings: Read, *, saved: bool = False) -> None:
    """ValueError where no model of `config` can be the reader that the settings ask for, with what would fit.

    Pure: another kind of model, too few layers, and strings longer than a model with absolute positions has positions.
    `saved`: the folder holds a reader of ours, whose decoder is there already.
    """
    found = f"read.model {settings.model!r} is a {config.model_type} model"
    if settings.decoder_layers is not None and not saved:
        if config.model_type != "bert":
            raise ValueError(
                f"{found} and read.decoder_layers is set: a reader is warm-started from a bert encoder only; give one, or "
                "leave decoder_layers out for an encoder-decoder"
            )
        check_decoder_layers(settings.decoder_layers, config)
    elif not config.is_encoder_decoder or type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"{found} and read.decoder_layers is not set, expected {FITTING}: give one; or set read.decoder_layers to start "
            "from a bert encoder; or give a causal language model to a teacher of kind: language_model, which has no reader"
        )
    elif config.model_type in UNREADABLE:
        raise ValueError(f"{found}, whose cross-attention cannot be read, expected {FITTING}: give another model")
    check_lengths(config, settings.prompts, f"read.model {settings.model!r}")


def check_lengths(config: PretrainedConfig, prompts: Prompts, what: str) -> None:
    """ValueError where strings or answers may be longer than the model of `config`, which `what` names, has positions."""
    sides: tuple[tuple[Side, str], ...] = (("encoder", "passage_tokens"), ("decoder", "answer_tokens"))
    for side, name in sides:
        asked, most = getattr(prompts, name), positions(config, side)
        if most is not None and asked > most:
            raise ValueError(
                f"read.prompts.{name} is {asked}, but the {side} of {what} has {most} positions: set it to {most} at most, "
                "or take a model of relative positions, such as T5"
            )


def check_decoder_layers(wanted: int, encoder: PretrainedConfig) -> None:
    """ValueError where a warm start asks for more layers than the encoder has to copy."""
    if wanted > encoder.num_hidden_layers:
        raise ValueError(
            f"read.decoder_layers is {wanted}, but they start from the encoder's layers, which are "
            f"{encoder.num_hidden_layers}: set it to that at most"
        )


def positions(config: PretrainedConfig, side: Side) -> int | None:
    """The most tokens that one side of a model can take; None where positions are relative.

    >>> from transformers import BartConfig, RobertaConfig, T5Config
    >>> [positions(of, "encoder") for of in (BartConfig(), T5Config(), RobertaConfig(max_position_embeddings=514))]
    [1024, None, 512]
    """
    own = getattr(config, side, None)  # an EncoderDecoderModel's config holds one for each side
    part = own if isinstance(own, PretrainedConfig) else config
    most = getattr(part, "max_position_embeddings", None)
    if most is not None and part.model_type in PADS_FIRST:
        most -= (part.pad_token_id or 0) + 1
    return most


def check_attended(reader: Reader, name: str) -> None:
    """ValueError where the cross-attention of the reader from `name` cannot be read: tried on two passages of two tokens."""
    training = reader.training
    ids = torch.full((1, 2, 2), end_token(reader), device=next(reader.parameters()).device)
    try:
        with torch.no_grad():
            passage_scores(reader.eval().model, ids, torch.ones_like(ids))
    except Exception as error:  # whatever the code of a model that was not made for this raises
        raise ValueError(
            f"read.model {name!r} is a {type(reader.model).__name__}, whose cross-attention cannot be read ({error}), "
            f"expected {FITTING}: give another model"
        ) from error
    reader.train(training)
