"""A cross-encoder as a Teacher: question and passage read together by a stock `CrossEncoder`, scored by its raw logit.

Its own activation (a sigmoid, unless the model says otherwise) is set aside: beyond a logit of 17 float32 rounds every
sigmoid to 1, and a student learns from differences. Not here: finding and opening the model (loading.py).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from torch import nn

from retort.records import Group
from retort.teachers.loading import check_labels, check_positions
from retort.teachers.raw import check_finite, check_raw
from retort.tensors import Tokens, suited
from retort.text import passage_text

BLOCK = 8192  # pairs tokenised together: some MB of token ids, and enough to find neighbours of one length
SQUASHING = (nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax)


@dataclass(frozen=True)
class CrossEncoderTeacher:
    """Scores each passage alone with its question, raw, without dropout; cut to `tokens` of both together.

    `batch_tokens` bounds the padded tokens of one forward pass. `autocast` gives the precision to compute in, for example an
    accelerator's own `autocast`. Scores that a sigmoid inside of the model has squashed are refused, unless `squashed`.
    ValueError at once: more than one label, a squashing head, more tokens than the model has positions.
    """

    model: CrossEncoder
    passage_format: str = "{title} {text}"
    tokens: int = 256
    batch_tokens: int = 16_384
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    squashed: bool = False

    def __post_init__(self) -> None:
        check_labels(self.model.num_labels)
        check_positions(self.model, self.tokens)
        if not self.squashed:
            _check_head(self.model)

    def score(self, groups: Sequence[Group]) -> list[Float32[np.ndarray, "K"]]:
        """The logit of each passage of each group. ValueError names the pair whose logit is not finite."""
        pairs = [(g.query.text, passage_text(p, self.passage_format)) for g in groups for p in g.passages]
        logits = self._logits(pairs)
        scores = np.split(logits, np.cumsum([len(group.passages) for group in groups])[:-1]) if groups else []
        for group, found in zip(groups, scores, strict=True):
            check_finite(group, found, "cross-encoder")
        if not self.squashed:
            check_raw(logits, "the cross-encoder")
        return scores

    def _logits(self, pairs: list[tuple[str, str]]) -> Float32[np.ndarray, "N"]:
        logits = np.empty(len(pairs), np.float32)
        most = suited(self.batch_tokens, self.model.device)
        was_training = self.model.training
        self.model.eval()
        with torch.inference_mode():
            for start in range(0, len(pairs), BLOCK):
                for rows, part in self._tokenised(pairs[start : start + BLOCK]).buckets(most):
                    with self.autocast():
                        features = self.model({**part.notes, **part.to(self.model.device).tensors})
                    logits[start + rows.numpy()] = features["scores"].float().reshape(len(rows)).cpu().numpy()
        self.model.train(was_training)
        return logits

    def _tokenised(self, pairs: list[tuple[str, str]]) -> Tokens:
        """The pairs as the model reads them, with its own prompt where it has one; the longer side is cut first."""
        prompt = self.model.prompts.get(self.model.default_prompt_name or "")
        features: dict[str, Any] = dict(self.model.preprocess(pairs, prompt=prompt, max_length=self.tokens))
        tensors = {name: value for name, value in features.items() if torch.is_tensor(value)}
        notes = {name: value for name, value in features.items() if name not in tensors}
        return Tokens("passage", tensors, tensors["attention_mask"].bool(), notes)


def _check_head(model: CrossEncoder) -> None:
    """ValueError where the last module behind the transformer squashes what it gives; `activation_fn` is never called."""
    *_, last = model.children()
    if isinstance(last, Transformer):
        return
    found = [type(module).__name__ for module in last.modules() if isinstance(module, SQUASHING)]
    if found:
        raise ValueError(
            f"the cross-encoder's head ends in {found[-1]}, expected raw logits: set the head's activation to "
            "torch.nn.Identity() and save the model, or accept its scores as they are with squashed: true"
        )
