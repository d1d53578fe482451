"""The reader's signals by name: which tensors they read, and how a batch's passages are scored by several at once.

Here: presets of attention, and one encoder pass for all signals of a batch. Not here: the mathematics (attention.py,
likelihood.py) and the pass over questions (teacher.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retort.config import AttentionSettings, Part, Prompts, Signal
from retort.records import Group
from retort.teachers.fid.attention import scores_from_states
from retort.teachers.fid.encoding import encode_passages
from retort.teachers.fid.likelihood import alone, left_out, per_token
from retort.teachers.fid.model import Reader
from retort.teachers.fid.prompts import parts_of, tokenise_passages, tokenise_targets, trained_on

SHARE = {"stage": "post_softmax", "tokens": "sum"}
PRESETS: Mapping[str, Mapping[str, Any]] = {  # of `passage_scores`
    "fid_kd": {},
    "adist": {"position": "all", **SHARE, "value_norm": True},
    "copy": SHARE,
}


@dataclass(frozen=True)
class ReaderSignal:
    """A signal by name; for those of attention, what is to differ from its preset."""

    name: Signal = "fid_kd"
    attention: AttentionSettings = field(default_factory=AttentionSettings)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `passage_scores`, but for labels and `exclude`."""
        chosen = self.attention.model_dump(exclude={"exclude"}, exclude_none=True)
        return {**PRESETS.get(self.name, {}), **chosen}

    @property
    def reads_answers(self) -> bool:
        """Whether the decoder is fed an answer.

        >>> [ReaderSignal(name).reads_answers for name in ("fid_kd", "copy", "adist", "pdist")]
        [False, False, True, True]
        """
        return self.name not in PRESETS or self.options.get("position", "first") != "first"


def check_signals(reader: Reader, signals: Sequence[ReaderSignal]) -> None:
    """ValueError where a signal leaves out parts of the strings and the reader's tokenizer cannot tell where they are."""
    parts = [signal.name for signal in signals if signal.attention.exclude]
    if parts and not reader.tokenizer.is_fast:
        raise ValueError(
            f"the signals {parts} exclude parts of the passage strings, but {type(reader.tokenizer).__name__} cannot tell "
            "where in a text its tokens stand: take `attention.exclude` out, or give a model that has a tokenizer.json"
        )


@dataclass(frozen=True)
class Encodings:
    """A batch of groups as the reader encodes it, once for all signals; each group's target, or first answer, is read."""

    reader: Reader
    groups: Sequence[Group]
    prompts: Prompts
    device: torch.device

    @cached_property
    def tokens(self) -> tuple[Int[Tensor, "B K L"], Int[Tensor, "B K L"]]:
        """Ids and mask of all passage strings."""
        ids, mask = tokenise_passages(self.reader, self.groups, self.prompts)
        return ids.to(self.device), mask.to(self.device)

    @cached_property
    def states(self) -> Float[Tensor, "B K L D"]:
        """The encoder's states."""
        return encode_passages(self.reader.model, *self.tokens)

    @cached_property
    def targets(self) -> Int[Tensor, "B T"]:
        """Target ids of each group's target, or of its first answer where the data names none."""
        answers = [trained_on(group.query)[0] for group in self.groups]
        return tokenise_targets(self.reader, answers, self.prompts).to(self.device)

    @cached_property
    def alone(self) -> Float[Tensor, "B K T"]:
        """Log-probabilities of the targets given each passage alone."""
        return alone(self.reader, self.states, *self.tokens, self.targets)

    @cached_property
    def parts(self) -> dict[Part, Bool[Tensor, "B K L"]]:
        """Which tokens belong to which part of their strings."""
        return parts_of(self.reader, self.groups, self.prompts)

    def excluded(self, parts: Sequence[Part]) -> Bool[Tensor, "B K L"] | None:
        """Which tokens do not count, because they are among `parts` of their strings."""
        return torch.stack([self.parts[part] for part in parts]).any(0).to(self.device) if parts else None

    def scores(self, signal: ReaderSignal) -> Float[Tensor, "B K"]:
        """A signal's score of each passage: raw, float32. Shares of attention as `copy` gives them are logs."""
        if signal.name == "loop":
            return left_out(self.reader, self.states, *self.tokens, self.targets)
        if signal.name in ("pdist", "emdr2"):
            return per_token(self.alone, self.targets) if signal.name == "pdist" else self.alone.sum(-1)
        score = scores_from_states(
            self.reader.model,
            self.states,
            self.tokens[1],
            labels=self.targets if signal.reads_answers else None,
            exclude=self.excluded(signal.attention.exclude),
            **signal.options,
        )
        if signal.name != "copy":
            return score
        # below 1e-38 float32 cannot tell a share from 0, of which there is no log
        return score.clamp(min=torch.finfo(score.dtype).tiny).log()
