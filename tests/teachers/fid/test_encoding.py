import pytest
import torch

from retort.teachers.fid.encoding import encode_passages

KINDS = ["t5", "bart", "bert"]


def close(found, wanted, atol=2e-6):
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_each_string_is_encoded_as_if_it_were_alone(readers, passages, kind):
    model, (ids, mask) = readers[kind].model, passages
    with torch.no_grad():
        states = encode_passages(model, ids, mask)
        for row, passage in [(0, 0), (0, 3), (1, 1)]:
            real = int(mask[row, passage].sum())
            alone = model.get_encoder()(input_ids=ids[row, passage, None, :real]).last_hidden_state[0]
            close(states[row, passage, :real], alone)


@pytest.mark.parametrize("kind", KINDS)
def test_states_and_gradients_do_not_depend_on_the_size_of_a_chunk(readers, passages, kind):
    model, (ids, mask) = readers[kind].model, passages
    direction = torch.randn(2, 4, 7, 24, generator=torch.Generator().manual_seed(1))
    found = []
    for chunk_tokens in (1, 9, 14, 8192):
        model.zero_grad()
        states = encode_passages(model, ids, mask, chunk_tokens=chunk_tokens)
        (states * direction).sum().backward()
        gradients = {name: p.grad for name, p in model.get_encoder().named_parameters() if p.grad is not None}
        found.append((states.detach(), gradients))
    model.zero_grad()
    assert len(found[0][1]) > 10
    for states, gradients in found[1:]:
        close(states, found[0][0])
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], atol=2e-4, rtol=1e-4)


def test_no_chunk_is_larger_than_asked_for_unless_it_is_one_string(readers, passages, monkeypatch):
    encoder, shapes = readers["bert"].model.get_encoder(), []
    forward = encoder.forward
    monkeypatch.setattr(
        encoder, "forward", lambda input_ids, **rest: shapes.append(input_ids.shape) or forward(input_ids, **rest)
    )
    encode_passages(readers["bert"].model, *passages, chunk_tokens=13)
    assert all(len(shape) == 2 and (shape.numel() <= 13 or shape[0] == 1) for shape in shapes)
    assert sum(shape[0] for shape in shapes) == 8


def test_pads_and_missing_passages_have_states_of_zero_and_are_not_encoded(readers, passages, monkeypatch):
    (ids, mask), encoder, encoded = passages, readers["bert"].model.get_encoder(), []
    mask = mask.clone()
    mask[0, 1] = 0
    forward = encoder.forward
    monkeypatch.setattr(
        encoder, "forward", lambda input_ids, **rest: encoded.append(len(input_ids)) or forward(input_ids, **rest)
    )
    states = encode_passages(readers["bert"].model, ids, mask)
    assert sum(encoded) == 7
    assert states[~mask.bool()].abs().sum() == 0
    assert (states[mask.bool()].abs().sum(-1) > 0).all()


def test_strings_without_any_token_are_refused(readers):
    nothing = torch.zeros(2, 3, 4).long()
    with pytest.raises(ValueError, match="none of the 2 x 3 passage strings has a token"):
        encode_passages(readers["bert"].model, nothing, nothing)


def test_padding_on_the_left_is_refused(readers, passages):
    ids, mask = passages
    with pytest.raises(ValueError, match="pads on the right"):
        encode_passages(readers["bert"].model, ids.flip(-1), mask.flip(-1))
