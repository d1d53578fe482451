"""The whole grid of attention signals against Atlas's reference code, and by hand; ADist is one point of it."""

import gc
import inspect

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from retort.teachers.fid import attention
from retort.teachers.fid.attention import aggregated, passage_scores, scores_from_states, token_scores
from retort.teachers.fid.capture import captured_scores
from retort.teachers.fid.decoding import IGNORED
from retort.teachers.fid.encoding import encode_passages

QUANTITIES = {
    "scores": {"stage": "pre_softmax"},
    "probs": {"stage": "post_softmax"},
    "norms": {"stage": "post_softmax", "value_norm": True},
}
KINDS = ["t5", "bart", "bert"]
LABELS = torch.tensor([[11, 12, 13], [90, 80, IGNORED]])
every_quantity = pytest.mark.parametrize("quantity", QUANTITIES)

pytestmark = pytest.mark.usefixtures("_no_grad")


@pytest.fixture
def ours(golden_t5, atlas):
    """passage_scores on the reference's inputs, as float64."""
    ids, mask, labels = (torch.tensor(atlas[name]) for name in ("ids", "mask", "labels"))

    def scored(**options):
        return passage_scores(golden_t5, ids, mask, **{"labels": labels, "position": "all", **options}).double()

    return scored


def close(found, wanted, atol=1e-5):
    torch.testing.assert_close(found.double(), torch.as_tensor(wanted).double(), atol=atol, rtol=1e-5)


# ---- the 24 aggregates of the reference


@every_quantity
def test_the_mean_over_tokens_and_positions_is_the_references_avg(ours, atlas, quantity):
    close(ours(**QUANTITIES[quantity], tokens="mean"), atlas["xattn_all"][f"{quantity}avg"])


@every_quantity
def test_the_first_position_is_the_references_first(ours, atlas, quantity):
    close(ours(**QUANTITIES[quantity], position="first"), atlas["xattn_all"][f"{quantity}first"])


@every_quantity
def test_the_sum_is_the_references_but_for_its_division_by_256(ours, atlas, quantity):
    close(ours(**QUANTITIES[quantity], tokens="sum") / 256, atlas["xattn_all"][f"{quantity}sum"])


@every_quantity
def test_without_the_question_it_is_the_references_woquery_but_for_256(ours, atlas, quantity):
    question = torch.zeros(2, 4, 24, dtype=torch.bool)
    question[..., :2] = True  # the reference cuts as many positions as the query has, from the front
    found = ours(**QUANTITIES[quantity], tokens="sum", exclude=question)
    close(found / 256, atlas["xattn_all"][f"{quantity}woquery"])


@every_quantity
def test_the_references_nosep_keeps_the_separators_alone_and_ours_leaves_them_out(ours, atlas, quantity):
    separators = torch.tensor(atlas["ids"]) == 1
    options = {**QUANTITIES[quantity], "tokens": "sum"}
    kept, without = ours(**options, exclude=~separators), ours(**options, exclude=separators)
    close(kept / 256, atlas["xattn_all"][f"{quantity}nosep"])
    close(kept + without, ours(**options), atol=2e-5)


@pytest.mark.parametrize("count", [5, 10, 20])
@pytest.mark.parametrize("quantity", ["probs", "norms"])
def test_the_largest_tokens_are_the_references(ours, atlas, quantity, count):
    close(ours(**QUANTITIES[quantity], tokens=f"top{count}"), atlas["xattn_all"][f"{quantity}top{count}"])


@pytest.mark.parametrize("count", [5, 10, 20])
def test_in_the_reference_pads_outrank_tokens_of_negative_score_and_in_ours_they_do_not(golden_t5, ours, atlas, count):
    ids, mask, labels = (torch.tensor(atlas[name]) for name in ("ids", "mask", "labels"))
    states = encode_passages(golden_t5, ids, mask)
    tokens = token_scores(golden_t5, states, mask, labels=labels).masked_fill(~mask.bool()[:, None], 0.0)
    with_pads, real = tokens.topk(count).values.sum(-1) / count, (labels != IGNORED).float()
    reference = (with_pads * real[..., None]).sum(1) / real.sum(1)[:, None]
    close(reference, atlas["xattn_all"][f"scorestop{count}"])
    assert (ours(tokens=f"top{count}") <= reference + 1e-6).all()


# ---- by hand


@pytest.fixture
def hand():
    """One layer of two heads of width 1, whose keys and values are the state's two numbers, and whose queries are 1."""
    config = T5Config(
        vocab_size=4, d_model=2, d_kv=1, d_ff=2, num_layers=1, num_heads=2, decoder_start_token_id=0, eos_token_id=1
    )
    model = T5ForConditionalGeneration(config).eval()
    model.shared.weight.copy_(torch.ones(4, 2))
    block = model.decoder.block[0].layer
    block[0].SelfAttention.o.weight.zero_()  # so that every query of each head is 1
    for part in (block[1].EncDecAttention.q, block[1].EncDecAttention.k, block[1].EncDecAttention.v):
        part.weight.copy_(torch.eye(2))
    states = torch.tensor([[[[1, 3], [2, 0], [9, 9]], [[0, 2], [0, 0], [0, 0]]]]).float()
    return model, states, torch.tensor([[[1, 1, 0], [1, 1, 1]]])


def test_a_head_alone_is_its_own_scores(hand):
    close(scores_from_states(*hand, heads={0: [0]}), [[1.5, 0.0]])
    close(scores_from_states(*hand, heads={0: [1]}), [[1.5, 2 / 3]])
    close(scores_from_states(*hand, heads={0: [0, 1]}), scores_from_states(*hand))


def test_the_largest_token_of_each_passage(hand):
    close(scores_from_states(*hand, tokens="max"), [[2.0, 1.0]])
    close(scores_from_states(*hand, tokens="top2"), [[1.5, 0.5]])


def test_value_norms_weight_each_token_before_the_mean_over_heads(hand):
    """Head 0: 1 * 1 and 2 * 2; head 1: 3 * 3 and 0: token means 5 and 2. Passage 1: head 1 gives 2 * 2 to one token."""
    close(scores_from_states(*hand, value_norm=True), [[3.5, 2 / 3]])


def test_an_excluded_token_counts_neither_above_nor_below(hand):
    exclude = torch.tensor([[[True, False, False], [False, True, True]]])
    close(scores_from_states(*hand, exclude=exclude), [[1.0, 1.0]])


def test_a_passage_of_which_no_token_counts_is_told_apart(hand):
    exclude = torch.tensor([[[True, True, False], [False, False, False]]])
    assert scores_from_states(*hand, exclude=exclude)[0, 0] == -torch.inf
    assert scores_from_states(*hand, exclude=exclude, stage="post_softmax")[0, 0] == 0.0


def test_a_position_that_predicts_the_end_is_no_answer_position(readers, passages):
    """All positions are the answer's and the end's, in proportion to their number."""
    model, end = readers["t5"].model, readers["t5"].model.config.eos_token_id
    options = {"stage": "post_softmax", "tokens": "sum"}
    labels = torch.tensor([[11, 12, end], [90, end, IGNORED]])
    shares = token_scores(model, encode_passages(model, *passages), passages[1], labels=labels, stage="post_softmax").sum(-1)
    close(passage_scores(model, *passages, labels=labels, position="answer", **options)[0], shares[0, :2].mean(0))
    close(passage_scores(model, *passages, labels=labels, position="answer", **options)[1], shares[1, 0])
    close(passage_scores(model, *passages, labels=labels, position="all", **options)[1], shares[1, :2].mean(0))


# ---- properties


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", ["mean", "sum", "max", "top2"])
@every_quantity
def test_permuting_passages_padding_more_and_a_longer_batch_change_nothing(readers, passages, kind, tokens, quantity):
    model, (ids, mask), order = readers[kind].model, passages, torch.tensor([2, 0, 3, 1])
    options = {**QUANTITIES[quantity], "tokens": tokens, "position": "all"}
    found = passage_scores(model, ids, mask, labels=LABELS, **options)
    wider = [torch.nn.functional.pad(tensor, (0, 3)) for tensor in (ids[:, order], mask[:, order])]
    longer = torch.nn.functional.pad(LABELS, (0, 2), value=IGNORED)
    close(passage_scores(model, *wider, labels=longer, **options), found[:, order], atol=2e-6)
    alone = passage_scores(model, ids[1:], mask[1:], labels=LABELS[1:, :2], **options)
    close(alone, found[1:], atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_of_all_positions_depends_on_the_answer_and_on_eager_or_fused_attention_it_does_not(readers, passages, kind):
    model, options = readers[kind].model, {"position": "all", "stage": "post_softmax", "tokens": "sum", "value_norm": True}
    found = passage_scores(model, *passages, labels=LABELS, **options)
    assert (found - passage_scores(model, *passages, labels=LABELS + 1, **options)).abs().max() > 1e-6
    model.set_attn_implementation("eager")
    try:
        close(passage_scores(model, *passages, labels=LABELS, **options), found)
    finally:
        model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_single_layers_is_that_over_all(readers, passages, kind):
    model = readers[kind].model
    single = [passage_scores(model, *passages, heads={layer: []}) for layer in (0, 1)]
    close(torch.stack(single).mean(0), passage_scores(model, *passages))
    assert not torch.allclose(*single)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_all_heads_of_these_layers(readers, passages, kind):
    model = readers[kind].model
    for layers in ((1,), {0, 1}):
        wanted = passage_scores(model, *passages, heads={layer: [] for layer in layers})
        assert torch.equal(passage_scores(model, *passages, layers=layers), wanted)


def test_the_published_interface_is_the_beginning_of_the_signature():
    given = list(inspect.signature(passage_scores).parameters.values())[:10]
    assert [(one.name, one.kind.name == "KEYWORD_ONLY", one.default) for one in given] == [
        ("model", False, inspect.Parameter.empty), ("input_ids", False, inspect.Parameter.empty),
        ("attention_mask", False, inspect.Parameter.empty), ("labels", True, None), ("position", True, "first"),
        ("stage", True, "pre_softmax"), ("tokens", True, "mean"), ("value_norm", True, False), ("exclude", True, None),
        ("layers", True, None),
    ]  # fmt: skip


def test_no_more_maps_are_held_the_more_layers_there_are(monkeypatch):
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=6, num_heads=2, decoder_start_token_id=0)
    held = []

    def watching(model, see, source_tokens):
        def watched(scores, values):
            see(scores, values)
            held.append(sum(type(one) is torch.Tensor and one.shape == (1, 1, 6) for one in gc.get_objects()))

        return captured_scores(model, watched, source_tokens)

    monkeypatch.setattr(attention, "captured_scores", watching)
    passage_scores(T5ForConditionalGeneration(config).eval(), torch.ones(1, 2, 3).long(), torch.ones(1, 2, 3).long())
    assert held == [held[0]] * 6


@pytest.mark.parametrize("kind", KINDS)
def test_each_chosen_head_counts_alike_whatever_its_layer(readers, passages, kind):
    model = readers[kind].model
    single = [passage_scores(model, *passages, heads={layer: [head]}) for layer, head in ((0, 1), (1, 0), (1, 1))]
    close(torch.stack(single).mean(0), passage_scores(model, *passages, heads={0: [1], 1: []}))


def test_a_token_that_a_short_passage_lacks_counts_nothing():
    values, counted = torch.tensor([[2.0, 1.0, 5.0]]), torch.tensor([[True, True, False]])
    assert aggregated(values, counted, "top3").tolist() == [1.0]


# ---- refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": "all"}, "position 'all' is teacher-forced: give `labels`"),
        ({"tokens": "median"}, "tokens is 'median', expected mean, sum, max, or top and a number"),
        ({"tokens": "top0"}, "tokens is 'top0'"),
        ({"heads": {2: []}}, r"heads of layers \[2\] are asked for, attention is in layers \[0, 1\]: choose from these"),
        ({"heads": {}}, r"heads of layers \[\] are asked for"),
        ({"layers": [2]}, r"layers \[2\] are asked for, attention is in layers \[0, 1\]: choose from these"),
        ({"layers": [0], "heads": {1: []}}, r"layers \[0\] and heads \{1: \[\]\} are both given"),
        ({"heads": {1: [0, 9]}}, r"heads \[0, 9\] of layer 1 are asked for, it has \d: choose from 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(readers, passages, options, message):
    with pytest.raises(ValueError, match=message):
        passage_scores(readers["t5"].model, *passages, **options)


def test_answer_positions_without_an_end_token_are_refused(hand):
    model, states, mask = hand
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    with pytest.raises(ValueError, match="names no end token"):
        scores_from_states(model, states, mask, labels=torch.tensor([[2, 1]]), position="answer")
