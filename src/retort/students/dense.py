"""The dense student: one vector a text, scored by inner product. It holds a stock `SentenceTransformer` in a field.

Not here: making one from settings (loading.py), what all kinds of students share (stock.py), the model card (card.py).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from sentence_transformers import SentenceTransformer

from retort.records import Passage, Query
from retort.students.stock import Precision, StockStudent, features_of, in_buckets
from retort.tensors import Batch, Encoded, Side, Signals, Tokens, pair_scores


@dataclass(frozen=True)
class DenseStudent(StockStudent):
    """A sentence-transformers model that scores S(q, p) = E(q).E(p) / scale (FiD-KD: scale = sqrt of the dimension)."""

    model: SentenceTransformer

    @property
    def gives(self) -> frozenset[str]:
        """The names of the signals that it can give."""
        return frozenset({"scores", "inbatch", "query_emb", "passage_emb"})

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
