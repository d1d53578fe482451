import weakref

import pytest
import torch

from retort.config import StudentModel
from retort.distil.batches import examples, make_batch
from retort.distil.caching import encode_batch
from retort.losses.listwise import kl
from retort.students.loading import load_student
from retort.students.stock import transformers_of
from retort.tensors import Encoded
from tiny import tiny_student, tiny_world

CORPUS, QUERIES, LABELS = tiny_world()
BATCH = make_batch(examples(LABELS, QUERIES, CORPUS).kept, CORPUS)
ALL = 1_000_000


@pytest.fixture(scope="module", params=[0.0, 0.2], ids=["without dropout", "with dropout"])
def student(request, tmp_path_factory):
    folder = tiny_student(tmp_path_factory.mktemp("model"), dropout=request.param)
    loaded = load_student(StudentModel(model=str(folder), query_tokens=20, passage_tokens=48))
    loaded.model.train()
    return loaded


def gradients(student, encode):
    torch.manual_seed(11)
    student.model.zero_grad()
    queries, passages = encode()
    scores = student.score(queries, passages, BATCH, frozenset({"scores"})).scores
    loss = kl(scores, BATCH.labels, BATCH.mask).mean()
    loss.backward()
    after = torch.rand(1)
    return loss.detach(), {name: p.grad.clone() for name, p in student.model.named_parameters() if p.grad is not None}, after


def plain(student, tokens):
    """The same chunks, each encoded once with its whole graph kept."""
    sides = []
    for records, side in ((BATCH.queries, "query"), (BATCH.passages, "passage")):
        parts = student.tokenise(records, side).buckets(tokens)
        sides.append(Encoded.joined([student.encode(part) for _, part in parts], [rows for rows, _ in parts]))
    return tuple(sides)


@pytest.mark.parametrize("tokens", [1, 8, 30, 64, 100, 1000])
def test_texts_fit_where_they_stand_in_one_bucket(tokens, student):
    for records, side in ((BATCH.queries, "query"), (BATCH.passages, "passage"), (BATCH.passages[:1], "passage")):
        texts = student.tokenise(records, side)
        assert texts.fits(tokens) == (len(texts.buckets(tokens)) == 1)


@pytest.mark.parametrize("tokens", [1, 30, 64, 150, ALL])
def test_cached_gradients_are_those_of_plain_backpropagation(tokens, student):
    loss, found, after = gradients(student, lambda: encode_batch(student, BATCH, tokens))
    expected_loss, expected, expected_after = gradients(student, lambda: plain(student, tokens))
    assert found.keys() == expected.keys()
    torch.testing.assert_close(loss, expected_loss, atol=0, rtol=0)
    torch.testing.assert_close(after, expected_after, atol=0, rtol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tokens", [1, 64, ALL])
def test_vectors_stand_in_the_order_of_the_batch(tokens, student):
    student.model.eval()
    with torch.no_grad():
        queries, passages = encode_batch(student, BATCH, tokens)
    expected = student.embed(BATCH.queries, "query"), student.embed(BATCH.passages, "passage")
    student.model.train()
    torch.testing.assert_close(queries.vectors, torch.from_numpy(expected[0]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(passages.vectors, torch.from_numpy(expected[1]), atol=1e-5, rtol=1e-5)


def count_encodings(student, tokens, **options):
    calls = []
    hook = transformers_of(student.model)[0].register_forward_hook(lambda *_: calls.append(1))
    gradients(student, lambda: encode_batch(student, BATCH, tokens, **options))
    hook.remove()
    return len(calls)


def test_a_batch_that_fits_is_encoded_once(student):
    assert count_encodings(student, ALL) == 2


def test_without_caching_every_chunk_is_encoded_once_and_gradients_are_the_same(student):
    plain_way = gradients(student, lambda: encode_batch(student, BATCH, 64, caching=False))
    cached = gradients(student, lambda: encode_batch(student, BATCH, 64))
    torch.testing.assert_close(plain_way[0], cached[0], atol=0, rtol=0)
    for name, gradient in cached[1].items():
        torch.testing.assert_close(plain_way[1][name], gradient, atol=1e-5, rtol=1e-4)
    chunks = sum(len(student.tokenise(r, s).buckets(64)) for r, s in ((BATCH.queries, "query"), (BATCH.passages, "passage")))
    assert count_encodings(student, 64, caching=False) == chunks


def test_a_batch_that_does_not_fit_is_encoded_twice(student):
    chunks = sum(len(student.tokenise(r, s).buckets(64)) for r, s in ((BATCH.queries, "query"), (BATCH.passages, "passage")))
    assert chunks > 4
    assert count_encodings(student, 64) == 2 * chunks


def peak_activations(student, batch, tokens):
    """The most numbers that outputs of the first layer's feed-forward part held at any time, over a whole step."""
    held, peak = set(), 0

    def remember(module, inputs, output):
        nonlocal peak
        held.add(key := (id(output), output.numel()))
        weakref.finalize(output, held.discard, key)
        peak = max(peak, sum(numbers for _, numbers in held))

    layer = transformers_of(student.model)[0].model.encoder.layer[0].intermediate.dense
    hook = layer.register_forward_hook(remember)
    queries, passages = encode_batch(student, batch, tokens)
    scores = student.score(queries, passages, batch, frozenset({"scores"})).scores
    kl(scores, batch.labels, batch.mask).sum().backward()
    hook.remove()
    return peak


def test_memory_is_bounded_by_a_chunk_however_many_candidates_there_are(student):
    few, many = (tiny_world(passages=count, queries=4) for count in (4, 100))
    peaks = [
        peak_activations(student, make_batch(examples(labels, asked, corpus).kept, corpus), 100)
        for corpus, asked, labels in (few, many)
    ]
    assert peaks[1] <= 1.2 * peaks[0]
    assert peaks[1] <= 100 * 48
