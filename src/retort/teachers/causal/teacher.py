"""A causal language model as a Teacher: how likely a passage makes the answer or the question, or where the model looks."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from retort.records import Group, Passage
from retort.teachers.causal.attention import Looking, passage_attention
from retort.teachers.causal.likelihood import BATCH_TOKENS, continuation_log_probs
from retort.teachers.causal.loading import check_context, check_tokenizer, padding_token
from retort.teachers.causal.prompts import (
    PROMPTS,
    Frame,
    Layout,
    Prompt,
    Signal,
    chat_frame,
    continuation,
    laid_out,
    plain_frame,
)
from retort.teachers.heads import Heads
from retort.teachers.raw import check_finite

GROUPS = 64  # groups tokenised and scored together: some MB of ids, and enough to find neighbours of one length
NO_QUESTION = "N/A"  # a question, or answer, without content (arXiv 2410.02642, section 3.2)


@dataclass(frozen=True)
class CausalTeacher:
    """Scores the passages of a question by one of three signals, raw, without dropout.

    answer: the mean log-probability of the tokens of the first answer given question and passage (PDist; REPLUG, arXiv
    2301.12652). question: that of the question's tokens given the passage, without any answer (ART, arXiv 2206.10658). Both
    read each passage alone. attention: all passages stand in one prompt, and count by the attention that falls on them
    `looking` from the question's tokens (in-context re-ranking, arXiv 2410.02642), the prompt's last token, or the tokens of
    the answer behind it; `calibrated` by a question without content.

    `tokens` cuts the text of each passage. `end_token`: the likelihoods are those of a text that ends there. `heads` are
    those that count, by layer; None: all. `chat` puts the prompt into the user's turn of the tokenizer's template, which
    gets `chat_options`. `batch_tokens` bounds the padded tokens of one forward pass of the likelihoods. `autocast` gives the
    precision to compute in. ValueError at once: a prompt that does not fit the signal, no chat template, a tokenizer that
    does not fit the model.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    _: KW_ONLY
    signal: Signal = "answer"
    prompt: Prompt | None = None  # None: PROMPTS' own of the signal
    chat: bool = False
    chat_options: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 256
    end_token: bool = False
    looking: Literal["question", "last", "answer"] = "question"
    calibrated: bool = True
    heads: Heads | None = None
    batch_tokens: int = BATCH_TOKENS
    share_prefixes: bool = True
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __post_init__(self) -> None:
        self._prompt.check(self.signal)
        check_tokenizer(self.model, self.tokenizer)
        _ = self._frame  # a template that cannot be used is refused now

    def score(self, groups: Sequence[Group]) -> list[Float32[np.ndarray, "K"]]:
        """The signal of each passage of each group.

        ValueError names the question that has no answer where one is read, whose prompt is longer than the model's context,
        or of which a score is not finite.
        """
        was_training = self.model.training
        self.model.eval()
        if self.signal == "attention":
            scores = [self._attention(group) for group in groups]
        else:
            parts = [groups[start : start + GROUPS] for start in range(0, len(groups), GROUPS)]
            scores = [found for part in parts for found in self._likelihoods(part)]
        self.model.train(was_training)
        for group, found in zip(groups, scores, strict=True):
            check_finite(group, found, "language model")
        return scores

    def _likelihoods(self, groups: Sequence[Group]) -> list[Float32[np.ndarray, "K"]]:
        prompts: list[list[int]] = []
        continuations: list[list[int]] = []
        for group in groups:
            own = [self._laid_out(group, [passage]).ids for passage in group.passages]
            scored = self._continuation(group, end_token=self.end_token) if own else []
            self._check_context(group, max(map(len, own), default=0) + len(scored))
            prompts += own
            continuations += [scored] * len(own)
        with self.autocast():
            found = continuation_log_probs(
                self.model,
                prompts,
                continuations,
                pad=padding_token(self.tokenizer),
                batch_tokens=self.batch_tokens,
                share_prefixes=self.share_prefixes,
            )
        means = np.array([float(log_probs.mean()) for log_probs in found], np.float32)
        return np.split(means, np.cumsum([len(group.passages) for group in groups])[:-1])

    def _attention(self, group: Group) -> Float32[np.ndarray, "K"]:
        if not group.passages:
            return np.empty(0, np.float32)
        layout, prompt = self._looking(group)
        self._check_context(group, len(prompt.ids))
        calibration = None
        if self.calibrated:
            empty = replace(group.query, text=NO_QUESTION, answers=(NO_QUESTION,))
            _, calibration = self._looking(replace(group, query=empty))
        with self.autocast():
            found = passage_attention(self.model, prompt, layout.passages, calibration=calibration, heads=self.heads)
        return found.numpy()

    def _looking(self, group: Group) -> tuple[Layout, Looking]:
        """The prompt of all passages, and the positions that look back from it."""
        layout = self._laid_out(group, group.passages)
        if self.looking == "answer":
            ids = [*layout.ids, *self._continuation(group, end_token=False)]
            return layout, Looking(ids, range(len(layout.ids), len(ids)))
        last = range(len(layout.ids) - 1, len(layout.ids))
        return layout, Looking(layout.ids, layout.question if self.looking == "question" else last)

    def _laid_out(self, group: Group, passages: Sequence[Passage]) -> Layout:
        return laid_out(self.tokenizer, self._frame, self._prompt, group.query.text, passages, self.tokens)

    def _continuation(self, group: Group, *, end_token: bool) -> list[int]:
        return continuation(self.tokenizer, self._frame, self._prompt.scored, group.query, end_token=end_token)

    def _check_context(self, group: Group, tokens: int) -> None:
        check_context(
            self.model,
            tokens,
            f"the prompt of question {group.query.id!r}",
            "label fewer passages a question (depth), cut them shorter (tokens), or give a model with a longer context",
        )

    @property
    def _prompt(self) -> Prompt:
        return self.prompt or PROMPTS[self.signal]

    @cached_property
    def _frame(self) -> Frame:
        return chat_frame(self.tokenizer, self.chat_options) if self.chat else plain_frame(self.tokenizer)
