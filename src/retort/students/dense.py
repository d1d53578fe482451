"""The dense student: one vector a text, scored by inner product. It holds a stock `SentenceTransformer` in a field.

Not here: making one from settings (loading.py), what all kinds of students share (stock.py), the model card (card.py).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from sentence_transformers import SentenceTransformer

from retort.config import StudentModel
from retort.records import Passage, Query
from retort.students.stock import Precision, features_of, in_buckets, save_stock, score_scale, tokenised
from retort.tensors import Batch, Encoded, Side, Signals, Tokens, pair_scores


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
        return score_scale(self.settings, self.dimension)

    def tokenise(self, records: Sequence[Query] | Sequence[Passage], side: Side) -> Tokens:
        """The records of one side as the model reads them: with prefix and title, cut to the side's length."""
        return tokenised(self.model, self.settings, records, side)

    def encode(self, tokens: Tokens) -> Encoded:
        """One float32 vector a text, differentiable, on the device of the model."""
        return Encoded(features_of(self.model, tokens)["sentence_embedding"].float())

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
        autocast: Precision = nullcontext,
    ) -> Float32[np.ndarray, "n D"]:
        """The vectors of `records`, in their order, without dropout; texts of one length are encoded together.

        `batch_tokens` bounds the padded tokens of one forward pass. `autocast` gives the precision to compute in, for
        example an accelerator's own `autocast`.
        """
        vectors = np.empty((len(records), self.dimension), np.float32)
        for rows, encoded in in_buckets(self, records, side, batch_tokens=batch_tokens, autocast=autocast):
            vectors[rows] = encoded.vectors.cpu().numpy()
        return vectors

    def save(self, folder: Path) -> None:
        """A folder that stock sentence-transformers loads; its bytes depend on the weights and settings alone."""
        save_stock(self.model, folder)
