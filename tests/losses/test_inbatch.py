import math

import pytest
import torch

from retort.losses.inbatch import candidate_mass, info_nce
from retort.losses.listwise import kl

CANDIDATES = torch.tensor([[0, 3, 4], [2, 1, 0], [4, 0, 0]])  # the last row has one real candidate
MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])


def scores(columns=6, seed=0):
    return torch.randn(3, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_value_worked_out_by_hand():
    """Own e^1 + e^0 of e^1 + e^0 + e^2 + e^-1."""
    found = candidate_mass(torch.tensor([[1.0, 2.0, 0.0, -1.0]]), torch.tensor([[0, 2]]))
    torch.testing.assert_close(found, torch.tensor([-math.log((math.e + 1) / (math.e + 1 + math.e**2 + 1 / math.e))]))


def test_added_to_kl_it_is_the_kl_of_a_teacher_that_gives_the_rest_of_the_batch_nothing():
    student, teacher = scores(), scores(columns=3, seed=1)
    whole_teacher = torch.full_like(student, -torch.inf).scatter(1, CANDIDATES, teacher)[:1]
    target = whole_teacher.softmax(-1)
    whole = torch.nn.functional.kl_div(student[:1].log_softmax(-1), target, reduction="none").sum(-1)
    own = kl(student.gather(1, CANDIDATES), teacher)[:1]
    torch.testing.assert_close(own + candidate_mass(student, CANDIDATES)[:1], whole)


def test_with_one_candidate_it_is_the_cross_entropy_with_in_batch_negatives():
    student, positive = scores(), torch.tensor([2, 0, 5])
    torch.testing.assert_close(
        candidate_mass(student, positive[:, None]), torch.nn.functional.cross_entropy(student, positive, reduction="none")
    )


def test_a_masked_candidate_counts_as_another_rows_passage():
    student = scores()
    torch.testing.assert_close(candidate_mass(student, CANDIDATES, MASK)[1], candidate_mass(student, CANDIDATES[:, :2])[1])
    torch.testing.assert_close(candidate_mass(student, CANDIDATES, MASK)[2], candidate_mass(student, CANDIDATES[:, :1])[2])


def test_neither_a_constant_nor_the_order_of_candidates_matters():
    student, order = scores(), torch.tensor([2, 0, 1])
    expected = candidate_mass(student, CANDIDATES, MASK)
    torch.testing.assert_close(candidate_mass(student + 5.0, CANDIDATES, MASK), expected)
    torch.testing.assert_close(candidate_mass(student, CANDIDATES[:, order], MASK[:, order]), expected)


@pytest.mark.parametrize("loss", ["mass", "info_nce"])
def test_what_a_row_leaves_out_is_as_if_it_were_not_in_the_batch(loss):
    student = scores().requires_grad_()
    left_out = torch.zeros(3, 6, dtype=torch.bool)
    left_out[:, 5] = True  # nobody's candidate

    def value(inbatch, without=None):
        if loss == "mass":
            return candidate_mass(inbatch, CANDIDATES, MASK, without)
        return info_nce(inbatch, CANDIDATES, torch.tensor([[True, False, False]] * 3), MASK, without)

    found = value(student, left_out)
    torch.testing.assert_close(found, value(student[:, :5]))
    [gradient] = torch.autograd.grad(found.sum(), student)
    assert (gradient[:, 5] == 0).all()
    assert (value(student) > found).all()


def test_a_row_without_candidates_or_with_all_passages_costs_nothing():
    every = torch.arange(6)[None].expand(3, 6)
    torch.testing.assert_close(candidate_mass(scores(), every), torch.zeros(3, dtype=torch.float64))
    assert candidate_mass(scores(), CANDIDATES, torch.zeros_like(MASK)).tolist() == [0.0, 0.0, 0.0]


def test_gradients_agree_with_finite_differences():
    assert torch.autograd.gradcheck(lambda s: candidate_mass(s, CANDIDATES, MASK), scores().requires_grad_(), eps=1e-6)


@pytest.mark.parametrize("mask", [MASK, torch.zeros_like(MASK)])
def test_gradients_are_finite_where_scores_are_far_apart(mask):
    student = (1e4 * scores()).requires_grad_()
    candidate_mass(student, CANDIDATES, mask).sum().backward()
    assert torch.isfinite(student.grad).all()


def test_half_precision_scores_are_summed_in_single_precision():
    half = scores().bfloat16()
    found = candidate_mass(half, CANDIDATES, MASK)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, candidate_mass(half.double(), CANDIDATES, MASK).float())


def test_info_nce_of_one_positive_is_the_cross_entropy_and_of_several_the_mean_of_each_without_the_others():
    student = scores()
    first = torch.tensor([[True, False, False]] * 3)
    expected = torch.nn.functional.cross_entropy(student, CANDIDATES[:, 0], reduction="none")
    torch.testing.assert_close(info_nce(student, CANDIDATES, first), expected)
    two = torch.tensor([[True, True, False]])
    negatives = student[0, [1, 2, 4, 5]].exp().sum()
    alone = [-(student[0, p].exp() / (student[0, p].exp() + negatives)).log() for p in (0, 3)]
    torch.testing.assert_close(info_nce(student[:1], CANDIDATES[:1], two), torch.stack(alone).mean()[None])


def test_info_nce_skips_masked_positives_and_rows_without_any():
    student, positive = scores(), torch.ones_like(MASK)
    expected = info_nce(student[2:], CANDIDATES[2:, :1], positive[2:, :1])
    torch.testing.assert_close(info_nce(student, CANDIDATES, positive, MASK)[2:], expected)
    assert info_nce(student, CANDIDATES, ~positive).tolist() == [0.0, 0.0, 0.0]
    assert torch.autograd.gradcheck(lambda s: info_nce(s, CANDIDATES, positive, MASK), scores().requires_grad_(), eps=1e-6)
