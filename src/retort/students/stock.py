"""What all students do with the stock sentence-transformers model that they hold: tokenise, run, encode in bulk, save.

Prefixes, lengths, pooling and masks live in that model, so the saved folder encodes alike in stock sentence-transformers:
`encode_query(question)`, and `encode_document(text)` with `text` as `passage_text` writes it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

from retort.config import StudentModel
from retort.records import Passage, Query
from retort.students.texts import passage_prompt
from retort.tensors import Encoded, Side, Student, Tokens, suited
from retort.text import passage_text

TASKS: dict[Side, str] = {"query": "query", "passage": "document"}  # what sentence-transformers calls the two sides
EXPANSION = "query_expansion_positions"  # its mark of the positions that were filled up with [MASK]
BLOCK = 8192  # texts tokenised together in bulk: some MB of token ids, and enough to find neighbours of one length
Precision = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class StockStudent:
    """A stock model in a field with the settings that it is used by: what is alike in all kinds of students."""

    model: BaseModel
    settings: StudentModel

    @property
    def module(self) -> torch.nn.Module:
        """What is trained and checkpointed."""
        return self.model

    @property
    def dimension(self) -> int:
        """The length of its vectors: of a text's, of a token's with late interaction, the vocabulary's of sparse ones."""
        return int(self.model.get_embedding_dimension())  # type: ignore[attr-defined]

    @property
    def scale(self) -> float:
        """What an inner product, or a sum of them, is divided by to be the score."""
        return score_scale(self.settings, self.dimension)

    def tokenise(self, records: Sequence[Query] | Sequence[Passage], side: Side) -> Tokens:
        """The records of one side as the model reads them: with prefix, title and [MASK]s, cut to the side's length."""
        rest = passage_prompt(self.settings.passage_format)[1]
        texts = [r.text if side == "query" else passage_text(r, rest) for r in records]  # type: ignore[arg-type]
        task = TASKS[side]
        features: dict[str, Any] = dict(self.model.preprocess(texts, prompt=self.model.prompts[task], task=task))
        tensors = {name: value for name, value in features.items() if torch.is_tensor(value)}
        notes = {name: value for name, value in features.items() if name not in tensors}
        used = tensors["attention_mask"].bool()
        return Tokens(side, tensors, used | tensors[EXPANSION] if EXPANSION in tensors else used, notes)

    def save(self, folder: Path) -> None:
        """A folder that stock sentence-transformers loads; its bytes depend on the weights and settings alone."""
        for module in self.model.modules():
            if isinstance(module, Transformer | SparseStaticEmbedding):
                backend: Any = module.tokenizer.backend_tokenizer  # type: ignore[union-attr]
                backend.no_truncation()  # the last call's padding and length would be written into tokenizer.json
                backend.no_padding()
        self.model.save(str(folder), create_model_card=False)


def features_of(model: BaseModel, tokens: Tokens) -> dict[str, Any]:
    """What the model makes of the texts: its named outputs, differentiable, on its own device."""
    return model({**tokens.notes, **tokens.to(model.device).tensors}, task=TASKS[tokens.side])


def in_buckets(
    student: Student,
    records: Sequence[Query] | Sequence[Passage],
    side: Side,
    *,
    batch_tokens: int,
    autocast: Precision,
) -> Iterator[tuple[Int64[np.ndarray, "n"], Encoded]]:
    """All records' encodings without dropout, texts of one length together; each part with its places in `records`.

    `batch_tokens` bounds the padded tokens of one forward pass. `autocast` gives the precision to compute in.
    """
    was_training, most = student.module.training, suited(batch_tokens, next(student.module.parameters()).device)
    student.module.eval()
    try:
        for start in range(0, len(records), BLOCK):
            for rows, part in student.tokenise(records[start : start + BLOCK], side).buckets(most):
                with torch.inference_mode(), autocast():
                    encoded = student.encode(part)
                yield start + rows.numpy(), encoded
    finally:
        student.module.train(was_training)


def transformers_of(model: BaseModel) -> list[Transformer]:
    """The encoder of a tied model, or those of both towers."""
    return [module for module in model.modules() if isinstance(module, Transformer)]


def score_scale(settings: StudentModel, dimension: int) -> float:
    """What a student's inner product is divided by to be its score.

    >>> [score_scale(settings, 64) for settings in (StudentModel(), StudentModel(scale=0.05), StudentModel(kind="sparse"))]
    [8.0, 0.05, 1.0]
    """
    chosen = chosen_scale(settings)
    return math.sqrt(dimension) if chosen == "sqrt_dim" else float(chosen)


def chosen_scale(settings: StudentModel) -> float | str:
    """The scale that the settings give, or that is usual for the kind: "sqrt_dim" of FiD-KD for dense students, else 1."""
    if settings.scale is not None:
        return settings.scale
    return "sqrt_dim" if settings.kind == "dense" else 1.0
