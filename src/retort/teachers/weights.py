"""Weights of transformers models, loaded whole: none is missing, none is left over, each has its shape."""

import re
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

# What checkpoints hold beside a model's weights: buffers that transformers computes by itself today, poolers, which no
# teacher reads, and what a text decoder has no use for (towers of images and sounds, heads for further tokens).
BUFFERS = r"position_ids$|masked_bias$|attn\.(attention\.)?bias$|causal_mask$|inv_freq$"
BESIDE = rf"(^|\.)(pooler\.|{BUFFERS}|vision|visual|audio|multi_modal|mtp\.)"


def loaded(kind: Any, path: str, *, what: str, **arguments: object) -> tuple[Any, Mapping[str, Any]]:  # noqa: ANN401 (transformers' classes)
    """The model of class `kind` at `path`, which `what` names, and which weights did not fit: for `check_whole`.

    OSError where no model is there, ValueError where its files are broken.
    """
    try:
        return kind.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True, **arguments)
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the weights of {what} cannot be read ({reason}), expected whole files: fetch or copy the model again"
        ) from error


def check_whole(found: Mapping[str, Any], what: str, *, beside: str = BESIDE) -> None:
    """ValueError where a weight is missing, as it would be random, is left over, or has another shape than the config says.

    `found` is what `loaded` tells; `beside` matches the names of weights that may be on either side alone.
    """
    missing, unknown = (
        sorted(name for name in found[key] if not re.search(beside, name)) for key in ("missing_keys", "unexpected_keys")
    )
    if missing:
        raise ValueError(
            f"{what} lacks {len(missing)} weights, for example {missing[0]!r}: expected all of them, as they would be "
            "random; give a whole checkpoint"
        )
    if unknown:
        raise ValueError(
            f"{what} holds {len(unknown)} weights that its config has no place for, for example {unknown[0]!r}: expected "
            "none, as they would be left out in silence; give the config that the weights were saved with"
        )
    if found["mismatched_keys"]:
        name, there, wanted = min(found["mismatched_keys"])
        raise ValueError(
            f"{what} has {len(found['mismatched_keys'])} weights of another shape than its config says, for example "
            f"{name!r} of {tuple(there)}, expected {tuple(wanted)}: give the config that the weights were saved with"
        )
