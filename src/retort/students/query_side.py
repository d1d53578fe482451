"""Training the query side alone: the passage tower and every stored passage vector stay as they are, bit for bit.

The corpus is then never encoded again: scores come from the vectors that the index holds (query-side fine-tuning; Atlas,
arXiv 2208.03299, section 2.4). Here: what of a model is trained, and a dense student that reads stored vectors.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router
from torch import Tensor, nn

from retort.config import StudentModel
from retort.records import Passage, Query
from retort.students.dense import DenseStudent
from retort.students.stock import Precision
from retort.tensors import Batch, Encoded, Side, Signals, Tokens

ROW = "row"  # the one tensor of a stored passage's tokens
# query and value projections, as BERT-like encoders, DistilBERT, Llama-like encoders and T5 call them
ADAPTED = ("query", "value", "q_lin", "v_lin", "q_proj", "v_proj", "q", "v")


class LowRankLinear(nn.Module):
    """x (W + B A)' + b: a change of rank `rank` to a layer that stays as it is; at first none (LoRA, arXiv 2106.09685)."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, inputs: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """The layer's output."""
        return self.linear(inputs) + inputs @ self.down.T @ self.up.T

    def merged(self) -> nn.Linear:
        """The layer with the change in its weight."""
        with torch.no_grad():
            self.linear.weight += self.up @ self.down
        return self.linear


def train_query_side(model: SentenceTransformer, settings: StudentModel) -> None:
    """Leaves only the query side's chosen parameters with a gradient; `model` has a tower for each side.

    full: the whole query tower. linear: a square matrix after it, at first the identity. lora: low-rank changes to the query
    and value projections of its self-attention, merged into the weights when the student is saved. ValueError: an encoder
    without such projections.
    """
    query, document = (cast(nn.Sequential, cast(Router, model[0]).sub_modules[side]) for side in ("query", "document"))
    document.requires_grad_(False)
    if settings.query_side == "full":
        return
    query.requires_grad_(False)
    if settings.query_side == "linear":
        _adapter(query, document, int(model.get_embedding_dimension() or 0)).requires_grad_(True)
        return
    found = [(parent, name) for parent, name, layer in _children(query) if name in ADAPTED and isinstance(layer, nn.Linear)]
    if not found:
        raise ValueError(
            f"student.query_side is 'lora', but {settings.model} has no self-attention with a query and a value projection "
            "as BERT-like encoders have: take 'full' or 'linear'"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parent, name in found:
            setattr(parent, name, LowRankLinear(getattr(parent, name), settings.lora_rank))


@dataclass(frozen=True)
class QuerySideStudent:
    """A dense student of which only the query side is trained: passages are looked up, never encoded.

    `row_of` gives the corpus row of the passages that it will be asked for, `vectors` the stored vectors of rows.
    """

    student: DenseStudent
    vectors: Callable[[Int[np.ndarray, "n"]], Float32[np.ndarray, "n D"]]
    row_of: Mapping[str, int]

    @property
    def settings(self) -> StudentModel:
        """Those of the student."""
        return self.student.settings

    @property
    def gives(self) -> frozenset[str]:
        """The names of the signals that it can give."""
        return self.student.gives

    @property
    def module(self) -> nn.Module:
        """What is trained and checkpointed."""
        return self.student.module

    def tokenise(self, records: Sequence[Query] | Sequence[Passage], side: Side) -> Tokens:
        """Queries as the student reads them; of passages their corpus rows."""
        if side == "query":
            return self.student.tokenise(records, side)
        rows = torch.tensor([[self.row_of[record.id]] for record in records])
        return Tokens(side, {ROW: rows}, torch.ones_like(rows, dtype=torch.bool))

    def encode(self, tokens: Tokens) -> Encoded:
        """Vectors: differentiable ones of queries, stored ones of passages."""
        if tokens.side == "query":
            return self.student.encode(tokens)
        rows = tokens.tensors[ROW][:, 0].cpu().numpy()
        return Encoded(torch.from_numpy(self.vectors(rows)).to(self.student.model.device))

    def score(self, queries: Encoded, passages: Encoded, batch: Batch, want: frozenset[str]) -> Signals:
        """The wanted signals, as the student makes them of vectors."""
        return self.student.score(queries, passages, batch, want)

    def embed(
        self,
        records: Sequence[Query] | Sequence[Passage],
        side: Side,
        *,
        batch_tokens: int = 16_384,
        autocast: Precision = nullcontext,
    ) -> Float32[np.ndarray, "n D"]:
        """Vectors of queries as the student gives them; of passages the stored ones."""
        if side == "query":
            return self.student.embed(records, side, batch_tokens=batch_tokens, autocast=autocast)
        return self.vectors(np.array([self.row_of[record.id] for record in records], np.int64))

    def save(self, folder: Path) -> None:
        """A folder that stock sentence-transformers loads, with low-rank changes merged into the weights."""
        DenseStudent(_merged(self.student.model), self.settings).save(folder)


def _adapter(query: nn.Sequential, document: nn.Sequential, width: int) -> Dense:
    """The matrix behind the query tower: that of a saved student, or a new one, before vectors are normalised."""
    if len(query) > len(document):
        return next(module for module in reversed(list(query)) if isinstance(module, Dense))
    adapter = Dense(width, width, bias=False, activation_function=None, init_weight=torch.eye(width))
    query.insert(len(query) - isinstance(query[-1], Normalize), adapter)
    return adapter


def _merged(model: SentenceTransformer) -> SentenceTransformer:
    """The model with its low-rank changes in the weights themselves; the model itself where it has none."""
    if not any(isinstance(module, LowRankLinear) for module in model.modules()):
        return model
    whole = copy.deepcopy(model)
    for parent, name, layer in _children(whole):
        if isinstance(layer, LowRankLinear):
            setattr(parent, name, layer.merged())
    return whole


def _children(module: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Every module inside `module` with its parent and its name there."""
    return [(parent, name, child) for parent in module.modules() for name, child in parent.named_children()]
