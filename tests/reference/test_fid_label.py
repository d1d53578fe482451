import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from reference.fid_label import PADDED, generated_label
from retort.teachers.fid.attention import passage_scores

SHAPE = {"vocab_size": 200, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return T5ForConditionalGeneration(T5Config(**SHAPE, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)).eval()


@pytest.fixture(scope="module")
def passages():
    """Ids and mask of two questions with three passages each, padded as FiD pads them."""
    lengths = torch.tensor([[[PADDED], [3], [91]], [[17], [1], [150]]])
    mask = (torch.arange(PADDED) < lengths).long()
    return torch.randint(2, 200, mask.shape, generator=torch.Generator().manual_seed(0)) * mask, mask


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_one_decoder_step_gives_the_label_of_a_whole_generation(model, passages, tokens, attention):
    slow = generated_label(model, *passages, tokens=tokens)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        fast = passage_scores(model, *passages)
    assert slow.std() > 1e-3
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=0)


def test_the_slow_label_does_not_look_at_pads(model, passages):
    ids, mask = passages
    other = torch.where(mask.bool(), ids, 7)
    torch.testing.assert_close(generated_label(model, other, mask, tokens=1), generated_label(model, ids, mask, tokens=1))
