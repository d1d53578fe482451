"""FiD's per-token head: stock modules that give what a linear map and a LayerNorm of every token give."""

import pytest
import torch
from torch.nn.functional import layer_norm, linear

from retort.students.token_head import token_head

DRAW = torch.Generator().manual_seed(0)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def drawn(*shape, scale=1.0):
    return scale * torch.randn(*shape, generator=DRAW)


def pooled(modules, states):
    features = {"token_embeddings": states, "attention_mask": MASK}
    for module in modules:
        features = module(features)
    return features["sentence_embedding"]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])  # at 1e-3 LayerNorm's epsilon is what counts
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_vectors_are_those_of_a_layer_norm_before_pooling(pooling, scale):
    weight, bias, gain, shift = drawn(6, 8), drawn(6), drawn(6), drawn(6)
    states = drawn(2, 5, 8, scale=scale)
    tokens = layer_norm(linear(states, weight, bias * scale), (6,), gain, shift)
    expected = tokens[:, 0] if pooling == "cls" else torch.stack([tokens[0].mean(0), tokens[1, :3].mean(0)])
    with torch.no_grad():
        found = pooled(token_head(weight, bias * scale, gain, shift, pooling=pooling), states)
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=1e-5)


def test_a_worked_value():
    """h = (3, 1) through the identity: less its mean (1, -1), variance 1, so (1, -1) / sqrt(1 + 1) times 2, plus 10."""
    head = token_head(torch.eye(2), torch.zeros(2), torch.full((2,), 2.0), torch.full((2,), 10.0), epsilon=1.0)
    with torch.no_grad():
        found = pooled(head, torch.tensor([3.0, 1.0]).expand(2, 5, 2))
    torch.testing.assert_close(found[0], torch.tensor([10 + 2**0.5, 10 - 2**0.5]))


def test_a_token_of_equal_numbers_becomes_the_shift():
    head = token_head(torch.eye(3), torch.zeros(3), torch.ones(3), torch.tensor([1.0, 2.0, 3.0]))
    with torch.no_grad():
        found = pooled(head, torch.full((2, 5, 3), 4.0))
    torch.testing.assert_close(found[1], torch.tensor([1.0, 2.0, 3.0]))
