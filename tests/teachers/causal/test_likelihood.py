"""Log-probabilities of continuations: by hand, and against one plain forward pass of the model for each row."""

import functools

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from retort.teachers.causal.likelihood import continuation_log_probs, shared_lengths

DRAW = torch.Generator().manual_seed(0)


def drawn(*lengths):
    return [torch.randint(5, 240, (length,), generator=DRAW).tolist() for length in lengths]


START = drawn(9)[0]
MIXED = [START + rest for rest in drawn(4, 11, 1, 6)] + drawn(1, 3)  # some share their beginning; one of a single token
BEGUN = [START + rest for rest in drawn(4, 11, 1, 6)]
TWICE = [prompt for prompt in drawn(8, 12, 5) for _ in range(3)]
ROWS = {"mixed": MIXED, "begun": BEGUN, "twice": TWICE}


def continuations(prompts):
    return drawn(*(1 + i % 4 for i in range(len(prompts))))


def plain(model, prompts, scored):
    """One row at a time, without padding, cache or cut logits."""
    found = []
    for prompt, tokens in zip(prompts, scored, strict=True):
        with torch.no_grad():
            log_probs = model(input_ids=torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
        found.append(log_probs[len(prompt) - 1 : -1].gather(1, torch.tensor(tokens)[:, None])[:, 0])
    return torch.cat(found)


def close(found, wanted):
    torch.testing.assert_close(torch.cat(found), wanted, atol=1e-5, rtol=1e-5)


def test_a_model_without_weights_finds_every_token_as_likely(build):
    model = build("gpt2", 50)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    first, second = continuation_log_probs(model, [[1], [2, 3]], [[4, 5, 6], [7]], pad=0)
    close([first, second], torch.full((4,), -(torch.tensor(50.0).log().item())))
    assert [len(first), len(second)] == [3, 1]


def test_tokens_are_foretold_from_the_ones_before_them_as_worked_out_by_hand():
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=4, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1)
    ).eval()
    after = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25], [0.5, 0.2, 0.2, 0.1]])
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(4))  # which the norm doubles: a row's root mean square is 1/2
        model.lm_head.weight.copy_(after.log().T / 2)
    [found] = continuation_log_probs(model, [[2, 1]], [[3, 0, 0]], pad=0)  # p(3 | 1), p(0 | 3), p(0 | 0)
    torch.testing.assert_close(found, torch.tensor([0.4, 0.5, 0.7]).log(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("kind", "kernel"), [("llama", "eager"), ("llama", "sdpa"), ("gpt2", "sdpa"), ("mistral", "sdpa")])
def test_batches_and_shared_prefixes_change_nothing_on_whichever_side_the_pads_are(build, kind, kernel, rows):
    model, prompts = build(kind, kernel=kernel), ROWS[rows]
    scored = continuations(prompts)
    wanted = plain(model, prompts, scored)
    for share in (True, False):
        for padding in ("right",) if kind == "mistral" else ("right", "left"):
            for batch_tokens in (1, 40, 10_000):
                close(
                    continuation_log_probs(
                        model, prompts, scored, pad=0, padding=padding, batch_tokens=batch_tokens, share_prefixes=share
                    ),
                    wanted,
                )


def watched(model, prompts, scored, **options):
    """The shapes of the model's inputs, and of what becomes logits."""
    inputs, logits = [], []
    hooks = [
        model.get_input_embeddings().register_forward_hook(lambda _, given, made: inputs.append(tuple(given[0].shape))),
        model.get_output_embeddings().register_forward_hook(lambda _, given, made: logits.append(tuple(made.shape))),
    ]
    continuation_log_probs(model, prompts, scored, pad=0, **options)
    for hook in hooks:
        hook.remove()
    return inputs, logits


def test_what_prompts_begin_with_is_read_once_for_all_batches(build):
    scored = [[7]] * len(BEGUN)
    inputs, _ = watched(build("llama"), BEGUN, scored, batch_tokens=25)
    assert inputs == [(1, 9), (1, 11), (1, 6), (1, 4), (1, 1)]


def test_a_prompt_with_several_continuations_is_read_once(build):
    scored = continuations(TWICE)
    inputs, _ = watched(build("llama"), TWICE, scored)
    assert inputs == [(3, 11), (9, 4)]  # all but the last token of each prompt; then that and the continuation
    inputs, _ = watched(build("llama"), TWICE, scored, share_prefixes=False)
    assert inputs == [(9, 15)]


def test_logits_are_made_where_continuations_are_foretold_only(build):
    prompts, scored = drawn(12, 12), drawn(3, 3)
    inputs, logits = watched(build("llama"), prompts, scored)
    assert inputs == [(2, 14)]
    assert logits == [(2, 3, 240)]


def test_no_batch_is_wider_than_allowed_with_its_prefixes(build):
    prompts = [START + rest for rest in drawn(*range(1, 9))]
    inputs, _ = watched(build("llama"), prompts, [[7, 8]] * 8, batch_tokens=50)
    assert inputs[0] == (1, 9)
    assert len(inputs) > 3
    assert all(rows * (9 + columns) <= 50 for rows, columns in inputs[1:])


def test_no_rows_give_nothing(build):
    assert continuation_log_probs(build("gpt2"), [], [], pad=0) == []


def test_the_plan_that_reads_the_fewest_tokens_is_taken():
    def planned(prompts):
        return shared_lengths(prompts, [[*prompt, 1] for prompt in prompts])

    apart, same = [[5, 6, 7, 8], [6, 6, 7, 8]], [[5, 6, 7, 8]] * 2
    assert planned(apart) == [0, 0]
    assert planned(same) == [3, 3]
    assert planned([[9, 9, *prompt] for prompt in apart]) == [2, 2]
    assert planned([[9, *prompt] for prompt in (*apart, *apart)]) == [4, 4, 4, 4]
    assert planned([]) == []
    long = [[9, *range(20, 30)], [9, *range(50, 60)]]  # one token in twenty-four
    assert planned(long) == [0, 0]


@pytest.mark.parametrize(("prompts", "scored"), [([[1], []], [[2], [2]]), ([[1], [1]], [[2], []])])
def test_an_empty_prompt_or_continuation_is_refused(build, prompts, scored):
    with pytest.raises(ValueError, match=r"row 1 has a prompt of \d tokens and a continuation of \d, expected 1 or more"):
        continuation_log_probs(build("gpt2"), prompts, scored, pad=0)


def test_a_model_that_keeps_no_prefix_says_how_to_go_without(build, monkeypatch):
    model = build("gpt2")
    forward = model.forward

    @functools.wraps(forward)
    def forgetful(**inputs):
        output = forward(**inputs)
        output.past_key_values = None
        return output

    monkeypatch.setattr(model, "forward", forgetful)
    with pytest.raises(TypeError, match="keeps no keys and values of a prefix to go on from: set share_prefixes to False"):
        continuation_log_probs(model, TWICE, continuations(TWICE), pad=0)
    assert len(continuation_log_probs(model, TWICE, continuations(TWICE), pad=0, share_prefixes=False)) == len(TWICE)
