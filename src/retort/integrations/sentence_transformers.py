"""Retort's objectives as the loss of sentence-transformers' own trainers: dense, sparse and multi-vector.

`ObjectiveLoss` is what `SentenceTransformerTrainer`, `SparseEncoderTrainer` and `MultiVectorEncoderTrainer` take as `loss`,
on data with the columns (query, passage_1, ..., passage_N, label). Not here: Retort's own training loop (distil/), which
finds the candidates, ranks them anew and bounds memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.losses.merged_forward import embed_columns, embed_columns_padded
from sentence_transformers.util import SimilarityFunction
from torch import Tensor

from retort.tensors import Batch, Encoded, Objective, Signals, Target, Term

LabelPart = Literal["scores", "positive", "ranks"]
ALONE = "objective"  # the name of a term that was given without one
LATE = ("maxsim", "meanmaxsim")  # similarities of matrices, which take the masks of their tokens


class ObjectiveLoss(torch.nn.Module):
    """What a trainer of sentence-transformers calls as its loss: the mean over queries of an objective, or of several.

    `objective` is one, or the terms by name that `retort.losses.build` gives; then the trainer logs and sums the parts.
    Scores are the model's own similarity (`similarity_fn_name`) times `scale`; a dense model's default is the cosine, whose
    softmax is nearly flat without a scale such as 20, or a `student_temperature` of 0.05.

    A row's label lists what `labels` names, N numbers of each: the teacher's raw scores; "positive", 1 or 0 each; "ranks",
    in the student's own ranking from 1, which `CKL(alpha=...)` reads and which stay as they are while the student moves.
    Without "positive" the first `positives` passages are the positives. In-batch scores run over all passages of the batch
    on this process, so use `batch_sampler="no_duplicates"` where texts recur. `step` counts the batches trained on, for
    terms that change with it; a run that is resumed sets it.

    ValueError: a signal that the model does not give, ranks or positives that the labels do not hold; at the first batch,
    labels of another width, scores that are not finite, ranks below 1, no positive, or nothing but positives.

    >>> from sentence_transformers.sentence_transformer.modules import BoW
    >>> from retort.losses.objectives import KL
    >>> words = BoW(["sea", "snow"])
    >>> loss = ObjectiveLoss(SentenceTransformer(modules=[words], similarity_fn_name="dot", device="cpu"), KL())
    >>> texts = ["sea", "sea snow", "snow"]  # a query and its two passages, with scores 1 and 0
    >>> loss([words.preprocess([text]) for text in texts], torch.tensor([[2.0, 1.0]]))
    tensor(0.)
    """

    def __init__(
        self,
        model: SentenceTransformer | SparseEncoder | MultiVectorEncoder,
        objective: Objective | Mapping[str, Term],
        *,
        scale: float = 1.0,
        positives: int = 1,
        labels: Sequence[LabelPart] = ("scores",),
    ) -> None:
        super().__init__()
        similarity = model.similarity_fn_name
        self.model = model
        self.terms = objective if isinstance(objective, Mapping) else {ALONE: Term(objective)}
        self.scale, self.positives, self.labels = scale, positives, tuple(labels)
        self.step = 0
        self._late = similarity in LATE
        self._all_pairs = SimilarityFunction.to_similarity_fn(similarity)
        self._own_pairs = SimilarityFunction.to_similarity_pairwise_fn(similarity)
        self._looked = False
        self._check_settings()

    @property
    def gives(self) -> frozenset[str]:
        """The names of the signals that the model can give."""
        return frozenset({"scores", "inbatch"} if self._late else {"scores", "inbatch", "query_emb", "passage_emb"})

    @property
    def needs(self) -> frozenset[str]:
        """The names of the signals that the objectives read."""
        return frozenset().union(*(term.objective.needs for term in self.terms.values()))

    @property
    def reads(self) -> frozenset[str]:
        """The names of the batch's fields that the objectives read."""
        return frozenset().union(*(term.objective.reads for term in self.terms.values()))

    def forward(self, sentence_features: Iterable[Mapping[str, Any]], labels: Tensor | None) -> Tensor | dict[str, Tensor]:
        """The loss of a batch; of several objectives each one's part, by its name."""
        features = [dict(column) for column in sentence_features]
        if not self._late:
            return self.compute_loss_from_embeddings(embed_columns(self.model, features), labels)
        given = self.model(features[0], task=features[0].get("task", "query"))
        queries = Encoded(given["token_embeddings"], given["attention_mask"].bool())
        passages = zip(*embed_columns_padded(self.model, features[1:], task_default="document"), strict=True)
        return self._loss(queries, [Encoded(*column) for column in passages], labels)

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Float[Tensor, "B D"]], labels: Tensor | None
    ) -> Tensor | dict[str, Tensor]:
        """The same from the vectors of each column: what `SpladeLoss` and its like call, to add their penalties."""
        queries, *passages = (Encoded(vectors) for vectors in embeddings)
        return self._loss(queries, passages, labels)

    def get_config_dict(self) -> dict[str, Any]:
        """The settings, as a model card shows them."""
        terms = {name: str(term) for name, term in self.terms.items()}
        return {"terms": terms, "scale": self.scale, "positives": self.positives, "labels": list(self.labels)}

    def _loss(self, queries: Encoded, passages: list[Encoded], labels: Tensor | None) -> Tensor | dict[str, Tensor]:
        batch = self._batch(len(queries.vectors), len(passages), labels)
        signals = self._signals(queries, passages)
        assert batch.labels is not None
        ones = torch.ones_like(batch.labels[:, 0])
        target = Target(batch.labels, weight=ones, valid=ones.bool())
        parts = {
            name: term.coefficient_at(self.step) * term.objective(signals, target, batch).mean()
            for name, term in self.terms.items()
        }
        self.step += torch.is_grad_enabled()  # an evaluation is no step
        return parts.get(ALONE, parts)

    def _signals(self, queries: Encoded, passages: list[Encoded]) -> Signals:
        """What the objectives read; passage k of query b stands at b N + k of all passages."""
        count = len(passages)
        rows = [torch.arange(k, len(queries.vectors) * count, count) for k in range(count)]
        made = {
            "scores": lambda: self.scale * torch.stack([_scored(self._own_pairs, queries, p) for p in passages], 1),
            "inbatch": lambda: self.scale * _scored(self._all_pairs, queries, Encoded.joined(passages, rows)),
            "query_emb": lambda: queries.vectors,
            "passage_emb": lambda: Encoded.joined(passages, rows).vectors,
        }
        return Signals(**{name: made[name]() for name in sorted(self.needs)})

    def _batch(self, rows: int, count: int, labels: Tensor | None) -> Batch:
        """The candidates of `rows` queries with `count` passages each, and what their labels say of them."""
        if labels is None or labels.shape != (rows, count * len(self.labels)):
            found = "no label column" if labels is None else f"labels of shape {tuple(labels.shape)}"
            raise ValueError(
                f"found {found} with {count} passages a query, expected ({rows}, {count * len(self.labels)}): all passages' "
                f"{', then their '.join(self.labels)}; write the column `label` so, or say what it holds in `labels`"
            )
        parts = dict(zip(self.labels, labels.detach().float().chunk(len(self.labels), dim=1), strict=True))
        numbers = torch.arange(rows * count, device=labels.device).reshape(rows, count)
        marks = parts.get("positive", (numbers % count < self.positives).float())
        if not parts["scores"].isfinite().all():
            raise ValueError("found teacher scores that are not finite: drop those rows, or give every passage a score")
        if not self._looked:
            self._check_labels(parts, marks)
        return Batch(
            queries=(), passages=(), candidates=numbers, mask=torch.ones_like(numbers, dtype=torch.bool),
            positive=marks.bool(), labels=parts["scores"], step=self.step,
            ranks=parts["ranks"].long() if "ranks" in parts else None,
        )  # fmt: skip

    def _check_settings(self) -> None:
        if missing := sorted(self.needs - self.gives):
            raise ValueError(
                f"the objective reads {missing[0]!r}, but this model gives {', '.join(sorted(self.gives))}: choose another "
                "objective, or train with Retort's own loop"
            )
        known = get_args(LabelPart)
        if "scores" not in self.labels or not set(self.labels) <= set(known) or len(set(self.labels)) < len(self.labels):
            raise ValueError(
                f"labels are {self.labels}, expected 'scores' and other names, once each, of {', '.join(known)}"
            )
        if missing := sorted(self.reads - {*self.labels, "positive"}):
            raise ValueError(
                f"the objective reads {missing[0]!r}, but the labels hold {', '.join(self.labels)}: append N {missing[0]} "
                f"to each label and set labels=(..., {missing[0]!r}), or choose settings without (ckl: alpha=0)"
            )
        if not self.scale > 0 or self.positives < 1:
            raise ValueError(f"scale is {self.scale} and positives {self.positives}: expected more than 0, and at least 1")

    def _check_labels(self, parts: Mapping[LabelPart, Float[Tensor, "B N"]], marks: Float[Tensor, "B N"]) -> None:
        """ValueError where labels cannot be what they are said to be; asked of one batch, since it waits for the device."""
        count = marks.shape[1]
        if count < 2 and "scores" in self.needs:
            raise ValueError("found 1 passage a query, expected at least 2: one alone has nothing to be ranked against")
        if not torch.isin(marks, torch.tensor([0.0, 1.0], device=marks.device)).all():
            raise ValueError("found 'positive' values other than 0 and 1: expected 1 for a positive, else 0")
        if "ranks" in parts and (parts["ranks"] < 1).any():
            raise ValueError(f"found rank {parts['ranks'].min():g}, expected ranks from 1: add 1 where they count from 0")
        if "positive" in self.reads and (not marks.any() or marks.all()):
            raise ValueError(
                f"found {'nothing but positives' if marks.all() else 'no positive'} among {count} passages a query, "
                "expected some of both: set `positives`, or mark them in the label and add 'positive' to `labels`"
            )
        self._looked = True


def _scored(similarity: Any, queries: Encoded, passages: Encoded) -> Float[Tensor, "B ..."]:  # noqa: ANN401 (the library's)
    """The similarity of queries and passages, with the masks of their tokens where they have some."""
    masks = {} if queries.mask is None else {"a_mask": queries.mask, "b_mask": passages.mask}
    return similarity(queries.vectors, passages.vectors, **masks)
