"""A retriever as a Teacher: a stock dense, sparse or late-interaction model scores candidates by its own similarity."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from torch import Tensor

from retort.records import Group
from retort.teachers.loading import StockRetriever, check_positions
from retort.teachers.raw import check_finite
from retort.text import passage_text

NONE = np.empty(0, np.float32)  # of a question without candidates
# how each class is asked for a list with one tensor a text
LISTS: Mapping[type, Mapping[str, bool]] = {
    SentenceTransformer: {"convert_to_numpy": False},
    SparseEncoder: {"convert_to_tensor": False},
    MultiVectorEncoder: {},
}


@dataclass(frozen=True)
class RetrieverTeacher:
    """Scores passages by the similarity that the model was saved with, raw. Each distinct text is encoded once a call.

    A passage is cut to `tokens`, a question to the model's own length. `batch` counts texts of one forward pass. `autocast`
    gives the precision to encode in. ValueError at once: more tokens than the model has positions.
    """

    model: StockRetriever
    passage_format: str = "{title} {text}"
    tokens: int = 256
    batch: int = 64
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __post_init__(self) -> None:
        check_positions(self.model, self.tokens)

    def score(self, groups: Sequence[Group]) -> list[Float32[np.ndarray, "K"]]:
        """The similarity of each passage of each group. ValueError names the pair whose score is not finite."""
        texts = [[passage_text(passage, self.passage_format) for passage in group.passages] for group in groups]
        cut = {"text": {"max_length": self.tokens}}
        queries = self._encoded(self.model.encode_query, [group.query.text for group in groups if group.passages])
        passages = self._encoded(self.model.encode_document, chain.from_iterable(texts), processing_kwargs=cut)
        scores = []
        for group, listed in zip(groups, texts, strict=True):
            found = self._similarity(queries[group.query.text], [passages[text] for text in listed]) if listed else NONE
            check_finite(group, found, "retriever")
            scores.append(found)
        return scores

    def _encoded(self, encode: Callable[..., Any], texts: Iterable[str], **options: object) -> dict[str, Tensor]:
        """What the model makes of each distinct text: a vector, or a matrix of late interaction."""
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        with self.autocast():
            made = encode(distinct, batch_size=self.batch, show_progress_bar=False, **LISTS[type(self.model)], **options)
        return {text: vectors.float() for text, vectors in zip(distinct, made, strict=True)}

    def _similarity(self, query: Tensor, passages: list[Tensor]) -> Float32[np.ndarray, "K"]:
        if isinstance(self.model, MultiVectorEncoder):
            return self.model.similarity([query], passages)[0].float().cpu().numpy()
        vectors = torch.stack([text.to_dense() for text in (query, *passages)])  # sparse ones too: one question's fit
        return self.model.similarity(vectors[:1], vectors[1:])[0].cpu().numpy()
