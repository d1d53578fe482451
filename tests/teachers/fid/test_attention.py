import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from retort.teachers.fid.attention import passage_scores, scores_from_states
from retort.teachers.fid.capture import captured_scores
from retort.teachers.fid.decoding import start_token
from retort.teachers.fid.encoding import encode_passages

BIAS = 0.2286353  # what the cross-attention bias of transformers 3.0.2 adds to every raw score of the golden file
KINDS = ["t5", "bart", "bert"]

pytestmark = pytest.mark.usefixtures("_no_grad")


def close(found, wanted, atol=2e-6):
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=found.dtype), atol=atol, rtol=0)


def table():
    return {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS}


# ---- the published numbers


def test_the_label_equals_the_published_one_up_to_its_constant_bias(golden, golden_t5, golden_inputs):
    scores = passage_scores(golden_t5, *golden_inputs)
    close(scores.double().softmax(-1), golden["softmax"], atol=1e-6)
    close(scores + BIAS, golden["scores"], atol=5e-6)


def test_the_label_is_the_mean_over_layers_heads_and_real_tokens_as_worked_out_by_hand():
    config = T5Config(vocab_size=2, d_model=2, d_kv=1, d_ff=2, num_layers=1, num_heads=2, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).eval()
    block = model.decoder.block[0].layer
    model.shared.weight.copy_(torch.ones(2, 2))
    block[0].SelfAttention.o.weight.zero_()  # so that the query of each head is 1 and the scores are the states themselves
    for part in (block[1].EncDecAttention.q, block[1].EncDecAttention.k):
        part.weight.copy_(torch.eye(2))
    states = torch.tensor([[[[1, 3], [2, 0], [9, 9]], [[0, 2], [0, 0], [0, 0]]]]).float()
    scores = scores_from_states(model, states, torch.tensor([[[1, 1, 0], [1, 1, 1]]]))
    close(scores, [[1.5, 1 / 3]])
    close(scores.softmax(-1), [[0.7625420, 0.2374580]], atol=1e-6)


def test_the_label_is_the_absorbed_query_times_the_mean_pooled_states(golden, golden_t5, golden_weights, golden_inputs):
    ids, mask = golden_inputs
    states = encode_passages(golden_t5, ids, mask).double().numpy()
    weights = {name: value.double().numpy() for name, value in golden_weights.items()}
    found = [linear_identity(weights, *pair) for pair in zip(states, mask.bool().numpy(), strict=True)]
    close(passage_scores(golden_t5, ids, mask), np.stack(found), atol=2e-6)


def linear_identity(weights, states, mask, layers=3, heads=4, width=8):
    """G of one question from the weights alone, in numpy: only the decoder's state needs single tokens (methods 2.3)."""

    def norm(state, name):
        return state / np.sqrt((state**2).mean() + 1e-6) * weights[f"{name}.layer_norm.weight"]

    tokens, means = states[mask], np.stack([rows[real].mean(0) for rows, real in zip(states, mask, strict=True)])
    state, scores = weights["shared.weight"][0], np.zeros(len(states))
    for layer in range(layers):
        name = f"decoder.block.{layer}.layer"
        own, cross, dense = (f"{name}.{part}" for part in ("0.SelfAttention", "1.EncDecAttention", "2.DenseReluDense"))
        value = weights[f"{own}.v.weight"] @ norm(state, f"{name}.0")  # one position attends to itself alone
        state = state + weights[f"{own}.o.weight"] @ value
        query = (weights[f"{cross}.q.weight"] @ norm(state, f"{name}.1")).reshape(heads, width)
        absorbed = np.einsum("hw,hwd->hd", query, weights[f"{cross}.k.weight"].reshape(heads, width, -1))
        scores += (means @ absorbed.T).sum(-1) / (layers * heads)
        logits = absorbed @ tokens.T
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        seen = shares / shares.sum(-1, keepdims=True) @ tokens
        context = np.einsum("hd,hwd->hw", seen, weights[f"{cross}.v.weight"].reshape(heads, width, -1)).reshape(-1)
        state = state + weights[f"{cross}.o.weight"] @ context
        inner = np.maximum(weights[f"{dense}.wi.weight"] @ norm(state, f"{name}.2"), 0)
        state = state + weights[f"{dense}.wo.weight"] @ inner
    return scores


# ---- properties (methods 10), on every kind of encoder-decoder


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_the_passages_permutes_the_label(readers, passages, kind):
    ids, mask = passages
    order = torch.tensor([2, 0, 3, 1])
    scores = passage_scores(readers[kind].model, ids, mask)
    close(passage_scores(readers[kind].model, ids[:, order], mask[:, order]), scores[:, order])


@pytest.mark.parametrize("kind", KINDS)
def test_more_padding_changes_no_label(readers, passages, kind):
    ids, mask = passages
    wider = [torch.nn.functional.pad(tensor, (0, 5)) for tensor in (ids, mask)]
    close(passage_scores(readers[kind].model, *wider), passage_scores(readers[kind].model, ids, mask))


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_pads_changes_no_label(readers, passages, kind):
    ids, mask = passages
    close(passage_scores(readers[kind].model, ids + 9 * (1 - mask), mask), passage_scores(readers[kind].model, ids, mask))


@pytest.mark.parametrize("kind", KINDS)
def test_a_duplicate_gets_its_twins_label_and_moves_the_others(readers, passages, kind):
    ids, mask = passages
    twice = torch.tensor([0, 1, 2, 3, 0])
    alone, scores = (
        passage_scores(readers[kind].model, ids, mask),
        passage_scores(readers[kind].model, ids[:, twice], mask[:, twice]),
    )
    close(scores[:, 4], scores[:, 0], atol=1e-6)
    assert (scores[:, 1:4] - alone[:, 1:4]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_gets_the_same_label_alone_and_in_a_batch(readers, passages, kind):
    ids, mask = passages
    alone = torch.cat([passage_scores(readers[kind].model, ids[row : row + 1], mask[row : row + 1]) for row in (0, 1)])
    close(passage_scores(readers[kind].model, ids, mask), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_passage_gets_minus_infinity_and_changes_nothing(readers, passages, kind):
    ids, mask = passages
    added = [torch.cat([tensor[:, :2], torch.zeros(2, 1, 7).long(), tensor[:, 2:]], 1) for tensor in (ids, mask)]
    scores = passage_scores(readers[kind].model, *added)
    assert scores[:, 2].tolist() == [-torch.inf, -torch.inf]
    close(scores[:, [0, 1, 3, 4]], passage_scores(readers[kind].model, ids, mask))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_position_of_a_teacher_forced_pass_gives_the_same_label_whatever_the_answer(readers, passages, kind):
    ids, mask = passages
    model, states = readers[kind].model, encode_passages(readers[kind].model, ids, mask)
    for answer in ([11, 12, 13], [90, 80, 70]):
        layers = []
        with captured_scores(model, lambda scores, _, to=layers: to.append(scores.mean(1)[:, 0]), 28):
            readers[kind].next_token(states, ids, mask, torch.tensor([[start_token(model), *answer]] * 2))
        tokens = torch.stack(layers).mean(0).view(2, 4, 7)
        close((tokens * mask).sum(-1) / mask.sum(-1), passage_scores(model, ids, mask))


@pytest.mark.parametrize("kind", KINDS)
def test_the_share_of_attention_is_the_models_own_and_adds_up_to_one(readers, passages, kind):
    """What transformers' eager kernel gives as cross-attentions of the first position, summed over each passage's tokens."""
    model, (ids, mask) = readers[kind].model, passages
    shares = passage_scores(model, ids, mask, stage="post_softmax", tokens="sum")
    close(shares.sum(-1), torch.ones(2))
    encoded = BaseModelOutput(last_hidden_state=encode_passages(model, ids, mask).view(2, 28, -1))
    start = torch.full((2, 1), start_token(model))
    model.set_attn_implementation("eager")
    try:
        found = model(
            encoder_outputs=encoded, attention_mask=mask.view(2, 28), decoder_input_ids=start, output_attentions=True
        ).cross_attentions
    finally:
        model.set_attn_implementation("sdpa")
    close(shares, torch.stack(found).mean((0, 2))[:, 0].view(2, 4, 7).sum(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mean_over_tokens_is_the_sum_divided_by_their_number(readers, passages, kind):
    model, (ids, mask) = readers[kind].model, passages
    for stage in ("pre_softmax", "post_softmax"):
        mean, total = (passage_scores(model, ids, mask, stage=stage, tokens=tokens) for tokens in ("mean", "sum"))
        close(mean * mask.sum(-1), total, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_passage_gets_no_share_of_attention(readers, passages, kind):
    ids, mask = passages
    added = [torch.cat([tensor[:, :2], torch.zeros(2, 1, 7).long(), tensor[:, 2:]], 1) for tensor in (ids, mask)]
    options = {"stage": "post_softmax", "tokens": "sum"}
    shares = passage_scores(readers[kind].model, *added, **options)
    assert shares[:, 2].tolist() == [0.0, 0.0]
    close(shares[:, [0, 1, 3, 4]], passage_scores(readers[kind].model, ids, mask, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_eager_and_fused_attention_agree(readers, passages, kind):
    model = readers[kind].model
    fused = passage_scores(model, *passages)
    model.set_attn_implementation("eager")
    try:
        close(passage_scores(model, *passages), fused)
    finally:
        model.set_attn_implementation("sdpa")


# ---- reading the attention


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_scores_that_are_read_become_the_models_own_attention(readers, passages, kind, attention):
    """Their softmax is what transformers gives as cross-attentions, which only its eager kernel can."""
    reader, (ids, mask) = readers[kind], passages
    states, target = encode_passages(reader.model, ids, mask), torch.tensor([[3, 8, 9], [3, 60, 7]])
    real = mask.view(2, 1, 1, 28).bool()
    arguments = {"attention_mask": mask.view(2, 28), "decoder_input_ids": target}
    encoded, layers = BaseModelOutput(last_hidden_state=states.view(2, 28, -1)), []
    try:
        reader.model.set_attn_implementation(attention)
        with captured_scores(reader.model, lambda scores, _: layers.append(scores.masked_fill(~real, -1e9).softmax(-1)), 28):
            reader.model(encoder_outputs=encoded, **arguments)
        reader.model.set_attn_implementation("eager")
        wanted = reader.model(encoder_outputs=encoded, output_attentions=True, **arguments).cross_attentions
    finally:
        reader.model.set_attn_implementation("sdpa")
    assert len(layers) == len(wanted)
    for layer, weights in zip(layers, wanted, strict=True):
        close(layer, weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cached", [False, True])
def test_self_attention_over_as_many_positions_as_tokens_is_not_taken_for_cross_attention(readers, kind, cached):
    reader, ids = readers[kind], torch.tensor([[[5, 6], [7, 8]]])
    mask, target = torch.ones_like(ids), torch.tensor([[3, 9, 10, 11]])
    states = encode_passages(reader.model, ids, mask)
    steps, past = (target.split(1, dim=1) if cached else (target,)), None
    for step in steps:
        layers = []
        with captured_scores(reader.model, lambda scores, _, to=layers: to.append(scores), 4):
            _, past = reader.next_token(states, ids, mask, step, past, cached=cached)
        assert len(layers) == 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_table_of_attention_functions_comes_back_after_use_and_after_an_error(readers, passages, attention):
    model, before = readers["bart"].model, table()
    local = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
    try:
        model.set_attn_implementation(attention)
        passage_scores(model, *passages)
        assert table() == before
        with captured_scores(model, lambda scores, _: None, 4):
            assert table() != before
        with (
            pytest.raises(RuntimeError, match="invalid for input"),
            captured_scores(model, lambda scores, _: scores.view(1), 28),
        ):
            readers["bart"].generate(*passages, max_tokens=1)
        assert table() == before
        assert ALL_ATTENTION_FUNCTIONS._local_mapping == local
    finally:
        model.set_attn_implementation("sdpa")


def test_another_models_attention_is_not_read(readers, passages):
    layers = []
    with captured_scores(readers["t5"].model, lambda scores, _: layers.append(scores), 28):
        passage_scores(readers["bart"].model, *passages)
    assert layers == []


def test_a_users_own_kernel_is_called_and_stays_registered(readers, passages):
    calls = []

    def counting(*args, **kwargs):
        calls.append(1)
        return sdpa(*args, **kwargs)

    sdpa, wanted = ALL_ATTENTION_FUNCTIONS["sdpa"], passage_scores(readers["bert"].model, *passages)
    ALL_ATTENTION_FUNCTIONS["sdpa"] = counting
    try:
        close(passage_scores(readers["bert"].model, *passages), wanted)
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is counting
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert calls


def test_a_model_without_cross_attention_is_refused(passages):
    config = T5Config(
        vocab_size=200, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=0, num_heads=2, decoder_start_token_id=0
    )
    with pytest.raises(TypeError, match="called no cross-attention"):
        passage_scores(T5ForConditionalGeneration(config), *passages)


def test_the_start_token_of_either_config_goes_before_a_bos_token(tokenizer):
    config = T5Config(
        vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, bos_token_id=7, decoder_start_token_id=None
    )
    model = T5ForConditionalGeneration(config)
    assert start_token(model) == 7
    model.config.decoder_start_token_id = 4
    assert start_token(model) == 4
    model.generation_config.decoder_start_token_id = 5
    assert start_token(model) == 5


def test_a_model_without_start_token_is_refused():
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="names no decoder start token"):
        start_token(T5ForConditionalGeneration(config))
