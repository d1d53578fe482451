import math

import torch

from retort.losses.listwise import cross_entropy, jensen_shannon, kl, list_mle, marginal_likelihood, mse, reverse_kl

G, S = torch.tensor([[1.0, 2.0, 0.5, -1.0]]), torch.tensor([[0.2, 0.1, 0.4, -0.3]])


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


def test_the_gradient_of_kl_sums_to_zero_over_the_candidates():
    student, teacher, mask = lists()
    found = torch.autograd.grad(kl(student.requires_grad_(), teacher, mask).sum(), student)[0]
    torch.testing.assert_close(found.sum(-1), torch.zeros(3, dtype=torch.float64))


def test_reverse_kl_is_kl_with_the_sides_exchanged_and_jensen_shannon_is_symmetric():
    student, teacher, mask = lists()
    torch.testing.assert_close(reverse_kl(student, teacher, mask), kl(teacher, student, mask))
    torch.testing.assert_close(jensen_shannon(student, teacher, mask), jensen_shannon(teacher, student, mask))


def test_jensen_shannon_has_the_value_worked_out_by_hand():
    """(1/2, 1/2) against (3/4, 1/4): mixture (5/8, 3/8)."""
    found = jensen_shannon(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log())
    by_hand = (0.5 * math.log(0.8) + 0.5 * math.log(4 / 3) + 0.75 * math.log(1.2) + 0.25 * math.log(2 / 3)) / 2
    torch.testing.assert_close(found, torch.tensor([by_hand]))


def test_cross_entropy_with_the_teachers_probabilities_is_kl_plus_its_entropy():
    student, teacher, _ = lists()
    entropy = torch.special.entr(teacher.softmax(-1)).sum(-1)
    torch.testing.assert_close(cross_entropy(student, teacher.softmax(-1)), kl(student, teacher) + entropy)


def test_cross_entropy_shares_out_hard_labels_and_ignores_rows_without_any():
    found = cross_entropy(torch.zeros(2, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([math.log(4.0), 0.0]))


def test_list_mle_is_the_plackett_luce_likelihood_of_the_teachers_order():
    student, teacher, _ = lists()
    expected = []
    for scores, order in zip(student.exp(), teacher.argsort(descending=True), strict=True):
        left = [float(scores[place]) for place in order]
        expected.append(-sum(math.log(left[i] / sum(left[i:])) for i in range(len(left))))
    torch.testing.assert_close(list_mle(student, teacher), torch.tensor(expected, dtype=torch.float64))


def test_the_numbers_that_other_libraries_print_follow_from_the_rows():
    """The shared fixture: batchmean as sentence-transformers and Lightning IR, mean over B K, temperature 2 (T squared)."""
    student, teacher = torch.tensor([[2.0, 1, 0], [0.5, 1.5, -1]]).double(), torch.tensor([[3.0, 1, -1], [2, 0, 0]]).double()
    rows, soft = kl(student, teacher), kl(student / 2, teacher / 2)
    torch.testing.assert_close(rows, torch.tensor([0.1156114281653, 0.7592198394136], dtype=torch.float64))
    torch.testing.assert_close(rows.mean(), torch.tensor(0.4374156337895, dtype=torch.float64))
    torch.testing.assert_close(rows.sum() / 6, torch.tensor(0.1458052112632, dtype=torch.float64))
    torch.testing.assert_close(soft, torch.tensor([0.0602688975, 0.2158391627], dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(4 * soft.mean(), torch.tensor(0.5522161203, dtype=torch.float64), atol=1e-9, rtol=0)
    flag = cross_entropy(student, teacher.softmax(-1)).mean()
    torch.testing.assert_close(flag, torch.tensor(0.9907306968, dtype=torch.float64), atol=1e-9, rtol=0)
    smallest, largest = student.amin(-1, keepdim=True), student.amax(-1, keepdim=True)
    pylate = kl((student - smallest) / (largest - smallest + 1e-8), teacher).mean()
    torch.testing.assert_close(pylate, torch.tensor(0.3907696045, dtype=torch.float64), atol=1e-9, rtol=0)


def test_the_marginal_likelihood_moves_with_the_likelihoods_and_not_with_the_students_level():
    student, likelihoods = lists(rows=2)[:2]
    cost = marginal_likelihood(student, likelihoods)
    torch.testing.assert_close(marginal_likelihood(student + 5.0, likelihoods - 2.0), cost + 2.0)
    torch.testing.assert_close(marginal_likelihood(student, torch.full_like(student, -3.0)), torch.full_like(cost, 3.0))


def test_a_masked_passage_is_no_source_of_the_answer():
    student, likelihoods = (tensor.requires_grad_() for tensor in lists(rows=2)[:2])
    mask = torch.tensor([[True, False, True, True, False, True], [False] * 6])
    cost = marginal_likelihood(student, likelihoods, mask)
    wanted = marginal_likelihood(student[:1, mask[0]], likelihoods[:1, mask[0]])
    torch.testing.assert_close(cost, torch.cat([wanted, torch.zeros(1, dtype=cost.dtype)]))
    for gradient in torch.autograd.grad(cost.sum(), [student, likelihoods]):
        assert not gradient[~mask].any()
        assert torch.isfinite(gradient).all()
