"""What a probe finds of each round's models: how fast they work, what they hold, and how much of it at once.

Plain values; how they are found is in probing.py, what they come to for a whole run in estimates.py.
"""

from dataclasses import dataclass

import torch
from torch import nn

from retort.asking import Wording
from retort.config import Config, Distil, TeacherSettings
from retort.tensors import suited

FREE = ("bm25", "answers", "run")  # teachers that no model is run for


@dataclass(frozen=True)
class Tried:
    """A kind of work: items a second, and bytes of memory that each item in hand takes beside weights and gradients."""

    per_second: float
    bytes_each: float = 0.0

    def seconds(self, items: float | int) -> float:
        """What so many items take; nothing of work that was not tried.

        >>> Tried(4.0).seconds(10)
        2.5
        """
        return items / self.per_second if self.per_second else 0.0


@dataclass(frozen=True)
class Weights:
    """Bytes of a model, and of what of it is trained."""

    held: int
    trained: int

    @classmethod
    def of(cls, model: nn.Module) -> "Weights":
        """Those of a model in memory, each tensor once."""
        parameters = list(model.parameters())
        held = sum(tensor.nbytes for tensor in (*parameters, *model.buffers()))
        return cls(held, sum(tensor.nbytes for tensor in parameters if tensor.requires_grad))


@dataclass(frozen=True)
class StudentTried:
    """A student. `vectors` are those of a passage: 1, of late interaction one a token, of sparse students the nonzeros."""

    weights: Weights
    encoded: Tried  # passages
    distilled: Tried  # of a training step: candidate passages, or questions where the query side alone is trained
    query_tokens: float
    passage_tokens: float
    vector_bytes: float  # of an encoded passage, on disk
    vectors: float
    dimension: int


@dataclass(frozen=True)
class ReaderTried:
    """A reader, and the tokens of a passage string as it sees one."""

    weights: Weights
    read: Tried  # passages that it is trained on
    labelled: Tried  # passages, all its signals together
    string_tokens: float


@dataclass(frozen=True)
class TeacherTried:
    """A teacher that the run does not train: passages a second, bytes of its model and a batch; how a server is asked."""

    per_second: float = 0.0
    held: float = 0.0
    words: Wording | None = None


@dataclass(frozen=True)
class Speeds:
    """What was found of a round's student, its reader if it has one, its `working` teachers in order, and the machine."""

    student: StudentTried
    reader: ReaderTried | None
    teachers: tuple[TeacherTried, ...]
    indexed: float  # passages a second, by BM25
    posting_bytes: float  # of a passage in BM25's index
    searched: float  # multiply-adds a second of a search through dense vectors
    process_bytes: float  # held without any model, where models are held: by the process, or on the GPU
    device: str  # "cpu" or "cuda"


def working(config: Config) -> list[TeacherSettings]:
    """The teachers of a round that run a model or ask one, beside its reader."""
    return [teacher for teacher in config.label.teachers if teacher.kind not in (*FREE, "fid")]


def in_hand(texts: int, tokens: float, most: int, device: str) -> float | int:
    """How many of `texts` of so many tokens are encoded at once where `most` padded tokens may be; 1 at least.

    >>> in_hand(64, 100.0, 16_384, "cpu"), in_hand(1000, 128.0, 16_384, "cuda")
    (10.24, 128.0)
    """
    return min(texts, max(1.0, suited(most, torch.device(device)) / tokens))


def in_step(texts: int, tokens: float, distil: Distil, device: str) -> float | int:
    """Of how many texts a training step holds the activations: of a chunk's where gradient caching sets in, else of all."""
    cached = distil.gradient_caching and texts * tokens > distil.chunk_tokens
    return in_hand(texts, tokens, distil.chunk_tokens, device) if cached else texts
