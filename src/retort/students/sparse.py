"""The sparse student (SPLADE): a weight for each entry of the vocabulary. It holds a stock `SparseEncoder` in a field.

Not here: making one from settings (loading_sparse.py), what all kinds of students share (stock.py).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, vstack
from sentence_transformers import SparseEncoder

from retort.records import Passage, Query
from retort.students.stock import Precision, StockStudent, features_of, in_buckets
from retort.tensors import Batch, Encoded, Side, Signals, Tokens


@dataclass(frozen=True)
class SparseStudent(StockStudent):
    """A sentence-transformers model of which a text's vector is log(1 + relu(logits of its tokens)), pooled over tokens.

    Max pooling: SPLADE v2 (arXiv 2109.10086); sum: v1 (2107.05720). The score is the inner product divided by the scale.
    Where queries are free of inference, theirs is a learned weight for each token that they hold (2411.04403).
    """

    model: SparseEncoder

    @property
    def gives(self) -> frozenset[str]:
        """The names of the signals that it can give."""
        return frozenset({"scores", "inbatch", "query_emb", "passage_emb"})

    def encode(self, tokens: Tokens) -> Encoded:
        """One float32 vector a text over the whole vocabulary, none of it negative, on the device of the model.

        Differentiable in training mode; out of it the stock pooling works in place, and `backward` refuses.
        """
        return Encoded(features_of(self.model, tokens)["sentence_embedding"].float())

    def score(self, queries: Encoded, passages: Encoded, batch: Batch, want: frozenset[str]) -> Signals:
        """The wanted signals of a batch from the encodings of its queries and of its distinct passages.

        Candidates' scores are picked from those of the batch: to gather their vectors would take K vocabularies a query.
        """
        given = {"query_emb": queries.vectors, "passage_emb": passages.vectors}
        if want & {"scores", "inbatch"}:
            given["inbatch"] = (queries.vectors / self.scale) @ passages.vectors.T
            given["scores"] = given["inbatch"].gather(1, batch.candidates)
        return Signals(**{name: given[name] for name in sorted(want)})

    def embed(
        self,
        records: Sequence[Query] | Sequence[Passage],
        side: Side,
        *,
        batch_tokens: int = 4096,
        autocast: Precision = nullcontext,
    ) -> csr_array:
        """The vectors of `records`, in their order, without dropout: float32, a row of the vocabulary's length for each.

        `batch_tokens` bounds the padded tokens of one forward pass, each of which has a logit for every entry of the
        vocabulary (BERT's, at 4096 tokens: 0.5 GB). `autocast` gives the precision to compute in.
        """
        parts, places = [csr_array((0, self.dimension), dtype=np.float32)], [np.empty(0, np.int64)]
        for rows, encoded in in_buckets(self, records, side, batch_tokens=batch_tokens, autocast=autocast):
            parts.append(csr_array(encoded.vectors.cpu().numpy()))
            places.append(rows)
        return csr_array(vstack(parts))[np.argsort(np.concatenate(places))]  # type: ignore[return-value]


def collapse(vectors: csr_array, *, empty: float = 0.5, active: float = 0.25) -> str | None:
    """What has gone wrong with sparse vectors, in a sentence, or None: nearly all of them empty, or hardly any zero left.

    Trouble is more than a share `empty` of texts without a weight, which no search finds (too much regularisation, which
    does not come back: an entry whose logits are all negative gets no gradient), or more than a share `active` of the
    vocabulary in the mean text, slower to search than dense vectors (too little, or a head that is not trained yet). Trained
    SPLADE models hold under 1 % of BERT's vocabulary. No text at all is no trouble.

    >>> collapse(csr_array([[0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.5, 0.0, 0.0, 0.0]]))
    >>> collapse(csr_array([[0.1, 0.2, 0.0, 0.4, 0.3], [0.0, 1.5, 0.0, 0.0, 0.1]]))
    'the mean text has 3 of 5 entries of the vocabulary active (60.0%, at most 25.0% expected): raise the regularisation'
    """
    texts, entries = vectors.shape  # type: ignore[misc]
    if not texts:
        return None
    held = np.asarray(vectors.astype(bool).sum(axis=1))
    without, mean = float((held == 0).mean()), float(held.mean())
    if without > empty:
        return (
            f"{without:.1%} of {texts} texts have no entry of the vocabulary active (at most {empty:.1%} expected): lower "
            "the regularisation or the learning rate, or lengthen the warm-up, and start again from an earlier model"
        )
    if mean > active * entries:
        return (
            f"the mean text has {mean:.0f} of {entries} entries of the vocabulary active "
            f"({mean / entries:.1%}, at most {active:.1%} expected): raise the regularisation"
        )
    return None
