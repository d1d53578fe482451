"""A reader that keeps the cross-attention bias of transformers 3.0.2 gives the published numbers exactly."""

import pytest
import torch

from ancestors import small_tokenizer
from retort.teachers.fid.attention import passage_scores
from retort.teachers.fid.bias import REMOVED_BIAS, keep_bias, kept_bias
from retort.teachers.fid.checkpoints import imported_reader
from retort.teachers.fid.decoding import IGNORED
from retort.teachers.fid.encoding import encode_passages
from retort.teachers.fid.likelihood import loop
from retort.teachers.fid.loading import load_reader, load_t5, save_reader

pytestmark = pytest.mark.usefixtures("_no_grad")


@pytest.fixture(scope="module")
def exact(golden, golden_weights, tmp_path_factory):
    """The golden reader with its bias."""
    tokenizer = small_tokenizer(tmp_path_factory.mktemp("tokenizer"), end="</s>")
    reader, dropped = imported_reader(golden_weights, tokenizer, golden["cfg"], with_bias=True)
    assert dropped == ()
    return reader.eval()


def test_raw_labels_are_the_published_ones_to_the_constant(exact, golden, golden_inputs):
    scores = passage_scores(exact.model, *golden_inputs)
    torch.testing.assert_close(scores, torch.tensor(golden["scores"]), atol=5e-6, rtol=0)


def test_the_training_loss_is_the_published_one(exact, golden, golden_inputs):
    labels = torch.tensor(golden["labels"])
    loss = -exact(*golden_inputs, labels).sum() / (labels != IGNORED).sum()
    assert float(loss) == pytest.approx(5.01531, abs=5e-6)  # 5.02896 without (methods 2.3)


def test_greedy_answers_are_the_published_ones(exact, golden, golden_inputs):
    answers = exact.generate(*golden_inputs, max_tokens=5)
    assert answers.tolist() == [row[1:] for row in golden["gen"]]


def test_with_a_cache_the_bias_is_that_of_the_same_position(exact, golden_inputs):
    states, target = encode_passages(exact.model, *golden_inputs), torch.tensor([[0, 9, 8, 7], [0, 6, 5, 4]])
    whole, _ = exact.next_token(states, *golden_inputs, target)
    past = None
    for step in range(4):
        one, past = exact.next_token(states, *golden_inputs, target[:, step : step + 1], past, cached=True)
        torch.testing.assert_close(one[:, 0], whole[:, step], atol=5e-6, rtol=0)


def test_leaving_one_out_by_a_mask_keeps_the_places_of_the_others(exact, golden, golden_inputs):
    """As the reference does: a passage that is masked still stands there, so the bias of the others stays."""
    (ids, mask), labels = golden_inputs, torch.tensor(golden["labels"])
    states = encode_passages(exact.model, ids, mask)
    found = loop(exact, ids, mask, labels)
    present = mask.bool().any(-1).all(0).nonzero().flatten().tolist()
    assert len(present) > 1
    for passage in present:
        rest = mask.clone()
        rest[:, passage] = 0
        wanted = -exact.target_log_probs(states, ids, rest, labels).sum(-1) / (labels != IGNORED).sum(-1)
        torch.testing.assert_close(found[:, passage], wanted, atol=1e-5, rtol=0)


def test_a_saved_reader_keeps_its_bias(exact, golden_inputs, tmp_path):
    save_reader(exact, tmp_path)
    again = load_reader(tmp_path).eval()
    assert torch.equal(kept_bias(again.model), kept_bias(exact.model))
    assert torch.equal(passage_scores(again.model, *golden_inputs), passage_scores(exact.model, *golden_inputs))


def test_a_reader_whose_file_of_the_bias_is_gone_is_refused(exact, tmp_path):
    save_reader(exact, tmp_path)
    (tmp_path / "cross_attention_bias.safetensors").unlink()
    with pytest.raises(ValueError, match=r"cross_attention_bias.safetensors cannot be read \(.*\), expected what a saved"):
        load_reader(tmp_path)


def test_the_bias_is_trained(golden, golden_weights, golden_inputs):
    model = load_t5(golden_weights, golden["cfg"])
    keep_bias(model, golden_weights[REMOVED_BIAS])
    with torch.enable_grad():
        passage_scores(model, *golden_inputs).sum().backward()
    assert kept_bias(model).grad.abs().sum() > 0


def test_a_reader_without_the_bias_cannot_keep_it(exact, golden, golden_weights):
    few = {name: value for name, value in golden_weights.items() if name != REMOVED_BIAS}
    with pytest.raises(ValueError, match=r"bias is to be kept, but there is no decoder.block.0.*leave --keep-bias out"):
        imported_reader(few, exact.tokenizer, golden["cfg"], with_bias=True)
