"""Attention to passages: against transformers' own maps, and the calibration by hand."""

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from retort.teachers.causal.attention import Looking, passage_attention, token_attention
from retort.teachers.watching import watched

IDS = torch.randint(5, 240, (16,), generator=torch.Generator().manual_seed(0)).tolist()
PASSAGES = [range(1, 5), range(6, 10), range(10, 11)]
PROMPT = Looking(IDS, range(12, 15))
EMPTY = Looking([*IDS[:11], 8, 9, 7], range(12, 13))


def maps(model, ids):
    """[layers, heads, L, L], as the eager kernel returns them."""
    with torch.no_grad():
        return torch.cat(model(input_ids=torch.tensor([ids]), output_attentions=True).attentions)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def sums(attention):
    return torch.stack([attention[span.start : span.stop].sum() for span in PASSAGES])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma2", "gpt_oss"])
def test_what_a_token_gets_is_what_the_models_own_maps_say(build, kind):
    model = build(kind)
    found = token_attention(model, PROMPT)
    close(found, maps(model, IDS)[:, :, 12:15].mean((0, 1, 2)))
    assert found.shape == (16,)
    assert found[15] == 0


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_the_kernel_does_not_matter(build, kind):
    eager, fused = build(kind), build(kind, kernel="sdpa")
    for calibration in (None, EMPTY):
        close(*(passage_attention(model, PROMPT, PASSAGES, calibration=calibration) for model in (eager, fused)))


@pytest.mark.parametrize("heads", [{1: []}, {0: [3, 1]}, {0: [2], 1: [0, 1, 3]}])
def test_the_mean_is_over_the_heads_that_are_asked_for(build, heads):
    model = build("llama")
    own = maps(model, IDS)[:, :, 12:15].mean(2)
    wanted = torch.cat([own[layer][chosen or slice(None)] for layer, chosen in heads.items()]).mean(0)
    close(token_attention(model, PROMPT, heads=heads), wanted)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma2", "gpt_oss"])
def test_calibration_subtracts_token_by_token_and_reading_the_passages_once_changes_nothing(build, kind):
    model = build(kind)
    gained = token_attention(model, PROMPT)[:11] - token_attention(model, EMPTY)[:11]
    found = passage_attention(model, PROMPT, PASSAGES, calibration=EMPTY, outliers=1e6)
    close(found, sums(gained))
    assert found.abs().max() > 1e-3


def test_the_passages_are_read_once_for_both_questions(build):
    read = []
    model = build("llama")
    model.get_input_embeddings().register_forward_hook(lambda _, given, made: read.append(given[0].shape[1]))
    passage_attention(model, PROMPT, PASSAGES, calibration=EMPTY)
    assert read == [11, len(EMPTY.ids) - 11, len(IDS) - 11]


def test_tokens_far_below_their_passages_mean_are_left_out_as_worked_out_by_hand(build, monkeypatch):
    shares = iter([torch.tensor([0.1] * 4 + [0.9]), torch.tensor([0.3] * 4 + [0.2])])  # without content, then with it
    monkeypatch.setattr("retort.teachers.causal.attention.token_attention", lambda *_, **__: next(shares))
    prompt = Looking([5, 6, 7, 8, 9, 10], [5])
    found = passage_attention(build("gpt2"), prompt, [range(5)], calibration=prompt, outliers=1.5)
    # gained .2 four times and -.7: mean .02, deviation .36, so that -.7 lies two deviations below
    torch.testing.assert_close(found, torch.tensor([0.8]))


def test_a_question_that_is_its_own_calibration_gains_nothing(build):
    model = build("llama")
    found = passage_attention(model, PROMPT, PASSAGES, calibration=PROMPT)
    assert found.abs().max() < 1e-6
    assert passage_attention(model, PROMPT, PASSAGES).min() > 0


def test_a_passage_without_a_token_gets_nothing(build):
    spans = [range(3, 3), range(4, 7)]
    for calibration in (None, EMPTY):
        assert passage_attention(build("llama"), PROMPT, spans, calibration=calibration)[0] == 0


def test_the_table_of_kernels_is_as_before_and_other_models_are_not_watched(build):
    before = {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS}
    model, other, seen = build("llama"), build("gpt2"), []
    with watched(model, lambda *given: seen.append(given)):
        maps(other, IDS)
        assert not seen
        maps(model, IDS)
        assert len(seen) == 2
    with watched(model, lambda *given: 1 / 0), pytest.raises(ZeroDivisionError):
        maps(model, IDS)
    assert {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS} == before


@pytest.mark.parametrize("rows", [[], [16], [-1]])
def test_positions_that_are_not_there_are_refused(build, rows):
    with pytest.raises(ValueError, match="expected one or more from 0 to 15"):
        token_attention(build("gpt2"), Looking(IDS, rows))


def test_heads_and_layers_that_are_not_there_are_refused(build):
    with pytest.raises(ValueError, match=r"heads \[0, 4\] of layer 1 are asked for, it has 4: choose from 0 to 3"):
        token_attention(build("llama"), PROMPT, heads={1: [0, 4]})
    with pytest.raises(ValueError, match=r"heads of layers \[2\] are asked for, attention is in layers \[0, 1\]"):
        token_attention(build("llama"), PROMPT, heads={2: []})


def test_a_model_with_attention_of_its_own_is_refused(build):
    model = build("gpt2")
    for block in model.transformer.h:
        block.attn.reorder_and_upcast_attn = True
    with pytest.raises(TypeError, match="GPT2LMHeadModel called no attention through transformers' attention interface"):
        token_attention(model, PROMPT)


def test_a_calibration_with_other_passages_is_refused(build):
    with pytest.raises(ValueError, match="differ within the first 11 tokens, expected the same passages"):
        passage_attention(build("gpt2"), PROMPT, PASSAGES, calibration=Looking([5, *IDS], range(14, 15)))
