"""The dense student: one vector a text, scored by inner product. It holds a stock `SentenceTransformer` in a field.

Prefixes, lengths and normalisation live in that model, so the saved folder encodes alike in stock sentence-transformers:
`encode_query(question)`, and `encode_document(text)` with `text` as `passage_text` writes it. Not here: making one from
settings (loading.py) and the model card (card.py).
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

from retort.config import StudentModel
from retort.records import Passage, Query
from retort.students.texts import passage_prompt, passage_text
from retort.tensors import Batch, Encoded, Side, Signals, Tokens, pair_scores

TASKS: dict[Side, str] = {"query": "query", "passage": "document"}  # what sentence-transformers calls the two sides
BLOCK = 8192  # texts tokenised together by `embed`: some MB of token ids, and enough to find neighbours of one length


@dataclass(frozen=True)
class DenseStudent:
    """A sentence-transformers model that scores S(q, p) = E(q).E(p) / scale (FiD-KD: scale = sqrt of the dimension)."""

    model: SentenceTransformer
    settings: StudentModel

    @property
    def gives(self) -> frozenset[str]:
        """The names of the signals that it can give."""
        return frozenset({"scores", "inbatch", "query_emb", "passage_emb"})

    @property
    def module(self) -> torch.nn.Module:
        """What is trained and checkpointed."""
        return self.model

    @property
    def dimension(self) -> int:
        """The length of its vectors."""
        return int(self.model.get_embedding_dimension())  # type: ignore[arg-type]

    @property
    def scale(self) -> float:
        """What an inner product is divided by to be the score."""
        return math.sqrt(self.dimension) if self.settings.scale == "sqrt_dim" else float(self.settings.scale)

    def tokenise(self, records: Sequence[Query] | Sequence[Passage], side: Side) -> Tokens:
        """The records of one side as the model reads them: with prefix and title, cut to the side's length."""
        rest = passage_prompt(self.settings.passage_format)[1]
        texts = [r.text if side == "query" else passage_text(r, rest) for r in records]  # type: ignore[arg-type]
        task = TASKS[side]
        features: dict[str, Any] = dict(self.model.preprocess(texts, prompt=self.model.prompts[task], task=task))
        tensors = {name: value for name, value in features.items() if torch.is_tensor(value)}
        notes = {name: value for name, value in features.items() if name not in tensors}
        return Tokens(side, tensors, tensors["attention_mask"].bool(), notes)

    def encode(self, tokens: Tokens) -> Encoded:
        """One float32 vector a text, differentiable, on the device of the model."""
        features = self.model({**tokens.notes, **tokens.to(self.model.device).tensors})
        return Encoded(features["sentence_embedding"].float())

    def score(self, queries: Encoded, passages: Encoded, batch: Batch, want: frozenset[str]) -> Signals:
        """The wanted signals of a batch from the encodings of its queries and of its distinct passages."""
        scaled = queries.vectors / self.scale
        given = {
            "scores": lambda: pair_scores(scaled, passages.vectors, batch.candidates),
            "inbatch": lambda: scaled @ passages.vectors.T,
            "query_emb": lambda: queries.vectors,
            "passage_emb": lambda: passages.vectors,
        }
        return Signals(**{name: given[name]() for name in sorted(want)})

    def embed(
        self,
        records: Sequence[Query] | Sequence[Passage],
        side: Side,
        *,
        batch_tokens: int = 16_384,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Float32[np.ndarray, "n D"]:
        """The vectors of `records`, in their order, without dropout; texts of one length are encoded together.

        `batch_tokens` bounds the padded tokens of one forward pass. `autocast` gives the precision to compute in, for
        example an accelerator's own `autocast`.
        """
        vectors = np.empty((len(records), self.dimension), np.float32)
        was_training = self.model.training
        self.model.eval()
        with torch.inference_mode():
            for start in range(0, len(records), BLOCK):
                tokens = self.tokenise(records[start : start + BLOCK], side)
                for rows, part in tokens.buckets(batch_tokens):
                    with autocast():
                        vectors[start + rows.numpy()] = self.encode(part).vectors.cpu().numpy()
        self.model.train(was_training)
        return vectors

    def save(self, folder: Path) -> None:
        """A folder that stock sentence-transformers loads; its bytes depend on the weights and settings alone."""
        for transformer in transformers_of(self.model):
            backend: Any = transformer.tokenizer.backend_tokenizer  # type: ignore[union-attr]
            backend.no_truncation()  # the last call's padding and length would be written into tokenizer.json
            backend.no_padding()
        self.model.save(str(folder), create_model_card=False)


def transformers_of(model: SentenceTransformer) -> list[Transformer]:
    """The encoder of a tied model, or those of both towers."""
    return [module for module in model.modules() if isinstance(module, Transformer)]
