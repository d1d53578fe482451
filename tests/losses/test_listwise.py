import pytest
import torch

from retort.losses.listwise import KL, kl, mse
from retort.tensors import Batch, Signals, Target

G, S = torch.tensor([[1.0, 2.0, 0.5, -1.0]]), torch.tensor([[0.2, 0.1, 0.4, -0.3]])
LOSSES = [kl, mse]


def lists(rows=3, width=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, width, generator=rng, dtype=torch.float64) for _ in range(2))
    mask = torch.arange(width)[None] < torch.tensor([width, width - 2, 2])[:rows, None]
    return student, teacher, mask


def test_kl_has_the_value_and_gradient_worked_out_by_hand():
    student = S.clone().requires_grad_()
    loss = kl(student, G)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([0.3516679]), atol=1e-6, rtol=0)
    torch.testing.assert_close(student.grad, torch.tensor([[0.04369, -0.367056, 0.191222, 0.132145]]), atol=1e-6, rtol=0)


def test_mse_has_the_value_worked_out_by_hand():
    torch.testing.assert_close(mse(S, G), torch.tensor([4.75]))


def test_kl_averaged_over_queries_is_k_times_the_mean_reduction_of_the_published_code():
    student, teacher, _ = lists()
    divided = torch.nn.functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").mean()
    torch.testing.assert_close(kl(student, teacher).mean(), student.shape[1] * divided)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_order_of_candidates_does_not_matter(loss):
    student, teacher, mask = lists()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(loss(student[:, order], teacher[:, order], mask[:, order]), loss(student, teacher, mask))


def test_kl_does_not_see_a_constant_added_to_either_side():
    student, teacher, mask = lists()
    torch.testing.assert_close(kl(student + 7.0, teacher - 3.0, mask), kl(student, teacher, mask))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_masked_candidate_counts_as_if_it_were_not_there(loss):
    student, teacher, mask = lists()
    torch.testing.assert_close(loss(student, teacher, mask)[1], loss(student[1:2, :4], teacher[1:2, :4])[0])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("hidden", [float("inf"), float("nan"), -1e30])
def test_whatever_stands_at_a_masked_place_gives_no_gradient_there_and_none_elsewhere(loss, hidden):
    student, teacher, mask = lists()
    expected = torch.autograd.grad(loss(clean := student.clone().requires_grad_(), teacher, mask).sum(), clean)[0]
    spoilt = student.masked_fill(~mask, hidden).requires_grad_()
    found = torch.autograd.grad(loss(spoilt, teacher.masked_fill(~mask, hidden), mask).sum(), spoilt)[0]
    assert (found[~mask] == 0).all()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree_with_finite_differences(loss):
    student, teacher, mask = lists()
    assert torch.autograd.gradcheck(
        lambda s, t: loss(s, t, mask), (student.requires_grad_(), teacher.requires_grad_()), eps=1e-6
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_scores_cost_nothing(loss):
    _, teacher, mask = lists()
    torch.testing.assert_close(loss(teacher, teacher, mask), torch.zeros(3, dtype=torch.float64))


def test_the_gradient_of_kl_sums_to_zero_over_the_candidates():
    student, teacher, mask = lists()
    found = torch.autograd.grad(kl(student.requires_grad_(), teacher, mask).sum(), student)[0]
    torch.testing.assert_close(found.sum(-1), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("real", [0, 1])
def test_a_row_of_fewer_than_two_real_candidates_costs_nothing(real):
    student, teacher, _ = lists()
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[:, :real] = True
    assert kl(student, teacher, mask).tolist() == [0.0, 0.0, 0.0]


def test_half_precision_scores_are_compared_in_single_precision():
    student, teacher, mask = lists()
    half = kl(student.bfloat16(), teacher.bfloat16(), mask)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, kl(student.bfloat16().double(), teacher.bfloat16().double(), mask).float())


def test_inside_autocast_the_value_stays_that_of_single_precision():
    student, teacher, mask = (x.float() if x.is_floating_point() else x for x in lists())
    expected = kl(student, teacher, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(kl(student, teacher, mask), expected)


def test_the_objective_divides_each_side_by_its_own_temperature():
    student, teacher, mask = lists()
    candidates = torch.zeros(3, 6, dtype=torch.long)
    batch = Batch((), (), candidates, mask, torch.zeros_like(mask))
    target = Target(scores=teacher, weight=torch.ones(3), valid=torch.ones(3, dtype=torch.bool))
    found = KL(student_temperature=2.0, teacher_temperature=0.5)(Signals(scores=student), target, batch)
    torch.testing.assert_close(found, kl(student / 2.0, teacher / 0.5, mask))
