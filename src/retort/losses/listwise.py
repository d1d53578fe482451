"""Listwise losses: the gap between two scorings of one candidate list, as pure functions.

Axes: B queries, K candidates. Every function returns one sum a row, never reduced over rows: averaging over queries is the
loop's work, so that the learning rate does not depend on K (FiD's code divides by B K instead; methods 5.1 A7). Masks are
True where a candidate is real. Values are computed in float32 at least, also inside autocast. Not here: losses over pairs
of candidates (pairwise.py).
"""

import math

import torch
from jaxtyping import Bool, Float, Float64, Num
from torch import Tensor
from torch.nn.functional import log_softmax


def kl(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """KL(softmax(teacher) || softmax(student)) of each row: sum_p Gt_p (log Gt_p - log St_p). FiD-KD, arXiv 2012.04584.

    0 where the two agree up to a constant, and in a row of fewer than 2 real candidates. The gradient with respect to the
    student's scores is St - Gt; that of a masked candidate is exactly 0.

    >>> kl(torch.tensor([[0.2, 0.1, 0.4, -0.3]]), torch.tensor([[1.0, 2.0, 0.5, -1.0]]))
    tensor([0.3517])
    """
    log_student, log_teacher = _log_softmax(student, mask), _log_softmax(teacher, mask)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1)


def reverse_kl(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """KL(softmax(student) || softmax(teacher)) of each row: it forgives a student that covers a part of the teacher's mass.

    At least 0; 0 where the two agree up to a constant, and in a row of fewer than 2 real candidates.

    >>> reverse_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
    tensor([0.4338])
    """
    return kl(teacher, student, mask)


def jensen_shannon(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """The mean KL of both sides to their mixture (Lin 1991, equal weights), in nats: symmetric, 0 to ln 2.

    >>> jensen_shannon(torch.tensor([[30.0, 0.0]]), torch.tensor([[0.0, 30.0]]))
    tensor([0.6931])
    """
    log_student, log_teacher = _log_softmax(student, mask), _log_softmax(teacher, mask)
    log_mixture = torch.logaddexp(log_student, log_teacher) - math.log(2.0)
    both = log_student.exp() * (log_student - log_mixture) + log_teacher.exp() * (log_teacher - log_mixture)
    return both.sum(-1) / 2


def marginal_likelihood(
    student: Float[Tensor, "B K"], log_likelihoods: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """-log sum_k softmax(student)_k exp(log_likelihoods_k): the answer's likelihood, the passage being a latent variable.

    EMDR2 on the sequence level (Singh et al. 2021, arXiv 2106.05346; Atlas, arXiv 2208.03299): `log_likelihoods` is the sum
    of the log-probabilities of the answer's tokens given the question and passage k alone. Its gradient is that of the KL
    from the posterior, softmax(log S' + log_likelihoods), held fixed. Never below 0, as no reader's likelihood exceeds 1.
    0 in a row without a real candidate.

    >>> marginal_likelihood(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.25, 0.16]]).log())
    tensor([1.5847])
    """
    joint = _log_softmax(student, mask) + wide(log_likelihoods)
    if mask is None:
        return -joint.logsumexp(-1)
    return torch.where(mask.any(-1), -hidden(joint, mask).logsumexp(-1), 0.0)


def cross_entropy(
    student: Float[Tensor, "B K"], shares: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """-sum_p y_p log softmax(student)_p of each row (ListNet's top-one loss, Cao et al. 2007).

    `shares` say what each candidate deserves: a teacher's probabilities, or 1 at the positives. They are divided by their
    sum over the real candidates; a row in which that is 0 costs 0. Shares must not be negative.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.6931])
    """
    shares = wide(shares) if mask is None else wide(shares).masked_fill(~mask, 0.0)
    total = shares.sum(-1, keepdim=True)
    shares = torch.where(total > 0, shares / total.clamp(min=torch.finfo(shares.dtype).tiny), 0.0)
    return -(shares * _log_softmax(student, mask)).sum(-1)


def list_mle(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """-log of the Plackett-Luce probability that the student gives to the teacher's order (ListMLE, Xia et al. 2008).

    Teacher ties stand in the order of the list. 0 in a row of fewer than 2 real candidates.

    >>> list_mle(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[3.0, 2.0, 1.0]]))  # log 3!
    tensor([1.7918])
    """
    real = real_candidates(student, mask)
    order = hidden(teacher, real).argsort(dim=-1, descending=True, stable=True)
    scores, real = hidden(student, real).gather(-1, order), real.gather(-1, order)
    remaining = scores.flip(-1).logcumsumexp(-1).flip(-1)  # of each place: all that are not ranked before it
    return torch.where(real, remaining - scores, 0.0).sum(-1)


def mse(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B"]:
    """The summed squared difference of raw scores of each row: sum_p (S_p - G_p)^2. FiD-KD, arXiv 2012.04584, section 3.

    Both scores must live on one scale. A masked candidate adds nothing and gets no gradient.

    >>> mse(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 1.0]]))
    tensor([5.])
    """
    gap = wide(student) - wide(teacher)
    return (gap if mask is None else gap.masked_fill(~mask, 0.0)).square().sum(-1)


def ckl(
    student: Float[Tensor, "B K"],
    teacher: Float[Tensor, "B K"],
    positive: Bool[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    gamma: float,
    alpha: float = 0.0,
    ranks: Num[Tensor, "B K"] | None = None,
    detach_weights: bool = False,
    bias_positives: bool = False,
) -> Float[Tensor, "B"]:
    """KL whose terms are weighted by how far the student still is from separating positives and negatives.

    With p, q the softmax of teacher and student: sum over positives of (1 - q)^gamma p ln(p/q), plus sum over negatives of
    q^(gamma - beta) p ln(p/q), beta = alpha (1/rank - 1/rank of the first positive) (Yang et al., arXiv 2406.05977). `ranks`
    are the candidates' ranks in the student's ranking, from 1; without them, and in rows without a positive, beta is 0.
    `bias_positives` subtracts beta from the positives' exponent too, as the authors' code does where there are several.

    Gradients pass through the weights unless `detach_weights`. gamma = alpha = 0 is `kl`. Not a divergence: with more than
    two candidates it can be negative, its gradient does not vanish where q = p, and over free logits it has minima in
    which a negative leads (docs/losses.md). ValueError: alpha above gamma, or without ranks.

    >>> p, q = torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[0.5, 0.3, 0.2]])
    >>> ckl(q.log(), p.log(), torch.tensor([[True, False, False]]), gamma=2.0)
    tensor([0.0246])
    """
    if alpha > gamma:
        raise ValueError(
            f"alpha is {alpha} and gamma {gamma}: expected alpha of at most gamma, or weights may grow without bound"
        )
    if alpha and ranks is None:
        raise ValueError(f"alpha is {alpha}, but no ranks were given: give the student's ranks, or set alpha to 0")
    real = real_candidates(student, mask)
    log_student, log_teacher = _log_softmax(student, mask), _log_softmax(teacher, mask)
    bias = 0.0 if ranks is None else alpha * rank_bias(ranks, positive & real).to(log_student.dtype)
    # exponents of 1 - q and q; where a candidate is not real its log-probability is about -3e38, so 0 stands in for it
    missed = (gamma - bias if bias_positives else gamma) * _log_others(student, real)
    kept = (gamma - bias) * log_student.masked_fill(~real, 0.0)
    weight = torch.where(positive, missed, kept).exp()
    if detach_weights:
        weight = weight.detach()
    return torch.where(real, weight * log_teacher.exp() * (log_teacher - log_student), 0.0).sum(-1)


def bkl(
    student: Float[Tensor, "B K"],
    teacher: Float[Tensor, "B K"],
    positive: Bool[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    lam: float,
) -> Float[Tensor, "B"]:
    """KL with a contrastive penalty: kl + lam (sum over positives of q ln q + 1/ln 2 times the negatives' mass).

    q is the softmax of the student. The penalty moves mass from negatives to positives, whatever the teacher thinks, and
    evens the positives out (BKL, Yang et al., ICTIR 2023). lam = 0 is `kl`. Published runs: lam 0.01 to 0.02; their code
    averages the KL over B K and sums the penalty over the batch, so that lam there depends on the batch.

    >>> p, q = torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[0.5, 0.3, 0.2]])
    >>> bkl(q.log(), p.log(), torch.tensor([[True, False, False]]), lam=0.02)
    tensor([0.0476])
    """
    log_student = _log_softmax(student, mask)
    mass = log_student.exp()
    penalty = torch.where(positive, mass * log_student, mass / math.log(2.0))
    return kl(student, teacher, mask) + lam * torch.where(real_candidates(student, mask), penalty, 0.0).sum(-1)


def rank_bias(ranks: Num[Tensor, "B K"], positive: Bool[Tensor, "B K"]) -> Float64[Tensor, "B K"]:
    """1/rank - 1/rank of the best-ranked positive, for each candidate; 0 in a row without a positive.

    Positive where a candidate is ranked above that positive, negative where below.

    >>> rank_bias(torch.tensor([[2.0, 1.0, 4.0]]), torch.tensor([[True, False, False]]))
    tensor([[ 0.0000,  0.5000, -0.2500]], dtype=torch.float64)
    """
    inverse = 1.0 / ranks.double()
    first = inverse.masked_fill(~positive, -torch.inf).amax(-1, keepdim=True)
    return torch.where(positive.any(-1, keepdim=True), inverse - first, 0.0)


def _log_others(student: Float[Tensor, "B K"], real: Bool[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """log(1 - q) of each candidate, as the log-share of all others: exact where q is nearly 1. 0 where not real."""
    scores = hidden(student, real)
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    others = hidden(scores[..., None, :], ~itself).logsumexp(-1)
    return (others - scores.logsumexp(-1, keepdim=True)).masked_fill(~real, 0.0)


def shares(scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, "B K"]:
    """The softmax over the real candidates, in float32 at least; 0 at the others, also in a row without any.

    >>> shares(torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([[True, True, False]])).tolist()
    [[0.5, 0.5, 0.0]]
    """
    probabilities = _log_softmax(scores, mask).exp()
    return probabilities if mask is None else probabilities.masked_fill(~mask, 0.0)


def wide(scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The scores in float32 where they are narrower: a softmax in half precision loses its tail."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def real_candidates(scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None) -> Bool[Tensor, "B K"]:
    """The mask, or True everywhere without one."""
    return torch.ones_like(scores, dtype=torch.bool) if mask is None else mask


def hidden(scores: Float[Tensor, "..."], real: Bool[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The scores in float32 at least, and the lowest finite number where not `real`.

    Finite, because -inf - (-inf) would be NaN in the difference of two log-probabilities; a softmax makes 0 of both.
    """
    scores = wide(scores)
    return scores.masked_fill(~real, torch.finfo(scores.dtype).min)


def _log_softmax(scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None) -> Float[Tensor, "B K"]:
    """Log-probabilities over the real candidates; about the lowest finite number at the others and where a score is -inf."""
    scores = hidden(scores, real_candidates(scores, mask))
    return log_softmax(scores.clamp(min=torch.finfo(scores.dtype).min), dim=-1)
