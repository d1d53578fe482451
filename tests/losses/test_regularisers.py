import torch
from sentence_transformers.sparse_encoder.losses import FlopsLoss

from retort.losses.regularisers import flops, l1


def vectors(rows=5, width=7, seed=0):
    """Non-negative and half empty, as SPLADE's are; the first row has two dimensions."""
    weights = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()
    weights[0] = torch.tensor([1.0, 2.0, 0, 0, 0, 0, 0])
    return weights


def test_flops_is_that_of_sentence_transformers_with_and_without_a_threshold():
    for threshold in (None, 2):
        theirs = FlopsLoss(None, threshold=threshold).compute_loss_from_embeddings(vectors())
        torch.testing.assert_close(flops(vectors(), threshold=threshold).mean(), theirs)


def test_the_gradient_of_the_rows_mean_is_that_of_the_published_penalty():
    ours, theirs = vectors().requires_grad_(), vectors().requires_grad_()
    flops(ours).mean().backward()
    theirs.mean(0).square().sum().backward()
    torch.testing.assert_close(ours.grad[vectors() > 0], theirs.grad[vectors() > 0])


def test_the_sign_of_a_weight_does_not_matter():
    """sentence-transformers' has no absolute value: weights of both signs would cancel there."""
    signs = torch.tensor([1.0, -1, 1, -1, 1]).double()[:, None]
    torch.testing.assert_close(flops(signs * vectors()), flops(vectors()))
    torch.testing.assert_close(l1(signs * vectors()), l1(vectors()))


def test_a_batch_of_the_same_texts_twice_costs_the_same():
    torch.testing.assert_close(flops(torch.cat([vectors(), vectors()])).mean(), flops(vectors()).mean())


def test_a_text_that_is_sparse_enough_costs_nothing_and_gets_no_gradient():
    weights = vectors().requires_grad_()
    rows = flops(weights, threshold=2)
    rows.sum().backward()
    assert rows[0] == 0
    assert (weights.grad[0] == 0).all()


def test_gradients_agree_with_finite_differences():
    weights = (vectors() + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(flops, weights, eps=1e-6)
    assert torch.autograd.gradcheck(l1, weights, eps=1e-6)
