"""A retriever as a teacher: dense, sparse and late-interaction models, ours against their own similarity."""

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sparse_encoder.modules import SpladePooling

from retort.records import Group, Passage
from retort.teachers.loading import load_retriever
from retort.teachers.retriever import RetrieverTeacher
from tiny import tiny_encoder, tiny_masked_model, tiny_student, tiny_world

CORPUS, QUERIES, RUN = tiny_world(passages=12, queries=5)
GROUPS = [Group(query, tuple(CORPUS[row] for row in RUN.of(query.id)[0].tolist())) for query in QUERIES]


def dense(folder):
    model = SentenceTransformer(str(tiny_student(folder)), device="cpu")
    model.prompts = {"query": "question ", "document": "text "}
    model.similarity_fn_name = "cosine"
    return model


def sparse(folder):
    encoder = Transformer(str(tiny_masked_model(folder)), transformer_task="fill-mask")
    return SparseEncoder(modules=[encoder, SpladePooling()], device="cpu")


def late(folder):
    encoder = Transformer(str(tiny_encoder(folder)))
    project = Dense(
        encoder.get_embedding_dimension(), 8, bias=False, activation_function=torch.nn.Identity(),
        module_input_name="token_embeddings", module_output_name="token_embeddings",
    )  # fmt: skip
    normalise = Normalize(module_input_name="token_embeddings")
    return MultiVectorEncoder(modules=[encoder, project, MultiVectorMask(), normalise], device="cpu")


@pytest.fixture(scope="module", params=[dense, sparse, late], ids=lambda build: build.__name__)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param.__name__)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        request.param(folder / "made").save(str(folder / "saved"), create_model_card=False)
    return load_retriever(str(folder / "saved"))


def flat(scores):
    return np.concatenate(scores)


def test_scores_are_the_models_own_similarity_of_each_pair(model):
    scores = RetrieverTeacher(model, tokens=64).score(GROUPS)
    for group, found in zip(GROUPS, scores, strict=True):
        options = {"convert_to_sparse_tensor": False} if isinstance(model, SparseEncoder) else {}
        query = model.encode_query([group.query.text], **options)
        passages = model.encode_document([f"{p.title} {p.text}".strip() for p in group.passages], **options)
        np.testing.assert_allclose(found, model.similarity(query, passages)[0], rtol=1e-5, atol=1e-5)
        assert found.dtype == np.float32
    assert flat(scores).std() > 1e-3


def test_each_distinct_text_is_encoded_once_in_a_call(model, monkeypatch):
    asked = []
    encode = type(model).encode_document
    monkeypatch.setattr(
        type(model), "encode_document", lambda self, texts, **o: asked.append(texts) or encode(self, texts, **o)
    )
    twice = [*GROUPS, GROUPS[0]]
    scores = RetrieverTeacher(model, tokens=64).score(twice)
    assert [len(texts) for texts in asked] == [len(CORPUS)]
    assert (scores[0] == scores[-1]).all()


def test_batches_do_not_change_the_scores(model):
    one, many = (RetrieverTeacher(model, tokens=64, batch=batch).score(GROUPS) for batch in (1, 64))
    np.testing.assert_allclose(flat(one), flat(many), rtol=1e-5, atol=1e-5)


def test_no_groups_and_groups_without_passages_get_no_scores(model):
    teacher = RetrieverTeacher(model, tokens=64)
    assert teacher.score([]) == []
    empty, scores = teacher.score([Group(QUERIES[0], ()), GROUPS[0]])
    assert len(empty) == 0
    np.testing.assert_allclose(scores, teacher.score([GROUPS[0]])[0], rtol=1e-5, atol=1e-5)


def test_what_stands_behind_the_last_token_of_a_passage_is_not_read(model):
    texts = [" ".join(["snow"] * 12 + [end]) for end in ("king", "rain")]
    group = Group(QUERIES[0], tuple(Passage(text[-4:], "", text) for text in texts))
    cut, whole = (RetrieverTeacher(model, tokens=tokens).score([group])[0] for tokens in (8, 64))
    assert abs(cut[0] - cut[1]) < 1e-4
    assert abs(whole[0] - whole[1]) > 4e-4


def test_what_cannot_be_scored_is_named(tmp_path):
    model = dense(tmp_path)
    with torch.no_grad():
        model.transformers_model.get_input_embeddings().weight[model.tokenizer.convert_tokens_to_ids("snow")] = torch.nan
    group = Group(QUERIES[0], (Passage("p1", "", "the rain"), Passage("p2", "", "the snow")))
    with pytest.raises(ValueError, match="retriever scores query 'q0' with passage 'p2' nan"):
        RetrieverTeacher(model, tokens=64).score([group])
    with pytest.raises(ValueError, match="given 65 tokens, but its model has 64 positions"):
        RetrieverTeacher(model, tokens=65)
