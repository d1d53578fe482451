"""What a training step passes around: Batch, Tokens, Encoded, Signals, Target; protocols Student, Objective, VectorIndex.

Axes: B batch of queries, K candidates of a query, M distinct passages of the batch, n texts, L tokens, D dimension.
Masks: True = real.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64
from torch import Tensor
from torch.nn.functional import pad

from retort.records import Passage, Query

Side = Literal["query", "passage"]
# Padded tokens that a CPU encodes at once, however many it may: few pads, and what its caches hold. Measured on AVX2: a step
# of MiniLM takes 0.70 of its time at 8,192; T5-base's layers take 1.1 times what their bare products do, 1.4 at 8,192.
CPU_TOKENS = 1024


@dataclass(frozen=True)
class Batch:
    """Queries with K candidates each; every distinct passage stands once in `passages`, `candidates` points to it.

    `mask` is False where a query has fewer than K candidates. `positive` marks candidates that hold an answer or are
    labelled relevant, where that is known. `labels` are the raw scores of the teacher, or of several ([T, B, K]); 0 where
    masked. `undrawn` marks passages of other queries that were labelled for this one too and are not among its candidates:
    no negatives of it. `ranks` are the candidates' ranks in the student's own ranking, from 1, where they are known.
    Derived rows (paraphrases, mixtures) name their `view` and their `parent` row.
    """

    queries: tuple[Query, ...]
    passages: tuple[Passage, ...]
    candidates: Int[Tensor, "B K"]
    mask: Bool[Tensor, "B K"]
    positive: Bool[Tensor, "B K"]
    labels: Float[Tensor, "... B K"] | None = None
    undrawn: Bool[Tensor, "B M"] | None = None
    ranks: Int[Tensor, "B K"] | None = None
    view: tuple[str, ...] = ()
    parent: Int[Tensor, "B"] | None = None
    step: int = 0

    def to(self, device: torch.device) -> "Batch":
        """The same with its tensors on `device`."""
        moved = {name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)}
        return replace(self, **moved)


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts of one side: tensors of one row a text, padded alike, and `notes` that the model wants beside them.

    `used` marks the positions that the model must see; columns that no text uses are cut off by `take`.

    >>> used = torch.tensor([[True, False, False], [True, True, True], [True, True, False]])
    >>> tokens = Tokens("query", {"input_ids": torch.arange(9).reshape(3, 3)}, used)
    >>> [(rows.tolist(), part.tensors["input_ids"].tolist()) for rows, part in tokens.buckets(5)]
    [([1], [[3, 4, 5]]), ([2, 0], [[6, 7], [0, 1]])]
    """

    side: Side
    tensors: Mapping[str, Tensor]
    used: Bool[Tensor, "n L"]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.used)

    @property
    def lengths(self) -> Int64[Tensor, "n"]:
        """How many positions each text uses."""
        return self.used.sum(1)

    def take(self, rows: Int64[Tensor, "m"]) -> "Tokens":
        """Some of the texts, without the padding that only the others needed."""
        used = self.used[rows]
        columns = used.any(0)
        return replace(self, used=used[:, columns], tensors={name: t[rows][:, columns] for name, t in self.tensors.items()})

    def buckets(self, tokens: int) -> list[tuple[Int64[Tensor, "_"], "Tokens"]]:
        """The texts by falling length in parts of at most `tokens` padded tokens, or of one text; each with its rows."""
        order = torch.argsort(self.lengths, descending=True, stable=True)
        lengths = self.lengths[order].tolist()
        parts, start = [], 0
        while start < len(order):
            rows = order[start : start + max(1, tokens // max(1, lengths[start]))]
            parts.append((rows, self.take(rows)))
            start += len(rows)
        return parts

    def fits(self, tokens: int) -> bool:
        """Whether `buckets` leaves all texts in one part."""
        return len(self.used) <= max(1, tokens // max(1, int(self.lengths.max())))

    def to(self, device: torch.device) -> "Tokens":
        """The same on `device`."""
        return replace(self, tensors={name: t.to(device, non_blocking=True) for name, t in self.tensors.items()})


def suited(tokens: int, device: torch.device) -> int:
    """How many padded tokens to encode at once where there may be so many: on a CPU fewer are quicker.

    >>> suited(16_384, torch.device("cpu")), suited(512, torch.device("cpu")), suited(16_384, torch.device("meta"))
    (1024, 512, 16384)
    """
    return min(tokens, CPU_TOKENS) if device.type == "cpu" else tokens


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of n texts: one vector each ([n, D]), or a matrix each ([n, L, D]) with its token mask."""

    vectors: Float[Tensor, "n ..."]
    mask: Bool[Tensor, "n L"] | None = None

    @classmethod
    def joined(cls, parts: Sequence["Encoded"], rows: Sequence[Int64[Tensor, "_"]]) -> "Encoded":
        """The parts as one, text `rows[i][j]` at its own place; differentiable. Matrices are padded to the longest part.

        >>> one, two = Encoded(torch.tensor([[1.0]])), Encoded(torch.tensor([[2.0], [3.0]]))
        >>> Encoded.joined([one, two], [torch.tensor([2]), torch.tensor([0, 1])]).vectors.flatten().tolist()
        [2.0, 3.0, 1.0]
        """
        place = torch.argsort(torch.cat(list(rows)))
        if parts[0].mask is None:
            return cls(torch.cat([part.vectors for part in parts])[place])
        masks = [part.mask for part in parts if part.mask is not None]
        longest = max(mask.shape[1] for mask in masks)
        vectors = [pad(part.vectors, (0, 0, 0, longest - part.vectors.shape[1])) for part in parts]
        return cls(torch.cat(vectors)[place], torch.cat([pad(mask, (0, longest - mask.shape[1])) for mask in masks])[place])


@dataclass(frozen=True)
class TokenVectors:
    """The matrices of n texts one below the other: text i has the rows from starts[i] to starts[i + 1]."""

    vectors: Float[np.ndarray, "tokens D"]
    starts: Int64[np.ndarray, "n_plus_1"]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, text: int) -> Float[np.ndarray, "L D"]:
        return self.vectors[self.starts[text] : self.starts[text + 1]]


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


@runtime_checkable
class Objective(Protocol):
    """What the gap between student and target costs, one value a row, never reduced. Its fields are its settings."""

    @property
    def needs(self) -> frozenset[str]:
        """The names of the student's signals that it reads."""
        ...

    @property
    def reads(self) -> frozenset[str]:
        """The names of the batch's fields that it reads, beside candidates, mask and labels: "positive", "ranks"."""
        ...

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        ...


@dataclass(frozen=True)
class Term:
    """An objective with its coefficient, which grows with the square of the step up to `warmup_steps` (SPLADE)."""

    objective: Objective
    coefficient: float = 1.0
    warmup_steps: int = 0

    def coefficient_at(self, step: int) -> float:
        """The coefficient at a step, counted from 0."""
        grown = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return self.coefficient * grown**2


@runtime_checkable
class Student(Protocol):
    """A retriever in training. Encoding and scoring are apart, so that gradients can be cached between them."""

    @property
    def gives(self) -> frozenset[str]:
        """The names of the signals that it can give."""
        ...

    @property
    def module(self) -> torch.nn.Module:
        """What is trained and checkpointed."""
        ...

    def tokenise(self, records: Sequence[Query] | Sequence[Passage], side: Side) -> Tokens:
        """The records of one side as the encoder reads them: with prefix and title, cut to the side's length."""
        ...

    def encode(self, tokens: Tokens) -> Encoded:
        """Differentiable encodings, on the device of `module`."""
        ...

    def score(self, queries: Encoded, passages: Encoded, batch: Batch, want: frozenset[str]) -> Signals:
        """The wanted signals of a batch from the encodings of its queries and of its distinct passages."""
        ...

    def save(self, folder: Path) -> None:
        """A folder that stock sentence-transformers loads."""
        ...


@runtime_checkable
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


def maxsim(
    queries: Float[Tensor, "*#rows I D"],
    passages: Float[Tensor, "*#rows J D"],
    query_mask: Bool[Tensor, "*#rows I"],
    passage_mask: Bool[Tensor, "*#rows J"],
) -> Float[Tensor, "..."]:
    """The sum over a query's tokens of their largest inner product with a token of the passage (ColBERT, arXiv 2004.12832).

    A masked passage token is never the largest, and a masked query token adds nothing. Leading axes broadcast. A passage
    without a token scores 0.

    >>> query, passage = torch.tensor([[1.0, 0.0]]), torch.tensor([[-0.6, 0.8], [0.0, 0.0]])
    >>> maxsim(query, passage, torch.tensor([True]), torch.tensor([True, False]))  # the padding's 0 does not win
    tensor(-0.6000)
    """
    products = queries @ passages.transpose(-1, -2)
    best = products.masked_fill(~passage_mask[..., None, :], -torch.inf).max(-1).values
    counted = query_mask & passage_mask.any(-1, keepdim=True)
    return torch.where(counted, best, 0.0).sum(-1)
