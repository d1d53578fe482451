import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from retort.config import StudentModel
from retort.distil.batches import examples, make_batch
from retort.distil.caching import encode_batch
from retort.indexes.vectors import VectorParts
from retort.losses.listwise import kl
from retort.students.loading import load_student
from retort.students.query_side import QuerySideStudent, train_query_side
from tiny import tiny_student, tiny_world

CORPUS, QUERIES, LABELS = tiny_world()
BATCH = make_batch(examples(LABELS, QUERIES, CORPUS).kept, CORPUS)
every_way = pytest.mark.parametrize("way", ["full", "linear", "lora"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_student(tmp_path_factory.mktemp("model"))


def loaded(folder, way, **settings):
    return load_student(
        StudentModel(model=str(folder), query_tokens=20, passage_tokens=48, query_side=way, lora_rank=2, **settings)
    )


def over_stored(student):
    stored = VectorParts.of(student.embed(list(CORPUS), "passage"))
    return QuerySideStudent(student, stored.take, {passage.id: row for row, passage in enumerate(CORPUS)})


def trained(ours, steps=3):
    optimiser = torch.optim.SGD(ours.module.parameters(), lr=0.5)
    for _ in range(steps):
        queries, passages = encode_batch(ours, BATCH, 64)
        scores = ours.score(queries, passages, BATCH, frozenset({"scores"})).scores
        kl(scores, BATCH.labels, BATCH.mask).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return ours


@every_way
def test_before_training_vectors_are_those_of_the_model_itself(folder, way):
    plain = load_student(StudentModel(model=str(folder), query_tokens=20, passage_tokens=48))
    for records, side in ((QUERIES, "query"), (list(CORPUS), "passage")):
        np.testing.assert_array_equal(loaded(folder, way).embed(records, side), plain.embed(records, side))


@every_way
def test_training_moves_queries_and_leaves_every_passage_bit_as_it_was(folder, way, tmp_path):
    ours = over_stored(loaded(folder, way))
    before = ours.embed(QUERIES, "query"), ours.student.embed(list(CORPUS), "passage")
    tower = {name: value.clone() for name, value in ours.module[0].sub_modules["document"].state_dict().items()}
    trained(ours)
    assert np.abs(ours.embed(QUERIES, "query") - before[0]).max() > 1e-4
    np.testing.assert_array_equal(ours.student.embed(list(CORPUS), "passage"), before[1])
    ours.save(tmp_path)
    again = load_student(ours.settings, folder=tmp_path)
    saved = again.model[0].sub_modules["document"].state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in tower.items())
    np.testing.assert_array_equal(again.embed(list(CORPUS), "passage"), before[1])
    np.testing.assert_allclose(again.embed(QUERIES, "query"), ours.embed(QUERIES, "query"), atol=1e-6)


@every_way
@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_the_saved_folder_is_a_stock_model(folder, way, score, tmp_path):
    ours = trained(over_stored(loaded(folder, way, score=score, scale=0.05)))
    ours.save(tmp_path)
    stock = SentenceTransformer(str(tmp_path), device="cpu")
    vectors = stock.encode_query([query.text for query in QUERIES])
    np.testing.assert_allclose(vectors, ours.embed(QUERIES, "query"), atol=1e-6)
    if score == "cosine":
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    assert not [name for name, _ in stock.named_parameters() if "parametrizations" in name]


@pytest.mark.parametrize(("way", "count"), [("linear", 24 * 24), ("lora", 2 * 2 * 2 * (24 + 24))])
def test_an_adapter_alone_is_trained(folder, way, count):
    """A matrix of the width squared; or rank 2, up and down, of the query and value projections of two layers."""
    student = loaded(folder, way)
    assert sum(p.numel() for p in student.module.parameters() if p.requires_grad) == count


def test_scores_come_from_the_stored_vectors_and_not_from_the_passages(folder):
    ours = over_stored(loaded(folder, "full"))
    calls = []
    hook = ours.module[0].sub_modules["document"].register_forward_hook(lambda *_: calls.append(1))
    _, passages = encode_batch(ours, BATCH, 64)
    hook.remove()
    assert not calls
    exact = ours.student.embed(BATCH.passages, "passage")
    np.testing.assert_allclose(passages.vectors.numpy(), exact, atol=2e-3)  # half precision
    assert not np.array_equal(passages.vectors.numpy(), exact)


def test_a_second_round_trains_the_matrix_that_the_first_one_left(folder, tmp_path):
    ours = trained(over_stored(loaded(folder, "linear")))
    ours.save(tmp_path)
    again = load_student(ours.settings, folder=tmp_path)
    assert sum(p.numel() for p in again.module.parameters() if p.requires_grad) == 24 * 24
    assert len(again.model[0].sub_modules["query"]) == 3


def test_an_encoder_without_projections_takes_no_low_rank_changes(folder):
    student = load_student(StudentModel(model=str(folder), query_tokens=20, passage_tokens=48, towers="separate"))
    for layer in student.model[0].sub_modules["query"].modules():
        for name in ("query", "value"):
            if isinstance(getattr(layer, name, None), torch.nn.Linear):
                setattr(layer, f"other_{name}", layer._modules.pop(name))
    with pytest.raises(ValueError, match="take 'full' or 'linear'"):
        train_query_side(student.model, StudentModel(model="m", query_side="lora"))


def test_only_dense_students_have_a_query_side_of_their_own():
    with pytest.raises(ValueError, match="query_side is a setting of dense students"):
        StudentModel(kind="sparse", query_side="full")
