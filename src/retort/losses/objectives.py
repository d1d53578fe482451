"""Every loss as an objective: a frozen dataclass whose fields are its settings, called on what the loop passes around.

Temperatures divide the scores of their side before the loss; no loss is multiplied by a squared temperature afterwards. The
losses themselves are pure functions in listwise.py, pairwise.py, ranking.py, inbatch.py and regularisers.py. `needs` names
the signals that an objective takes from the student, `reads` what it takes from the batch beside the candidates and mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

import retort.losses.listwise as listwise
from retort.losses.inbatch import candidate_mass, info_nce
from retort.losses.pairwise import margin_mse, margin_mse_all, max_margin, ranknet
from retort.losses.ranking import Scheme, approx_ndcg, cl_drd, drd_labels, lambda_loss
from retort.losses.regularisers import flops, l1
from retort.tensors import Batch, Side, Signals, Target

SCORES, INBATCH = frozenset({"scores"}), frozenset({"inbatch"})
NOTHING, POSITIVES = frozenset[str](), frozenset({"positive"})


@dataclass(frozen=True)
class Tempered:
    """What most objectives share: the scores of both sides, each divided by its own temperature."""

    student_temperature: float = 1.0
    teacher_temperature: float = 1.0
    needs = SCORES
    reads = NOTHING

    def _sides(self, signals: Signals, target: Target) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        assert signals.scores is not None
        return signals.scores / self.student_temperature, target.scores / self.teacher_temperature


@dataclass(frozen=True)
class Plain(Tempered):
    """A loss of the two sides and the mask, and of nothing else."""

    loss: ClassVar[Callable[..., Tensor]]

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        return self.loss(*self._sides(signals, target), batch.mask)


class KL(Plain):
    """`listwise.kl` (FiD-KD: both temperatures 1)."""

    loss = staticmethod(listwise.kl)


class EMDR2(Plain):
    """`listwise.marginal_likelihood`; its labels are log-likelihoods of answers: the reader's signal emdr2."""

    loss = staticmethod(listwise.marginal_likelihood)


class ReverseKL(Plain):
    """`listwise.reverse_kl`."""

    loss = staticmethod(listwise.reverse_kl)


class JensenShannon(Plain):
    """`listwise.jensen_shannon`."""

    loss = staticmethod(listwise.jensen_shannon)


@dataclass(frozen=True)
class CKL(Tempered):
    """`listwise.ckl` (the authors' runs: gamma 5; alpha 1.0 for SPLADE, 1.5 for ColBERT). alpha needs `batch.ranks`."""

    gamma: float = 5.0
    alpha: float = 0.0
    detach_weights: bool = False
    bias_positives: bool = False

    def __post_init__(self) -> None:
        if self.alpha > self.gamma:
            raise ValueError(f"ckl: alpha is {self.alpha}, above gamma {self.gamma}: weights may then grow without bound")

    @property
    def reads(self) -> frozenset[str]:
        """The names of the batch's fields that it reads."""
        return POSITIVES | {"ranks"} if self.alpha else POSITIVES

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        return listwise.ckl(
            *self._sides(signals, target), batch.positive, batch.mask,
            gamma=self.gamma, alpha=self.alpha, ranks=batch.ranks if self.alpha else None,
            detach_weights=self.detach_weights, bias_positives=self.bias_positives,
        )  # fmt: skip


@dataclass(frozen=True)
class BKL(Tempered):
    """`listwise.bkl` (the authors' runs: lam 0.02 for ColBERT, 0.01 for SPLADE)."""

    reads = POSITIVES
    lam: float = 0.02

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        return listwise.bkl(*self._sides(signals, target), batch.positive, batch.mask, lam=self.lam)


@dataclass(frozen=True)
class CrossEntropy(Tempered):
    """`listwise.cross_entropy` with the teacher's probabilities, or with the positives as hard labels."""

    labels: Literal["soft", "hard"] = "soft"

    @property
    def reads(self) -> frozenset[str]:
        """The names of the batch's fields that it reads."""
        return POSITIVES if self.labels == "hard" else NOTHING

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        student, teacher = self._sides(signals, target)
        deserved = batch.positive.to(student.dtype) if self.labels == "hard" else listwise.shares(teacher, batch.mask)
        return listwise.cross_entropy(student, deserved, batch.mask)


class ListMLE(Plain):
    """`listwise.list_mle` of the teacher's order."""

    loss = staticmethod(listwise.list_mle)


@dataclass(frozen=True)
class LambdaLoss(Tempered):
    """`ranking.lambda_loss`; the gains are the teacher's probabilities, since raw scores have no zero."""

    scheme: Scheme = "ndcg_loss2pp"
    mu: float = 10.0

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        student, teacher = self._sides(signals, target)
        gains = listwise.shares(teacher, batch.mask)
        return lambda_loss(student, gains, batch.mask, scheme=self.scheme, mu=self.mu)


@dataclass(frozen=True)
class ApproxNDCG(Tempered):
    """`ranking.approx_ndcg`; the gains are the teacher's probabilities, the student's temperature smooths the ranks."""

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        student, teacher = self._sides(signals, target)
        return approx_ndcg(student, listwise.shares(teacher, batch.mask), batch.mask)


@dataclass(frozen=True)
class CLDRD(Tempered):
    """`ranking.cl_drd` of `ranking.drd_labels`: a curriculum in which more and more of the teacher's order counts.

    The head grows through `heads`, one entry for every `stage_steps` steps; CL-DRD's last stage, 10 of 20, is the default.
    """

    reads = POSITIVES
    heads: tuple[int, ...] = (10,)
    tail: int = 20
    stage_steps: int = 1

    def __post_init__(self) -> None:
        if list(self.heads) != sorted(self.heads) or not self.heads or self.heads[-1] > self.tail:
            raise ValueError(f"cl_drd: heads are {self.heads} and tail {self.tail}: expected heads that grow up to the tail")

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        student, teacher = self._sides(signals, target)
        head = self.heads[min(batch.step // self.stage_steps, len(self.heads) - 1)]
        labels = drd_labels(teacher, batch.positive, batch.mask, head=head, tail=self.tail)
        return cl_drd(student, labels, batch.mask)


class RankNet(Plain):
    """`pairwise.ranknet` of the teacher's order."""

    loss = staticmethod(ranknet)


@dataclass(frozen=True)
class MarginMSE(Tempered):
    """`pairwise.margin_mse` of positives against negatives, or of all pairs."""

    pairs: Literal["positive", "all"] = "positive"

    @property
    def reads(self) -> frozenset[str]:
        """The names of the batch's fields that it reads."""
        return POSITIVES if self.pairs == "positive" else NOTHING

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        student, teacher = self._sides(signals, target)
        if self.pairs == "all":
            return margin_mse_all(student, teacher, batch.mask)
        return margin_mse(student, teacher, batch.positive, batch.mask)


class MSE(Plain):
    """`listwise.mse` of the scores (FiD-KD: both temperatures 1)."""

    loss = staticmethod(listwise.mse)


@dataclass(frozen=True)
class MaxMargin:
    """`pairwise.max_margin` of the raw scores (FiD-KD)."""

    margin: float = 0.0
    needs = SCORES
    reads = NOTHING

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        assert signals.scores is not None
        return max_margin(signals.scores, target.scores, batch.mask, margin=self.margin)


@dataclass(frozen=True)
class OverBatch:
    """What objectives over a whole batch share: the student's scores of all its passages, divided by a temperature."""

    student_temperature: float = 1.0
    needs = INBATCH
    reads = NOTHING

    def _scores(self, signals: Signals) -> Float[Tensor, "B M"]:
        assert signals.inbatch is not None
        return signals.inbatch / self.student_temperature


class CandidateMass(OverBatch):
    """`inbatch.candidate_mass`; reads neither the teacher nor the positives."""

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        return candidate_mass(self._scores(signals), batch.candidates, batch.mask, batch.undrawn)


class InfoNCE(OverBatch):
    """`inbatch.info_nce`; reads the positives, not the teacher."""

    reads = POSITIVES

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row."""
        return info_nce(self._scores(signals), batch.candidates, batch.positive, batch.mask, batch.undrawn)


@dataclass(frozen=True)
class Regulariser:
    """What regularisers of sparse vectors share: the mean over the texts of one side, which every row of the batch bears."""

    side: Side = "passage"
    reads = NOTHING

    @property
    def needs(self) -> frozenset[str]:
        """The names of the student's signals that it reads."""
        return frozenset({f"{self.side}_emb"})

    def _vectors(self, signals: Signals) -> Float[Tensor, "n V"]:
        vectors = signals.query_emb if self.side == "query" else signals.passage_emb
        assert vectors is not None
        return vectors


@dataclass(frozen=True)
class Flops(Regulariser):
    """`regularisers.flops` of the queries or of the batch's distinct passages."""

    threshold: int | None = None

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row, the same for all."""
        return flops(self._vectors(signals), threshold=self.threshold).mean().expand(len(target.weight))


@dataclass(frozen=True)
class L1(Regulariser):
    """`regularisers.l1` of the queries or of the batch's distinct passages."""

    def __call__(self, signals: Signals, target: Target, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row, the same for all."""
        return l1(self._vectors(signals)).mean().expand(len(target.weight))
