import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from torch.utils._python_dispatch import TorchDispatchMode

from retort.config import StudentModel
from retort.distil.batches import examples, make_batch
from retort.distil.caching import encode_batch
from retort.records import Passage, Query
from retort.students.late_interaction import LateInteractionStudent, maxsims
from retort.students.loading import load_student
from retort.tensors import Batch, Encoded
from retort.text import passage_text
from tiny import tiny_encoder, tiny_world

QUERIES = [Query("1", "who was king of the snow"), Query("2", "river"), Query("3", "the long night of the old city " * 9)]
PASSAGES = [
    Passage("a", "Snow", "It is cold in the north."),
    Passage("b", "", "Water is in the lake, and in the sea!"),
    Passage("c", "Gold", "The king and the queen of the old country. " * 8),
    Passage("d", "Moon", "Night."),
]
SCORES, BOTH = frozenset({"scores"}), frozenset({"scores", "inbatch"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with a projection of 24 to 16: what a first load of the bare encoder draws."""
    encoder = tiny_encoder(tmp_path_factory.mktemp("encoder"), dropout=0.1)
    with pytest.warns(UserWarning, match="no projection of token vectors: one of 24 to 16 was drawn"):
        drawn = student(encoder)
    drawn.save(encoder.parent / "projected")
    return encoder.parent / "projected"


def student(folder, **settings) -> LateInteractionStudent:
    lengths = {"query_tokens": 20, "passage_tokens": 48, "dimension": 16}
    return load_student(StudentModel(kind="late_interaction", model=str(folder), **lengths, **settings))


VARIANTS = {
    "tied": {},
    "separate": {"towers": "separate"},
    "no expansion": {"query_expansion": False, "passage_format": "passage: {text}"},
    "all punctuation": {"skip_punctuation": False},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_saved_folder_gives_the_same_vectors_scores_and_order_in_stock_sentence_transformers(name, folder, tmp_path):
    ours = student(folder, **VARIANTS[name])
    ours.save(tmp_path)
    stock = MultiVectorEncoder(str(tmp_path), device="cpu")
    texts = [p.text if name == "no expansion" else passage_text(p, ours.settings.passage_format) for p in PASSAGES]
    queries, passages = stock.encode_query([q.text for q in QUERIES]), stock.encode_document(texts)
    for found, expected in ((ours.embed(QUERIES, "query"), queries), (ours.embed(PASSAGES, "passage"), passages)):
        for i, matrix in enumerate(expected):
            np.testing.assert_allclose(found[i], matrix, atol=1e-5)
    encoded = ours.encode(ours.tokenise(QUERIES, "query")), ours.encode(ours.tokenise(PASSAGES, "passage"))
    scores, expected = maxsims(*encoded).detach(), stock.similarity(queries, passages)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(scores.argsort(1), expected.argsort(1))


@pytest.mark.parametrize("name", VARIANTS)
def test_saving_loading_and_saving_again_gives_the_same_bytes(name, folder, tmp_path):
    first = student(folder, **VARIANTS[name])
    first.embed(QUERIES, "query")
    first.save(tmp_path / "a")
    load_student(first.settings, folder=tmp_path / "a").save(tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_vectors_do_not_depend_on_what_they_are_encoded_with(batch_tokens, folder):
    ours = student(folder)
    together = ours.embed(PASSAGES, "passage", batch_tokens=batch_tokens)
    assert len(together) == len(PASSAGES)
    for i, passage in enumerate(PASSAGES):
        np.testing.assert_allclose(together[i], ours.embed([passage], "passage")[0], atol=1e-5)


def test_embedding_leaves_a_student_in_training_in_training(folder):
    ours = student(folder)
    ours.model.train()
    first, second = ours.embed(QUERIES, "query"), ours.embed(QUERIES, "query")
    assert ours.model.training
    np.testing.assert_array_equal(first.vectors, second.vectors)


def test_no_records_give_no_vectors(folder):
    nothing = student(folder).embed([], "query")
    assert len(nothing) == 0
    assert nothing.vectors.shape == (0, 16)


def test_every_vector_has_length_one(folder):
    vectors = student(folder).embed(PASSAGES, "passage").vectors
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_queries_are_filled_up_to_their_length_without_a_change_to_their_own_tokens(folder):
    filled, bare = (student(folder, query_expansion=on).embed(QUERIES, "query") for on in (True, False))
    assert np.diff(filled.starts).tolist() == [20, 20, 20]
    assert np.diff(bare.starts).tolist() == [10, 5, 20]  # [CLS] question : ... [SEP]
    for i in range(3):
        np.testing.assert_allclose(filled[i][: len(bare[i])], bare[i], atol=1e-5)


def test_punctuation_of_passages_is_skipped_where_the_settings_say_so(folder):
    skipped, scored = (student(folder, skip_punctuation=on).embed(PASSAGES, "passage") for on in (True, False))
    assert (np.diff(scored.starts) - np.diff(skipped.starts)).tolist()[:2] == [3, 3]  # "title: context: .", "context: , !"


def encoded(*matrices, real=None):
    vectors = torch.tensor(matrices)
    return Encoded(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool) if real is None else torch.tensor(real))


def test_a_score_sums_the_best_inner_product_of_each_query_token(folder):
    queries = encoded([[1.0, 0.0], [0.0, 1.0]])
    passages = encoded([[0.6, 0.8], [1.0, 0.0]], [[-0.6, 0.8], [0.0, 0.0]], real=[[True, True], [True, False]])
    real = torch.ones(1, 2, dtype=torch.bool)
    batch = Batch((), (), torch.tensor([[1, 0]]), real, real)  # -0.6 + 0.8: the padding's 0 does not win; 1 + 0.8
    for scale, found in ((None, [[0.2, 1.8]]), (2.0, [[0.1, 0.9]])):
        for want in (SCORES, BOTH):
            given = student(folder, scale=scale).score(queries, passages, batch, want)
            torch.testing.assert_close(given.scores, torch.tensor(found))


def test_only_wanted_signals_are_given(folder):
    one, real = encoded([[1.0, 0.0]]), torch.ones(1, 1, dtype=torch.bool)
    given = student(folder).score(one, one, Batch((), (), torch.tensor([[0]]), real, real), frozenset({"inbatch"}))
    assert {name for name, value in vars(given).items() if value is not None} == {"inbatch"}


def random_pairs(batch=4, candidates=2, passages=12, tokens=(5, 7), width=3):
    torch.manual_seed(0)
    sides = []
    for texts, length in ((batch, tokens[0]), (passages, tokens[1])):
        mask = torch.arange(length) < torch.randint(1, length + 1, (texts, 1))
        sides.append(Encoded(torch.randn(texts, length, width, requires_grad=True), mask))
    return *sides, torch.randint(passages, (batch, candidates))


@pytest.mark.parametrize("products", [1, 150, 10_000])
@pytest.mark.parametrize("all_passages", [True, False])
def test_scores_and_gradients_do_not_depend_on_how_many_queries_are_compared_at_once(products, all_passages):
    queries, passages, candidates = random_pairs()
    chosen = None if all_passages else candidates
    whole = maxsims(queries, passages, chosen)
    parts = maxsims(queries, passages, chosen, products=products)
    torch.testing.assert_close(parts, whole)
    inputs = [queries.vectors, passages.vectors]
    expected = torch.autograd.grad(whole.square().sum(), inputs)
    for found, gradient in zip(torch.autograd.grad(parts.square().sum(), inputs), expected, strict=True):
        torch.testing.assert_close(found, gradient)


def test_candidates_score_as_they_do_among_all_passages():
    queries, passages, candidates = random_pairs()
    torch.testing.assert_close(maxsims(queries, passages, candidates), maxsims(queries, passages).gather(1, candidates))


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that any operation gave."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if torch.is_tensor(out):
            self.numbers = max(self.numbers, out.numel())
        return out


def test_scoring_candidates_never_holds_the_products_of_all_pairs():
    queries, passages, candidates = random_pairs()
    with Largest() as largest:
        maxsims(queries, passages, candidates)
    assert largest.numbers == 4 * 2 * 5 * 7  # B K I J, of B M I J = 1680


@pytest.mark.parametrize("name", ["tied", "separate"])
def test_gradients_reach_the_weights_of_both_sides(name, folder):
    ours = student(folder, **VARIANTS[name])
    ours.model.train()
    encodings = ours.encode(ours.tokenise(QUERIES, "query")), ours.encode(ours.tokenise(PASSAGES, "passage"))
    maxsims(*encodings).square().sum().backward()
    still = [weight for weight, p in ours.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [weight for weight in still if ".pooler." not in weight] == []


CORPUS, ASKED, LABELS = tiny_world(passages=6, queries=3)
BATCH = make_batch(examples(LABELS, ASKED, CORPUS).kept, CORPUS)


def gradients(ours, chunk_tokens):
    ours.model.zero_grad()
    queries, passages = encode_batch(ours, BATCH, chunk_tokens)
    scores = ours.score(queries, passages, BATCH, SCORES).scores
    scores.square().mean().backward()
    return scores.detach(), {name: p.grad.clone() for name, p in ours.model.named_parameters() if p.grad is not None}


def test_scores_and_gradients_of_chunks_are_those_of_the_whole_batch(folder):
    ours = student(folder, dropout=0.0)
    ours.model.train()
    (scores, whole), (found, chunked) = gradients(ours, 1_000_000), gradients(ours, 30)
    torch.testing.assert_close(found, scores, atol=1e-5, rtol=1e-5)
    assert whole.keys() == chunked.keys()
    for weight, gradient in whole.items():
        torch.testing.assert_close(chunked[weight], gradient, atol=1e-4, rtol=1e-3)
