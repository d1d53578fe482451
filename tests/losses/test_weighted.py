"""CKL and BKL: the values, gradients, limits and hazards of docs/losses.md, in float64 where nothing else is said."""

import math
from functools import partial

import pytest
import torch

from retort.losses.listwise import bkl, ckl, cross_entropy, kl, rank_bias

P, Q = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64), torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
FIRST = torch.tensor([[True, False, False]])
RANKS = torch.tensor([[2.0, 1.0, 3.0]], dtype=torch.float64)


def lists(rows=4, width=6, seed=0, spread=1.0):
    """Random lists with one to three positives; some candidates are not real."""
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (spread * torch.randn(rows, width, generator=rng, dtype=torch.float64) for _ in range(2))
    mask = torch.arange(width)[None] < torch.tensor([width, width - 1, width - 2, 3])[:rows, None]
    positive = torch.arange(width)[None] < torch.tensor([1, 2, 3, 1])[:rows, None]
    ranks = torch.stack([torch.randperm(20, generator=rng)[:width] + 1 for _ in range(rows)]).double()
    return student, teacher, positive, mask, ranks


def gradient(loss, student):
    student = student.detach().clone().requires_grad_()
    loss(student).sum().backward()
    return student.grad


@pytest.mark.parametrize(
    ("gamma", "value", "slope"),
    [
        (0.0, 0.0400782160, (-0.1, 0.0, 0.1)),
        (1.0, 0.0408335234, (-0.11541676, 0.05356782, 0.06184894)),
        (2.0, 0.0245756448, (-0.08407564, 0.04537249, 0.03870315)),
        (5.0, 0.0033963485, (-0.01748537, 0.01028536, 0.00720001)),
    ],
)
def test_ckl_has_the_values_and_gradients_of_the_worked_example(gamma, value, slope):
    def loss(student):
        return ckl(student, P.log(), FIRST, gamma=gamma)

    torch.testing.assert_close(loss(Q.log()), torch.tensor([value], dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(gradient(loss, Q.log()), torch.tensor([slope], dtype=torch.float64), atol=1e-8, rtol=0)


def test_ckl_with_rank_bias_and_with_weights_held_fixed_as_worked_out():
    def biased(student):
        return ckl(student, P.log(), FIRST, gamma=2.0, alpha=1.0, ranks=RANKS)

    def fixed(student):
        return ckl(student, P.log(), FIRST, gamma=2.0, detach_weights=True)

    torch.testing.assert_close(biased(Q.log()), torch.tensor([0.0252279670], dtype=torch.float64), atol=1e-9, rtol=0)
    slopes = torch.tensor([[-0.07387431, 0.02919826, 0.04467605]], dtype=torch.float64)
    torch.testing.assert_close(gradient(biased, Q.log()), slopes, atol=1e-8, rtol=0)
    slopes = torch.tensor([[-0.0595, 0.0273, 0.0322]], dtype=torch.float64)
    torch.testing.assert_close(gradient(fixed, Q.log()), slopes, atol=1e-9, rtol=0)


def test_bkl_has_the_value_and_the_gradient_of_its_penalty_as_worked_out():
    value = bkl(Q.log(), P.log(), FIRST, lam=0.02)
    torch.testing.assert_close(value, torch.tensor([0.0475736946], dtype=torch.float64), atol=1e-9, rtol=0)
    penalty = gradient(lambda s: bkl(s, P.log(), FIRST, lam=1.0) - kl(s, P.log()), Q.log())
    expected = torch.tensor([[-0.28396056, 0.17037633, 0.11358422]], dtype=torch.float64)
    torch.testing.assert_close(penalty, expected, atol=1e-8, rtol=0)


def test_with_two_candidates_ckl_is_kl_times_the_positives_missing_mass():
    q, p = torch.tensor([[0.25, 0.75]], dtype=torch.float64), torch.tensor([[0.8, 0.2]], dtype=torch.float64)
    found = ckl(q.log(), p.log(), torch.tensor([[True, False]]), gamma=2.0)
    torch.testing.assert_close(found, torch.tensor([0.3747203324], dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(found, 0.75**2 * kl(q.log(), p.log()))


def test_a_teacher_that_knows_one_answer_makes_ckl_the_focal_loss():
    student, hard = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64), FIRST.double().log()
    found = ckl(student, hard, FIRST, gamma=2.0)
    torch.testing.assert_close(found, torch.tensor([0.0456777990], dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(ckl(student, hard, FIRST, gamma=0.0), cross_entropy(student, FIRST.double()))


@pytest.mark.parametrize("detached", [False, True])
def test_without_its_weights_each_is_kl_in_value_and_gradient(detached):
    student, teacher, positive, mask, _ = lists()
    expected = gradient(lambda s: kl(s, teacher, mask), student)
    for loss in (
        lambda s: ckl(s, teacher, positive, mask, gamma=0.0, detach_weights=detached),
        lambda s: bkl(s, teacher, positive, mask, lam=0.0),
    ):
        torch.testing.assert_close(loss(student), kl(student, teacher, mask))
        torch.testing.assert_close(gradient(loss, student), expected)


LOSSES = {
    "ckl": lambda s, t, positive, mask, ranks: ckl(s, t, positive, mask, gamma=3.0, alpha=1.5, ranks=ranks),
    "several": lambda s, t, positive, mask, ranks: ckl(
        s, t, positive, mask, gamma=3.0, alpha=1.5, ranks=ranks, bias_positives=True
    ),
    "bkl": lambda s, t, positive, mask, ranks: bkl(s, t, positive, mask, lam=0.02),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_constants_and_the_order_of_candidates_do_not_matter(loss):
    student, teacher, *rest = lists()
    expected, order = loss(student, teacher, *rest), torch.tensor([4, 0, 3, 5, 1, 2])
    torch.testing.assert_close(loss(student + 9.0, teacher - 4.0, *rest), expected)
    torch.testing.assert_close(loss(student[:, order], teacher[:, order], *(x[:, order] for x in rest)), expected)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_masked_candidate_counts_as_if_it_were_not_there_whatever_it_holds(loss):
    student, teacher, positive, mask, ranks = lists()
    short = loss(*(x[3:, :3] for x in (student, teacher, positive, mask, ranks)))
    torch.testing.assert_close(loss(student, teacher, positive, mask, ranks)[3:], short)
    expected = gradient(lambda s: loss(s, teacher, positive, mask, ranks), student)
    for hidden in (math.inf, -math.inf, math.nan):
        spoilt = gradient(
            lambda s, hidden=hidden: loss(s, teacher.masked_fill(~mask, hidden), positive | ~mask, mask, ranks),
            student.masked_fill(~mask, hidden),
        )
        assert (spoilt[~mask] == 0).all()
        torch.testing.assert_close(spoilt, expected)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_agree_with_finite_differences_and_sum_to_zero(loss):
    student, teacher, *rest = lists()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, *rest), student.clone().requires_grad_(), eps=1e-6)
    total = gradient(lambda s: loss(s, teacher, *rest), student).sum(-1)
    torch.testing.assert_close(total, torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)


def test_the_analytic_gradient_of_ckl_is_that_of_autograd():
    """ds_k = q_k (g_k - sum q g), with g of positives and negatives as derived in the methods file, section 5."""
    student, teacher, positive, _, ranks = lists()
    gamma, alpha = 3.0, 1.0
    p, q = teacher.softmax(-1), student.softmax(-1)
    exponent = gamma - alpha * rank_bias(ranks, positive)
    up = -p * (1 - q) ** (gamma - 1) * (gamma * (p / q).log() + (1 - q) / q)
    down = p * q ** (exponent - 1) * (exponent * (p / q).log() - 1)
    g = torch.where(positive, up, down)
    expected = q * (g - (q * g).sum(-1, keepdim=True))
    found = gradient(lambda s: ckl(s, teacher, positive, gamma=gamma, alpha=alpha, ranks=ranks), student)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_ckl_is_bounded_below_by_minus_the_teachers_entropy():
    for seed in range(50):
        student, teacher, positive, mask, ranks = lists(seed=seed, spread=4.0)
        p = teacher.masked_fill(~mask, -math.inf).softmax(-1)
        entropy = torch.special.entr(p).sum(-1)
        assert (ckl(student, teacher, positive, mask, gamma=2.0, alpha=2.0, ranks=ranks) >= -entropy - 1e-12).all()


def test_far_apart_ckl_lets_go_where_kl_drags_back():
    """Derived limits: positive lost, hard negative, negative lost, positive won; p_+ = .6, logits 40 apart."""
    teacher = P.log()
    for place, score, wanted, of_kl in (
        (0, -40.0, -0.6, -0.6),
        (1, 40.0, 0.6, 0.7),
        (2, -40.0, 0.0, -0.1),
        (0, 40.0, 0.0, 0.4),
    ):
        student = torch.zeros(1, 3, dtype=torch.float64)
        student[0, place] = score
        found = gradient(lambda s: ckl(s, teacher, FIRST, gamma=5.0), student)[0, place]
        plain = gradient(lambda s: kl(s, teacher), student)[0, place]
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), atol=1e-6, rtol=0)
        torch.testing.assert_close(plain, torch.tensor(of_kl, dtype=torch.float64), atol=1e-6, rtol=0)


def test_bkls_penalty_moves_mass_from_negatives_to_positives():
    for seed in range(30):
        student, teacher, positive, mask, _ = lists(seed=seed, spread=3.0)
        penalised = gradient(partial(bkl, teacher=teacher, positive=positive, mask=mask, lam=1.0), student)
        slope = penalised - gradient(partial(kl, teacher=teacher, mask=mask), student)
        assert ((slope * (positive & mask)).sum(-1) <= 1e-12).all()


def test_pathology_free_logits_under_ckl_may_end_with_a_negative_on_top():
    """Documented, not wanted: the tail costs nothing, so mass flows to the hard negative. Held weights do not do it."""
    teacher = torch.tensor([[0.5, 0.3, 0.05, 0.05, 0.05, 0.05]], dtype=torch.float64).log()
    positive = torch.tensor([[True] + [False] * 5])
    ends = {}
    for detached in (False, True):
        student = torch.tensor([[0.7, 0.2, 0.03, 0.03, 0.02, 0.02]], dtype=torch.float64).log().requires_grad_()
        for _ in range(1000):
            loss = ckl(student, teacher, positive, gamma=5.0, detach_weights=detached).sum()
            (slope,) = torch.autograd.grad(loss, student)
            student = (student - 2.0 * slope).detach().requires_grad_()
        ends[detached] = student.softmax(-1)[0]
    assert ends[False][1] > ends[False][0]
    assert ends[True][0] > ends[True][1]


@pytest.mark.parametrize("gamma", [0.5, 5.0])
@pytest.mark.parametrize("scores", [(200.0, 0.0, -200.0), (-200.0, 0.0, 200.0)])
def test_values_and_gradients_are_finite_in_single_precision_where_scores_are_far_apart(gamma, scores):
    student = torch.tensor([scores]).requires_grad_()
    loss = ckl(student, torch.tensor([[3.0, 1.0, 0.0]]), FIRST, gamma=gamma)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(student.grad).all()


def test_the_missing_mass_is_exact_where_the_student_is_nearly_sure():
    """1 - q is 2e-20 there, which 1 - exp(log q) would round to 0."""
    found = ckl(torch.tensor([[45.0, 0.0]]).double(), torch.tensor([[0.0, 0.0]]).double(), FIRST[:, :2], gamma=0.5)
    first = math.exp(0.5 * -45.0) * 0.5 * math.log(0.5)
    second = math.exp(0.5 * -45.0) * 0.5 * (math.log(0.5) + 45.0)
    torch.testing.assert_close(found, torch.tensor([first + second], dtype=torch.float64), rtol=1e-9, atol=0)


def test_weights_are_computed_in_single_precision_inside_autocast():
    student, teacher, positive, mask, ranks = (x.float() if x.is_floating_point() else x for x in lists())
    expected = LOSSES["ckl"](student, teacher, positive, mask, ranks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LOSSES["ckl"](student, teacher, positive, mask, ranks), expected)


def test_rows_without_a_positive_or_without_a_negative_have_no_rank_bias():
    student, teacher, _, _, ranks = lists()
    for positive in (torch.zeros(4, 6, dtype=torch.bool), torch.ones(4, 6, dtype=torch.bool)):
        found = ckl(student, teacher, positive, gamma=2.0, alpha=1.0, ranks=ranks)
        torch.testing.assert_close(found, ckl(student, teacher, positive, gamma=2.0))


def test_a_row_of_one_candidate_costs_nothing():
    one = torch.tensor([[True, False, False]])
    for loss in LOSSES.values():
        found = loss(Q.log(), P.log(), FIRST, one, RANKS)
        assert torch.isfinite(found).all()
    assert ckl(Q.log(), P.log(), FIRST, one, gamma=5.0).tolist() == [0.0]


def test_a_bias_without_ranks_or_above_gamma_is_refused():
    with pytest.raises(ValueError, match="no ranks were given"):
        ckl(Q.log(), P.log(), FIRST, gamma=2.0, alpha=1.0)
    with pytest.raises(ValueError, match="at most gamma"):
        ckl(Q.log(), P.log(), FIRST, gamma=1.0, alpha=1.5, ranks=RANKS)
