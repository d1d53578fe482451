"""What a training step passes around: Batch, Encoded, Signals, Target, and the protocols Student, Objective, VectorIndex.

Axes: B batch of queries, K candidates of a query, M distinct passages of the batch, D dimension. Masks: True = real.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32
from torch import Tensor

from retort.records import Passage, Query

Side = Literal["query", "passage"]


@dataclass(frozen=True)
class Batch:
    """Queries with K candidates each; every distinct passage stands once in `passages`, `candidates` points to it.

    `mask` is False where a query has fewer than K candidates. `positive` marks candidates that hold an answer or are
    labelled relevant, where that is known. Derived rows (paraphrases, mixtures) name their `view` and their `parent` row.
    """

    queries: tuple[Query, ...]
    passages: tuple[Passage, ...]
    candidates: Int[Tensor, "B K"]
    mask: Bool[Tensor, "B K"]
    positive: Bool[Tensor, "B K"]
    view: tuple[str, ...] = ()
    parent: Int[Tensor, "B"] | None = None


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of n texts: one vector each ([n, D]), or a matrix each ([n, L, D]) with its token mask."""

    vectors: Float[Tensor, "n ..."]
    mask: Bool[Tensor, "n L"] | None = None


@dataclass(frozen=True)
class Signals:
    """What a scorer gives for a batch, by name; None where it was not asked for or cannot be given."""

    scores: Float[Tensor, "B K"] | None = None
    inbatch: Float[Tensor, "B M"] | None = None
    query_emb: Float[Tensor, "B D"] | None = None
    passage_emb: Float[Tensor, "M D"] | None = None
    steps: Float[Tensor, "B L C"] | None = None
    hidden: Float[Tensor, "B ..."] | None = None


@dataclass(frozen=True)
class Target:
    """The teacher's side of `Signals`, with the weight of each row and whether it is worth training on."""

    scores: Float[Tensor, "B K"]
    weight: Float[Tensor, "B"]
    valid: Bool[Tensor, "B"]
    inbatch: Float[Tensor, "B M"] | None = None
    query_emb: Float[Tensor, "B D"] | None = None
    passage_emb: Float[Tensor, "M D"] | None = None
    steps: Float[Tensor, "B L C"] | None = None
    hidden: Float[Tensor, "B ..."] | None = None


class Objective(Protocol):
    """What the gap between student and target costs, one value a row, never reduced. Its fields are its settings."""

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """The names of the signals that it reads."""
        ...


class Student(Protocol):
    """A retriever in training. Encoding and scoring are apart, so that gradients can be cached between them."""

    @property
    def gives(self) -> frozenset[str]:
        """The names of the signals that it can give."""
        ...

    def encode(self, texts: Sequence[Query] | Sequence[Passage], side: Side) -> Encoded:
        """Differentiable encodings of a few texts of one side."""
        ...

    def score(self, queries: Encoded, passages: Encoded, batch: Batch, want: frozenset[str]) -> Signals:
        """The wanted signals of a batch from the encodings of its queries and of its distinct passages."""
        ...

    def save(self, folder: Path) -> None:
        """A folder that stock sentence-transformers loads."""
        ...


class VectorIndex(Protocol):
    """Finds the nearest rows of the corpus for encoded queries."""

    def search(
        self, queries: Float32[np.ndarray, "Q D"], k: int
    ) -> tuple[list[Float32[np.ndarray, "n"]], list[Int32[np.ndarray, "n"]]]:
        """Scores and rows for each query, best first; fewer than k where the index has fewer."""
        ...


def pair_scores(
    queries: Float[Tensor, "B D"], passages: Float[Tensor, "M D"], candidates: Int[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """The inner product of each query with each of its candidates.

    >>> q, p = torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> pair_scores(q, p, torch.tensor([[0, 1], [1, 0]])).tolist()
    [[1.0, 3.0], [4.0, 2.0]]
    """
    return torch.einsum("bd,bkd->bk", queries, passages[candidates])
