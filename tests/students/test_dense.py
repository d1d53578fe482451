import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from retort.config import StudentModel
from retort.records import Passage, Query
from retort.students.dense import DenseStudent
from retort.students.loading import load_student
from retort.tensors import Batch, Encoded
from retort.text import passage_text
from tiny import tiny_student

QUERIES = [
    Query("1", "who was king of the snow"),
    Query("2", "river"),
    Query("3", "the long night of the old city by the sea " * 9),
]
PASSAGES = [
    Passage("a", "Snow", "It is cold in the north."),
    Passage("b", "", "Water is in the lake and in the sea."),
    Passage("c", "Gold", "The king and the queen of the old country. " * 8),
    Passage("d", "Moon", "Night."),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_student(tmp_path_factory.mktemp("model"), dropout=0.1)


def student(folder, **settings) -> DenseStudent:
    return load_student(StudentModel(model=str(folder), query_tokens=20, passage_tokens=48, **settings))


VARIANTS = {
    "tied": {},
    "separate": {"towers": "separate"},
    "cosine": {"score": "cosine", "scale": 0.05},
    "prompt": {"passage_format": "passage: {text}", "query_prefix": "query: "},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_saved_folder_encodes_alike_in_stock_sentence_transformers(name, folder, tmp_path):
    ours = student(folder, **VARIANTS[name])
    ours.save(tmp_path)
    stock = SentenceTransformer(str(tmp_path), device="cpu")
    texts = [p.text if name == "prompt" else passage_text(p, ours.settings.passage_format) for p in PASSAGES]
    np.testing.assert_allclose(stock.encode_query([q.text for q in QUERIES]), ours.embed(QUERIES, "query"), atol=1e-6)
    np.testing.assert_allclose(stock.encode_document(texts), ours.embed(PASSAGES, "passage"), atol=1e-6)


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
    alone = np.concatenate([ours.embed([passage], "passage") for passage in PASSAGES])
    np.testing.assert_allclose(ours.embed(PASSAGES, "passage", batch_tokens=batch_tokens), alone, atol=1e-5)


def test_embedding_leaves_a_student_in_training_in_training(folder):
    ours = student(folder)
    ours.model.train()
    first, second = ours.embed(QUERIES, "query"), ours.embed(QUERIES, "query")
    assert ours.model.training
    np.testing.assert_array_equal(first, second)


def test_no_records_give_no_vectors(folder):
    assert student(folder).embed([], "query").shape == (0, 24)


def test_texts_are_cut_to_the_length_of_their_side(folder):
    ours = student(folder)
    assert ours.tokenise(QUERIES, "query").lengths.max() == 20
    assert ours.tokenise(PASSAGES, "passage").lengths.max() == 48


def test_separate_towers_start_alike_and_move_apart(folder):
    ours = student(folder, towers="separate", passage_format="{text}", query_prefix="")
    text = "the king of the river"
    same = ours.embed([Query("q", text)], "query"), ours.embed([Passage("p", "", text)], "passage")
    np.testing.assert_allclose(*same, atol=1e-6)
    ours.encode(ours.tokenise(QUERIES[:1], "query")).vectors.sum().backward()
    moved = [name for name, p in ours.model.named_parameters() if p.grad is not None]
    assert moved
    assert all("query" in name for name in moved)


def scored(ours, want):
    queries, passages = Encoded(torch.tensor([[1.0, 2.0]])), Encoded(torch.tensor([[3.0, 4.0], [5.0, 6.0]]))
    real = torch.ones(1, 2, dtype=torch.bool)
    return ours.score(queries, passages, Batch((), (), torch.tensor([[1, 0]]), real, real), frozenset(want))


def test_scores_are_inner_products_divided_by_the_root_of_the_dimension(folder):
    torch.testing.assert_close(scored(student(folder), {"scores"}).scores, torch.tensor([[17.0, 11.0]]) / 24**0.5)


def test_a_given_scale_divides_the_scores_of_the_batch_too(folder):
    torch.testing.assert_close(scored(student(folder, scale=0.5), {"inbatch"}).inbatch, torch.tensor([[22.0, 34.0]]))


def test_only_wanted_signals_are_given(folder):
    given = scored(student(folder), {"query_emb", "scores"})
    assert {name for name, value in vars(given).items() if value is not None} == {"query_emb", "scores"}


def test_cosine_vectors_have_length_one(folder):
    vectors = student(folder, score="cosine", scale=0.05).embed(PASSAGES, "passage")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
