import pytest
import torch

from retort.losses.pairwise import margin_mse, margin_mse_all, max_margin, ranknet

G, S = torch.tensor([[1.0, 2.0, 0.5, -1.0]]), torch.tensor([[0.2, 0.1, 0.4, -0.3]])


def lists(seed=0):
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.tensor([[True] * 5, [True, True, True, False, False]])


@pytest.mark.parametrize(("margin", "value"), [(0.0, 1.2), (0.1, 1.8)])
def test_max_margin_has_the_value_worked_out_by_hand(margin, value):
    torch.testing.assert_close(max_margin(S, G, margin=margin), torch.tensor([value]))


def test_a_tie_of_the_teacher_costs_the_margin_in_both_orders():
    found = max_margin(torch.tensor([[3.0, -2.0]]), torch.tensor([[1.0, 1.0]]), margin=0.25)
    torch.testing.assert_close(found, torch.tensor([0.5]))


def test_an_order_kept_by_more_than_the_margin_costs_nothing():
    assert max_margin(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[9.0, 5.0, 4.0]]), margin=0.5).tolist() == [0.0]


def test_a_masked_candidate_counts_as_if_it_were_not_there():
    student, teacher, mask = lists()
    expected = max_margin(student[1:, :3], teacher[1:, :3], margin=0.3)
    torch.testing.assert_close(max_margin(student, teacher, mask, margin=0.3)[1:], expected)


def test_masked_candidates_get_no_gradient_whatever_stands_there():
    student, teacher, mask = lists()
    spoilt = student.masked_fill(~mask, float("nan")).requires_grad_()
    max_margin(spoilt, teacher.masked_fill(~mask, float("nan")), mask, margin=0.3).sum().backward()
    assert (spoilt.grad[~mask] == 0).all()
    assert spoilt.grad.isfinite().all()


def test_gradients_agree_with_finite_differences():
    student, teacher, mask = lists()
    assert torch.autograd.gradcheck(lambda s: max_margin(s, teacher, mask, margin=0.3), (student.requires_grad_(),))


STUDENT = torch.tensor([[2.0, 1, 0], [0.5, 1.5, -1]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1, -1], [2, 0, 0]], dtype=torch.float64)
FIRST = torch.tensor([[True, False, False]] * 2)


def test_the_margins_that_other_libraries_print_follow_from_the_rows():
    """The shared fixture: sentence-transformers (positive against each), naver (all K^2 pairs), Lightning IR (ordered)."""
    torch.testing.assert_close(margin_mse(STUDENT, TEACHER, FIRST).mean(), torch.tensor(3.5625, dtype=torch.float64))
    naver = margin_mse_all(STUDENT, TEACHER).mean() * 6 / 9
    torch.testing.assert_close(naver, torch.tensor(2.3888888889, dtype=torch.float64))
    pairs = torch.tensor([3, 2])  # that the teacher orders
    lightning = (ranknet(STUDENT, TEACHER) * pairs).sum() / pairs.sum()
    torch.testing.assert_close(lightning, torch.tensor(0.4536252703, dtype=torch.float64), atol=1e-9, rtol=0)
    # the teacher orders every pair of the first row; in the second it ties the negatives, and orders the first before each
    ordered = torch.stack([margin_mse_all(STUDENT, TEACHER)[0], margin_mse(STUDENT, TEACHER, FIRST)[1]])
    torch.testing.assert_close((ordered * pairs).sum() / pairs.sum(), torch.tensor(3.05, dtype=torch.float64))


def test_rows_without_a_pair_cost_nothing():
    tied, none = torch.ones(2, 3).double(), torch.zeros(2, 3, dtype=torch.bool)
    assert ranknet(STUDENT, tied).tolist() == [0.0, 0.0]
    assert margin_mse(STUDENT, TEACHER, none).tolist() == margin_mse(STUDENT, TEACHER, ~none).tolist() == [0.0, 0.0]
