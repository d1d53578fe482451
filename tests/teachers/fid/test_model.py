import pytest
import torch
from torch.nn.functional import cross_entropy

from retort.teachers.fid.decoding import start_token
from retort.teachers.fid.encoding import encode_passages
from retort.teachers.fid.model import IGNORED, Reader, end_token
from tiny import tiny_reader

KINDS = ["t5", "bart", "bert"]
LABELS = torch.tensor([[25, 30, 57, 34, 3], [38, 37, 3, IGNORED, IGNORED]])

pytestmark = pytest.mark.usefixtures("_no_grad")


@pytest.fixture(scope="session")
def golden_reader(golden_t5, tokenizer):
    """The golden T5; its pad is 0 like the tokeniser's, and it never generates its end token."""
    return Reader(golden_t5, tokenizer)


def close(found, wanted, atol=2e-6):
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=found.dtype), atol=atol, rtol=0)


# ---- likelihood


def test_the_loss_equals_the_published_one_without_the_removed_bias(golden, golden_reader, golden_inputs):
    labels = torch.tensor(golden["labels"])
    log_probs = golden_reader(*golden_inputs, labels)
    close(-log_probs.sum() / (labels != IGNORED).sum(), 5.0289626)


@pytest.mark.parametrize("kind", KINDS)
def test_one_passage_gives_the_loss_of_the_plain_encoder_decoder(readers, passages, kind):
    ids, mask = (tensor[:, 1] for tensor in passages)
    reader = readers[kind]
    start = torch.full((2, 1), start_token(reader.model))
    before = torch.cat([start, LABELS[:, :-1].masked_fill(LABELS[:, :-1] == IGNORED, 0)], 1)
    logits = reader.model(input_ids=ids, attention_mask=mask, decoder_input_ids=before).logits
    wanted = cross_entropy(logits.transpose(1, 2), LABELS, reduction="none")
    close(reader(ids[:, None], mask[:, None], LABELS), -wanted)


@pytest.mark.parametrize("kind", [*KINDS, "copying"])
def test_padding_of_a_target_costs_nothing_and_changes_nothing(readers, passages, kind):
    ids, mask = passages
    whole = readers[kind](ids, mask, LABELS)
    assert whole[LABELS == IGNORED].tolist() == [0.0, 0.0]
    close(readers[kind](ids[1:], mask[1:], LABELS[1:, :3]), whole[1:, :3])


@pytest.mark.parametrize("kind", [*KINDS, "copying"])
def test_the_likelihood_of_an_answer_does_not_depend_on_the_order_of_passages(readers, passages, kind):
    ids, mask = passages
    order = torch.tensor([3, 1, 0, 2])
    close(readers[kind](ids[:, order], mask[:, order], LABELS), readers[kind](ids, mask, LABELS), atol=5e-6)


# ---- greedy answers


def test_greedy_answers_equal_the_published_ones(golden, golden_reader, golden_inputs):
    answers = golden_reader.generate(*golden_inputs, max_tokens=5)
    assert answers.tolist() == [row[1:] for row in golden["gen"]]  # the published rows begin with the start token


@pytest.mark.parametrize("kind", [*KINDS, "copying"])
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_with_a_cache_is_greedy_without(tokenizer, passages, kind, seed):
    reader = tiny_reader("bert" if kind == "copying" else kind, tokenizer, copies=kind == "copying", seed=seed)
    states = encode_passages(reader.model, *passages)
    tokens = torch.full((2, 1), start_token(reader.model))
    for _ in range(6):
        log_probs, cache = reader.next_token(states, *passages, tokens)
        assert cache is None
        tokens = torch.cat([tokens, log_probs[:, -1:].argmax(-1)], 1)
    assert end_token(reader) not in tokens
    assert reader.generate(*passages, max_tokens=6).tolist() == tokens[:, 1:].tolist()


@pytest.mark.parametrize("kind", [*KINDS, "copying"])
def test_the_cache_gives_the_same_probabilities_at_each_step(readers, passages, kind):
    reader, target = readers[kind], torch.tensor([[3, 90, 80, 70], [3, 60, 50, 40]])
    states = encode_passages(reader.model, *passages)
    whole, _ = reader.next_token(states, *passages, target)
    past = None
    for step in range(4):
        one, past = reader.next_token(states, *passages, target[:, step : step + 1], past, cached=True)
        close(one[:, 0], whole[:, step], atol=5e-6)


def test_an_answer_ends_at_its_end_token_and_pads_follow(readers, passages, monkeypatch):
    script = torch.tensor([[50, 3, 60], [51, 52, 3]])
    reader = readers["t5"]

    def scripted(states, ids, mask, before, past=None, *, cached=False):
        step = 0 if past is None else past
        log_probs = torch.full((2, 1, 200), -9.0).scatter(-1, script[:, step, None, None], 0.0)
        return log_probs, step + 1

    monkeypatch.setattr(reader, "next_token", scripted)
    assert reader.generate(*passages, max_tokens=20).tolist() == [[50, 3, 0], [51, 52, 3]]
    assert reader.generate(*passages, max_tokens=2).tolist() == [[50, 3], [51, 52]]


def test_equal_probabilities_go_to_the_lowest_id(readers, passages, monkeypatch):
    def level(states, ids, mask, before, past=None, *, cached=False):
        return torch.zeros(2, 1, 200), None

    monkeypatch.setattr(readers["t5"], "next_token", level)
    assert readers["t5"].generate(*passages, max_tokens=1).tolist() == [[0], [0]]


def test_a_reader_without_an_end_token_is_refused(tokenizer):
    reader = tiny_reader("t5", tokenizer)
    reader.model.config.eos_token_id = None
    assert end_token(reader) == tokenizer.sep_token_id
    reader.tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="names no end token"):
        end_token(reader)


# ---- copying


def test_the_probabilities_of_a_copying_reader_sum_to_one(readers, passages):
    states = encode_passages(readers["copying"].model, *passages)
    log_probs, _ = readers["copying"].next_token(states, *passages, torch.tensor([[2, 8, 9], [2, 60, 7]]))
    close(log_probs.exp().sum(-1), torch.ones(2, 3), atol=1e-5)


def test_a_copying_reader_mixes_its_vocabulary_with_its_last_attention(readers, passages):
    """See et al. 2017, eq. 8-9: p = (1 - g) p_vocabulary + g sum of the attention on tokens of that word."""
    (ids, mask), reader, target = passages, readers["copying"], torch.tensor([[2, 8], [2, 60]])
    reader.model.set_attn_implementation("eager")
    try:
        plain = reader.model(
            encoder_outputs=(encode_passages(reader.model, ids, mask).view(2, 28, -1),),
            attention_mask=mask.view(2, 28),
            decoder_input_ids=target,
            output_attentions=True,
            output_hidden_states=True,
        )
    finally:
        reader.model.set_attn_implementation("sdpa")
    attention = plain.cross_attentions[-1].mean(1)
    gate = torch.sigmoid(reader.gate(plain.decoder_hidden_states[-1]))
    words = torch.nn.functional.one_hot(ids.view(2, 28), len(reader.tokenizer)).float()
    wanted = (1 - gate) * plain.logits.softmax(-1) + gate * attention @ words
    labels = torch.tensor([[8, int(ids[0, 0, 0])], [60, int(ids[1, 1, 2])]])  # 8 and 60 as inputs above, then passage words
    found = reader(ids, mask, labels)
    close(found, wanted.gather(-1, labels[..., None])[..., 0].log(), atol=1e-5)
    assert (gate > 0.05).all()
    assert (gate < 0.95).all()


def test_the_gate_of_a_copying_reader_gets_a_gradient(readers, passages):
    with torch.enable_grad():
        readers["copying"](*passages, LABELS).sum().backward()
    assert readers["copying"].gate.weight.grad.abs().sum() > 0
    readers["copying"].zero_grad()
