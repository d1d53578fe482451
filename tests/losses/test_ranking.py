import math

import pytest
import torch

from retort.losses.ranking import approx_ndcg, cl_drd, drd_labels, lambda_loss


def slow_lambda_loss(scores, gains, scheme, mu):
    """One row, straight from the definition."""
    n = len(scores)
    order = sorted(range(n), key=lambda i: -scores[i])
    rank = {i: place for place, i in enumerate(order, start=1)}
    ideal = sum(g / math.log2(1 + r) for r, g in enumerate(sorted(gains, reverse=True), start=1))
    total = 0.0
    for i in range(n):
        for j in range(n):
            if gains[i] > gains[j]:
                weight = abs(1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j]))
                if scheme == "ndcg_loss2pp":
                    apart = abs(rank[i] - rank[j])
                    weight += mu * abs(1 / math.log2(1 + apart) - 1 / math.log2(2 + apart))
                total += weight * abs(gains[i] - gains[j]) / ideal * math.log2(1 + math.exp(scores[j] - scores[i]))
    return total


@pytest.mark.parametrize("scheme", ["lambda_rank", "ndcg_loss2pp"])
def test_lambda_loss_is_its_definition(scheme):
    rng = torch.Generator().manual_seed(3)
    student = torch.randn(5, 7, generator=rng, dtype=torch.float64)
    gains = 2.0 ** torch.randint(0, 4, (5, 7), generator=rng).double() - 1.0
    expected = [slow_lambda_loss(s, g, scheme, 10.0) for s, g in zip(student.tolist(), gains.tolist(), strict=True)]
    torch.testing.assert_close(lambda_loss(student, gains, scheme=scheme), torch.tensor(expected, dtype=torch.float64))


def test_lambda_ranks_weight_is_what_swapping_a_pair_changes_of_ndcg():
    student, gains = torch.tensor([[0.0, 3.0, -2.0]]).double(), torch.tensor([[1.0, 0.0, 0.0]]).double()
    found = lambda_loss(student, gains, scheme="lambda_rank")
    swapped = {1: 1 - 1 / math.log2(3), 2: 1 / math.log2(3) - 1 / 2}  # candidate 0 stands second
    expected = sum(swapped[j] * math.log2(1 + math.exp(float(student[0, j] - student[0, 0]))) for j in (1, 2))
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64))


def test_equal_gains_cost_nothing():
    assert lambda_loss(torch.randn(2, 4), torch.full((2, 4), 3.0)).tolist() == [0.0, 0.0]
    assert approx_ndcg(torch.randn(2, 4), torch.zeros(2, 4)).tolist() == [0.0, 0.0]


def test_approx_ndcg_nears_one_minus_ndcg_as_the_temperature_falls():
    student, gains = torch.tensor([[0.3, 0.9, 0.1]]).double(), torch.tensor([[3.0, 1.0, 0.0]]).double()
    exact = 1 - (3 / math.log2(3) + 1) / (3 + 1 / math.log2(3))
    gaps = [abs(float(approx_ndcg(student, gains, temperature=t)) - exact) for t in (1.0, 0.1, 0.01)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-9


def test_cl_drd_weighs_each_ordered_pair_by_the_students_reciprocal_ranks():
    student, labels = torch.tensor([[0.5, 2.0, -1.0]]).double(), torch.tensor([[1.0, 0.0, -1.0]]).double()
    cost = {(i, j): math.log(1 + math.exp(float(student[0, j] - student[0, i]))) for i, j in ((0, 1), (0, 2), (1, 2))}
    expected = (1 - 1 / 2) * cost[0, 1] + (1 / 2 - 1 / 3) * cost[0, 2] + (1 - 1 / 3) * cost[1, 2]  # ranks 2, 1, 3
    torch.testing.assert_close(cl_drd(student, labels), torch.tensor([expected], dtype=torch.float64))


def test_drd_labels_are_reciprocal_ranks_of_the_head_and_of_positives_then_zero_then_minus_one():
    teacher = torch.tensor([[1.0, 5.0, 4.0, 3.0, 2.0, 9.0]])
    mask = torch.tensor([[True, True, True, True, True, False]])
    positive = torch.tensor([[True, False, False, False, False, False]])
    found = drd_labels(teacher, positive, mask, head=1, tail=3)
    torch.testing.assert_close(found[mask], torch.tensor([1 / 5, 1.0, 0.0, 0.0, -1.0]))
