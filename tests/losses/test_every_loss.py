"""What holds for every loss over a row's own candidates, of one signature: (student, teacher, mask) -> one value a row."""

import pytest
import torch

from retort.losses import listwise, pairwise, ranking

FIRST_TWO = torch.arange(6)[None] < torch.tensor([1, 2, 1])[:, None]  # the positives, where a loss takes them


def shares(loss, **settings):
    """A loss of shares or gains, given the teacher's probabilities."""

    def called(student, teacher, mask=None):
        return loss(student, listwise.shares(teacher, mask), mask, **settings)

    return called


def positives(loss, **settings):
    def called(student, teacher, mask=None):
        return loss(student, teacher, FIRST_TWO[: len(student), : student.shape[1]], mask, **settings)

    return called


def drd(student, teacher, mask=None):
    labels = ranking.drd_labels(teacher, torch.zeros_like(teacher, dtype=torch.bool), mask, head=3, tail=4)
    return ranking.cl_drd(student, labels, mask)


LOSSES = {
    "kl": listwise.kl,
    "reverse_kl": listwise.reverse_kl,
    "jensen_shannon": listwise.jensen_shannon,
    "mse": listwise.mse,
    "cross_entropy": shares(listwise.cross_entropy),
    "list_mle": listwise.list_mle,
    "max_margin": lambda s, t, m=None: pairwise.max_margin(s, t, m, margin=0.3),
    "ranknet": pairwise.ranknet,
    "margin_mse": positives(pairwise.margin_mse),
    "margin_mse_all": pairwise.margin_mse_all,
    "lambda_rank": shares(ranking.lambda_loss, scheme="lambda_rank"),
    "ndcg_loss2pp": shares(ranking.lambda_loss),
    "cl_drd": drd,
    "approx_ndcg": shares(ranking.approx_ndcg, temperature=0.7),
}
every = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def lists(rows=3, width=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, width, generator=rng, dtype=torch.float64) for _ in range(2))
    mask = torch.arange(width)[None] < torch.tensor([width, width - 2, 2])[:rows, None]
    return student, teacher, mask


def gradient(loss, student, *rest):
    student = student.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest).sum(), student)[0]


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "margin_mse"])  # its positives stay where they are
def test_the_order_of_candidates_does_not_matter(name):
    (student, teacher, mask), order = lists(), torch.tensor([3, 1, 5, 0, 2, 4])
    found = LOSSES[name](student[:, order], teacher[:, order], mask[:, order])
    torch.testing.assert_close(found, LOSSES[name](student, teacher, mask))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "mse"])  # it compares raw scores
def test_a_constant_added_to_either_side_does_not_matter(name):
    student, teacher, mask = lists()
    torch.testing.assert_close(LOSSES[name](student + 7.0, teacher - 3.0, mask), LOSSES[name](student, teacher, mask))


@every
def test_a_masked_candidate_counts_as_if_it_were_not_there(loss):
    student, teacher, mask = lists()
    torch.testing.assert_close(loss(student, teacher, mask)[:1], loss(student[:1], teacher[:1]))
    short = student[:, :4], teacher[:, :4], mask[:, :4]
    torch.testing.assert_close(loss(student, teacher, mask)[1:], loss(*short)[1:])


@every
@pytest.mark.parametrize("hidden", [float("inf"), float("nan"), -1e30])
def test_whatever_stands_at_a_masked_place_gives_no_gradient_there_and_changes_none_elsewhere(loss, hidden):
    student, teacher, mask = lists()
    expected = gradient(loss, student, teacher, mask)
    found = gradient(loss, student.masked_fill(~mask, hidden), teacher.masked_fill(~mask, hidden), mask)
    assert (found[~mask] == 0).all()
    torch.testing.assert_close(found, expected)


@every
def test_gradients_agree_with_finite_differences(loss):
    student, teacher, mask = lists()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, mask), student.requires_grad_(), eps=1e-6)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jensen_shannon", "mse", "margin_mse", "margin_mse_all"])
def test_equal_scores_cost_nothing(name):
    _, teacher, mask = lists()
    torch.testing.assert_close(LOSSES[name](teacher, teacher, mask), torch.zeros(3, dtype=torch.float64))


@every
@pytest.mark.parametrize("real", [0, 1])
def test_a_row_of_fewer_than_two_real_candidates_costs_nothing_but_its_own_error(loss, real):
    student, teacher, _ = lists()
    mask = torch.arange(6).expand(3, 6) < real
    found = loss(student, teacher, mask)
    expected = (student - teacher)[:, 0].square() * real if loss is listwise.mse else torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(found, expected)


@every
def test_half_precision_scores_are_compared_in_single_precision(loss):
    student, teacher, mask = lists()
    half = loss(student.bfloat16(), teacher.bfloat16(), mask)
    assert half.dtype == torch.float32


@every
def test_inside_autocast_the_value_stays_that_of_single_precision(loss):
    student, teacher, mask = (x.float() if x.is_floating_point() else x for x in lists())
    expected = loss(student, teacher, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(student, teacher, mask), expected)


@every
def test_a_small_step_down_the_gradient_costs_less(loss):
    student, teacher, mask = lists()
    step = student - 1e-3 * gradient(loss, student, teacher, mask)
    assert loss(step, teacher, mask).sum() < loss(student, teacher, mask).sum()
