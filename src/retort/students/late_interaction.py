"""The late-interaction student (ColBERT): a vector for each token, scored by MaxSim. It holds a stock `MultiVectorEncoder`.

Not here: making one from settings (loading_late_interaction.py), what all kinds of students share (stock.py).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sentence_transformers import MultiVectorEncoder
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from retort.records import Passage, Query
from retort.students.stock import Precision, StockStudent, features_of, in_buckets
from retort.tensors import Batch, Encoded, Side, Signals, Tokens, TokenVectors, maxsim

PRODUCTS = 2**26  # inner products of tokens held at once by `maxsims`: 256 MB in float32


@dataclass(frozen=True)
class LateInteractionStudent(StockStudent):
    """A sentence-transformers model that scores S(q, p) = sum over i of max over j of E(q)_i.E(p)_j, divided by the scale.

    All rows have length 1. Queries are filled up with [MASK], whose vectors are scored too, and punctuation of passages is
    not, where the settings say so (ColBERT, arXiv 2004.12832).
    """

    model: MultiVectorEncoder

    @property
    def gives(self) -> frozenset[str]:
        """The names of the signals that it can give."""
        return frozenset({"scores", "inbatch"})

    def encode(self, tokens: Tokens) -> Encoded:
        """A float32 matrix a text and the mask of its scored tokens, differentiable, on the device of the model."""
        features = features_of(self.model, tokens)
        return Encoded(features["token_embeddings"].float(), features["attention_mask"].bool())

    def score(self, queries: Encoded, passages: Encoded, batch: Batch, want: frozenset[str]) -> Signals:
        """The wanted signals of a batch from the encodings of its queries and of its distinct passages."""
        given: dict[str, Tensor] = {}
        if "inbatch" in want:
            given["inbatch"] = maxsims(queries, passages) / self.scale
            given["scores"] = given["inbatch"].gather(1, batch.candidates)
        elif "scores" in want:
            given["scores"] = maxsims(queries, passages, batch.candidates) / self.scale
        return Signals(**{name: given[name] for name in sorted(want)})

    def embed(
        self,
        records: Sequence[Query] | Sequence[Passage],
        side: Side,
        *,
        batch_tokens: int = 16_384,
        autocast: Precision = nullcontext,
    ) -> TokenVectors:
        """The vectors of `records` that are scored, in their order, without dropout, in float32.

        `batch_tokens` bounds the padded tokens of one forward pass. `autocast` gives the precision to compute in.
        """
        matrices = [np.empty((0, self.dimension), np.float32)] * (1 + len(records))  # the first stays empty
        for rows, encoded in in_buckets(self, records, side, batch_tokens=batch_tokens, autocast=autocast):
            vectors, scored = encoded.vectors.cpu().numpy(), _mask(encoded).cpu().numpy()
            for row, matrix, real in zip(rows, vectors, scored, strict=True):
                matrices[1 + row] = matrix[real]
        return TokenVectors(np.concatenate(matrices), np.cumsum([len(matrix) for matrix in matrices], dtype=np.int64))


def maxsims(
    queries: Encoded, passages: Encoded, candidates: Int[Tensor, "B K"] | None = None, *, products: int = PRODUCTS
) -> Float[Tensor, "B C"]:
    """MaxSim of each query with its own candidates (C = K), or with every passage (C = M).

    Only so many queries are compared at once as keep within `products` inner products of tokens. Where that takes several
    goes, each is computed once more for its gradient, and no more than one is ever held.
    """
    texts = len(passages.vectors) if candidates is None else candidates.shape[1]
    each = texts * queries.vectors.shape[1] * passages.vectors.shape[1]
    at_once = max(1, products // max(1, each))

    def compared(start: int) -> Tensor:
        rows = slice(start, start + at_once)
        chosen = slice(None) if candidates is None else candidates[rows]
        pairs = (len(queries.vectors[rows]), texts)
        return maxsim(
            queries.vectors[rows, None].expand(*pairs, -1, -1),
            passages.vectors[chosen].expand(*pairs, -1, -1),
            _mask(queries)[rows, None].expand(*pairs, -1),
            _mask(passages)[chosen].expand(*pairs, -1),
        )

    starts = range(0, len(queries.vectors), at_once)
    if len(starts) <= 1:
        return compared(0)
    parts = [checkpoint(compared, start, use_reentrant=False, preserve_rng_state=False) for start in starts]
    return torch.cat(parts)  # type: ignore[arg-type]


def _mask(encoded: Encoded) -> Tensor:
    if encoded.mask is None:
        raise TypeError("matrices of tokens without their mask: late interaction needs Encoded.mask")
    return encoded.mask
