import numpy as np
import pytest
import torch
from accelerate import Accelerator
from scipy.sparse import csr_array
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import AutoModelForMaskedLM

from retort.compute import load_checkpoint, save_checkpoint
from retort.config import StudentModel
from retort.distil.batches import examples, make_batch
from retort.distil.caching import encode_batch
from retort.records import Passage, Query
from retort.students.loading import load_student
from retort.students.sparse import SparseStudent, collapse
from retort.students.stock import transformers_of
from retort.tensors import Batch, Encoded
from retort.text import passage_text
from tiny import tiny_masked_model, tiny_world

QUERIES = [Query("1", "who was king of the snow"), Query("2", "river"), Query("3", "the long night of the old city " * 9)]
PASSAGES = [
    Passage("a", "Snow", "It is cold in the north."),
    Passage("b", "", "Water is in the lake and in the sea."),
    Passage("c", "Gold", "The king and the queen of the old country. " * 8),
    Passage("d", "Moon", "Night."),
]
BOTH = frozenset({"scores", "inbatch"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_masked_model(tmp_path_factory.mktemp("model"), dropout=0.1)


def student(folder, **settings) -> SparseStudent:
    return load_student(StudentModel(kind="sparse", model=str(folder), query_tokens=20, passage_tokens=48, **settings))


VARIANTS = {
    "tied": {},
    "separate": {"towers": "separate"},
    "sum": {"sparse_pooling": "sum", "passage_format": "passage: {text}"},
    "inference-free": {"inference_free": True},
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")  # of torch, inside stock similarity
@pytest.mark.parametrize("name", VARIANTS)
def test_the_saved_folder_gives_the_same_vectors_scores_and_order_in_stock_sentence_transformers(name, folder, tmp_path):
    ours = student(folder, **VARIANTS[name])
    ours.save(tmp_path)
    stock = SparseEncoder(str(tmp_path), device="cpu")
    texts = [p.text if name == "sum" else passage_text(p, ours.settings.passage_format) for p in PASSAGES]
    queries, passages = stock.encode_query([q.text for q in QUERIES]), stock.encode_document(texts)
    found, known = ours.embed(QUERIES, "query"), ours.embed(PASSAGES, "passage")
    np.testing.assert_allclose(queries.to_dense(), found.toarray(), atol=1e-5)
    np.testing.assert_allclose(passages.to_dense(), known.toarray(), atol=1e-5)
    scores = (found @ known.T).toarray()
    np.testing.assert_allclose(stock.similarity(queries, passages).numpy(), scores, rtol=1e-5)
    np.testing.assert_array_equal(stock.similarity(queries, passages).argsort(1), scores.argsort(1))


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


POOLED = {"max": [1.0986123, 0.4054651, 1.3862944], "sum": [1.7917595, 0.4054651, 1.3862944]}


@pytest.mark.parametrize("mode", POOLED)
@pytest.mark.parametrize("training", [True, False])
def test_a_text_weighs_an_entry_by_the_log_of_its_logits_over_real_positions(mode, training, folder):
    [pooling] = [m for m in student(folder, sparse_pooling=mode).model.modules() if isinstance(m, SpladePooling)]
    logits = torch.tensor([[[1.0, -1.0, 3.0], [2.0, 0.5, -4.0], [9.0, 9.0, 9.0]]])
    features = {"token_embeddings": logits, "attention_mask": torch.tensor([[1, 1, 0]])}
    pooled = pooling.train(training)(features)["sentence_embedding"]
    torch.testing.assert_close(pooled, torch.tensor([POOLED[mode]]))


def test_vectors_are_pooled_from_the_logits_of_the_checkpoints_own_head(folder):
    ours = student(folder)
    tokens = ours.tokenise(PASSAGES, "passage")
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(tokens.tensors["input_ids"], attention_mask=tokens.tensors["attention_mask"]).logits
    expected = logits.masked_fill(~tokens.used[..., None], -torch.inf).amax(1).relu().log1p()
    np.testing.assert_allclose(ours.embed(PASSAGES, "passage").toarray(), expected, atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_vectors_do_not_depend_on_what_they_are_encoded_with(batch_tokens, folder):
    ours = student(folder)
    alone = np.concatenate([ours.embed([passage], "passage").toarray() for passage in PASSAGES])
    together = ours.embed(PASSAGES, "passage", batch_tokens=batch_tokens)
    assert (together.dtype, together.format) == (np.float32, "csr")
    np.testing.assert_allclose(together.toarray(), alone, atol=1e-5)


def test_embedding_leaves_a_student_in_training_in_training(folder):
    ours = student(folder)
    ours.model.train()
    first, second = ours.embed(QUERIES, "query"), ours.embed(QUERIES, "query")
    assert ours.model.training
    np.testing.assert_array_equal(first.toarray(), second.toarray())


def test_no_records_give_no_vectors(folder):
    ours = student(folder)
    assert ours.embed([], "query").shape == (0, ours.dimension)


def test_scores_are_inner_products_divided_by_the_scale(folder):
    queries, passages = Encoded(torch.tensor([[1.0, 2.0]])), Encoded(torch.tensor([[3.0, 4.0], [5.0, 6.0]]))
    real = torch.ones(1, 3, dtype=torch.bool)
    batch = Batch((), (), torch.tensor([[1, 0, 1]]), real, real)
    for scale, found in ((None, [[17.0, 11.0, 17.0]]), (2.0, [[8.5, 5.5, 8.5]])):
        torch.testing.assert_close(
            student(folder, scale=scale).score(queries, passages, batch, BOTH).scores, torch.tensor(found)
        )


def test_only_wanted_signals_are_given(folder):
    ours = student(folder)
    vectors, real = Encoded(torch.ones(1, 2)), torch.ones(1, 1, dtype=torch.bool)
    given = ours.score(vectors, vectors, Batch((), (), torch.tensor([[0]]), real, real), frozenset({"inbatch", "query_emb"}))
    assert {name for name, value in vars(given).items() if value is not None} == {"inbatch", "query_emb"}


def test_queries_without_inference_weigh_each_of_their_tokens_and_nothing_else(folder):
    ours = student(folder, inference_free=True, query_prefix="")
    [found] = ours.embed([Query("q", "king of the river king")], "query").toarray()
    tokenizer = transformers_of(ours.model)[0].tokenizer
    assert dict(zip(*[tokenizer.convert_ids_to_tokens(found.nonzero()[0].tolist()), found[found != 0]], strict=True)) == {
        "king": 1.0, "of": 1.0, "the": 1.0, "river": 1.0,
    }  # fmt: skip


def test_texts_are_cut_to_the_length_of_their_side(folder):
    for free in (False, True):
        ours = student(folder, inference_free=free)
        assert ours.tokenise(QUERIES, "query").lengths.max() == 20
        assert ours.tokenise(PASSAGES, "passage").lengths.max() == 48


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_reach_every_weight_of_both_sides(name, folder):
    ours = student(folder, **VARIANTS[name])
    ours.model.train()
    queries, passages = ours.encode(ours.tokenise(QUERIES, "query")), ours.encode(ours.tokenise(PASSAGES, "passage"))
    (queries.vectors @ passages.vectors.T).square().sum().backward()
    assert [weight for weight, p in ours.model.named_parameters() if p.grad is None or not p.grad.any()] == []


CORPUS, ASKED, LABELS = tiny_world(passages=6, queries=3)
BATCH = make_batch(examples(LABELS, ASKED, CORPUS).kept, CORPUS)


def gradients(ours, chunk_tokens):
    torch.manual_seed(3)
    ours.model.zero_grad()
    queries, passages = encode_batch(ours, BATCH, chunk_tokens)
    ours.score(queries, passages, BATCH, BOTH).scores.square().mean().backward()
    return {name: p.grad.clone() for name, p in ours.model.named_parameters()}


@pytest.mark.parametrize("name", ["tied", "inference-free"])
def test_gradients_encoded_in_chunks_are_those_of_the_whole_batch(name, folder):
    ours = student(folder, dropout=0.0, **VARIANTS[name])
    ours.model.double().train()  # in float32 two nearly equal tokens may change places as the largest
    whole, chunked = gradients(ours, 1_000_000), gradients(ours, 30)
    for weight, gradient in whole.items():
        torch.testing.assert_close(chunked[weight], gradient, atol=1e-4, rtol=1e-3)


def test_a_checkpoint_restores_weights_that_are_tied(folder, tmp_path):
    ours, accelerator = student(folder), Accelerator(cpu=True)
    accelerator.prepare(ours.module)
    expected = ours.embed(QUERIES, "query").toarray()
    save_checkpoint(accelerator, tmp_path / "checkpoint", {})
    model = transformers_of(ours.model)[0].model
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    load_checkpoint(accelerator, tmp_path / "checkpoint")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    np.testing.assert_array_equal(ours.embed(QUERIES, "query").toarray(), expected)


def vectors(*active, entries=100):
    """A text for each number, with so many of the entries active."""
    return csr_array(np.stack([np.arange(entries) < count for count in active]).astype(np.float32))


def test_vectors_of_a_few_entries_each_have_not_collapsed():
    assert collapse(vectors(3, 0, 25)) is None
    assert collapse(vectors(0)[:0]) is None


def test_texts_without_an_active_entry_are_a_collapse():
    assert collapse(vectors(0, 0, 5)).startswith("66.7% of 3 texts have no entry of the vocabulary active")
    assert collapse(vectors(0, 0, 5), empty=0.7) is None


def test_a_vocabulary_that_is_active_as_a_whole_is_a_collapse():
    assert collapse(vectors(100, 60)).startswith("the mean text has 80 of 100 entries of the vocabulary active (80.0%")
    assert collapse(vectors(100, 60), active=0.8) is None


def test_stored_zeros_are_not_active():
    stored = csr_array((np.zeros(3, np.float32), np.arange(3), np.array([0, 3])), shape=(1, 3))
    assert "no entry" in collapse(stored)
