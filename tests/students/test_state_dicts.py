"""FiD's retriever and Contriever towers as students: the published vectors and scores, or a refusal."""

import pytest
import torch
from sentence_transformers import SentenceTransformer

import ancestors
from ancestors import RETRIEVER, arrays, small_tokenizer
from retort.config import StudentModel
from retort.students.loading import load_student
from retort.students.state_dicts import bert_architecture, contriever, fid_retriever

MASKED = ["released_mean768", "proj_mean", "proj_cls"]
CONFIG = RETRIEVER["bert"] | {"question_maxlength": 12, "passage_maxlength": 24}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def weights(name):
    return arrays("tiny_retr_released_mean768.npz" if name == "released_mean768" else "tiny_retr_proj_mean.npz")


def vectors(model, ids, mask):
    features = {"input_ids": torch.tensor(ids).flatten(0, -2), "attention_mask": torch.tensor(mask).flatten(0, -2)}
    with torch.no_grad():
        return model(features)["sentence_embedding"]


@pytest.mark.parametrize("name", MASKED)
def test_the_saved_folder_gives_the_published_vectors_and_scores_in_stock_sentence_transformers(name, tokenizer, tmp_path):
    expected = RETRIEVER[name]
    fid_retriever(weights(name), CONFIG | expected["cfg"], tokenizer).save(tmp_path / "model")
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    queries, passages = vectors(model, RETRIEVER["qid"], RETRIEVER["qm"]), vectors(model, RETRIEVER["pid"], RETRIEVER["pm"])
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(queries, torch.tensor(expected["q"]), **close)
    torch.testing.assert_close(passages, torch.tensor(expected["p"]), **close)
    student = load_student(StudentModel(model=str(tmp_path / "model"), query_tokens=12, passage_tokens=24))
    scores = torch.einsum("qd,qkd->qk", queries, passages.view(2, 4, -1)) / student.scale
    torch.testing.assert_close(scores, torch.tensor(expected["score"]), **close)


def test_prompts_and_lengths_are_fids(tokenizer, tmp_path):
    fid_retriever(weights("proj_mean"), CONFIG | RETRIEVER["proj_mean"]["cfg"], tokenizer).save(tmp_path / "model")
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert model.prompts == {"query": "question: ", "document": ""}
    lengths = [model.preprocess(["a " * 40], task=task)["input_ids"].shape[1] for task in ("query", "document")]
    assert lengths == [12, 24]
    assert model.get_embedding_dimension() == 10


@pytest.mark.parametrize("name", ["apply_question_mask", "apply_passage_mask"])
@pytest.mark.parametrize("value", [False, None])
def test_masks_off_are_refused_and_explained(name, value, tokenizer):
    config = CONFIG | RETRIEVER["proj_mean"]["cfg"] | {name: value}
    with pytest.raises(
        ValueError, match=f"the config says {name}: {value}, expected true: .* depends on how far it was padded"
    ):
        fid_retriever(weights("proj_mean"), config, tokenizer)


def test_without_a_head_the_recorded_dimension_does_not_count(tokenizer):
    """The published code writes 256 even there (methods 5.1, A1)."""
    config = CONFIG | RETRIEVER["released_mean768"]["cfg"] | {"indexing_dimension": 256}
    assert fid_retriever(weights("released_mean768"), config, tokenizer).dimension == 24


@pytest.mark.parametrize(
    ("projection", "found", "message"),
    [
        (True, "released_mean768", r"says projection: True.*expected to be \['proj.weight', .* found \[\]"),
        (False, "proj_mean", r"says projection: False.*expected to be \[\], found \['proj.weight'"),
    ],
)
def test_a_head_that_config_and_weights_disagree_on_is_refused(projection, found, message, tokenizer):
    config = CONFIG | RETRIEVER["proj_mean"]["cfg"] | {"projection": projection}
    with pytest.raises(ValueError, match=message):
        fid_retriever(weights(found), config, tokenizer)


def test_missing_unknown_and_misshapen_weights_are_listed(tokenizer):
    config, state = CONFIG | RETRIEVER["released_mean768"]["cfg"], weights("released_mean768")
    query = "model.encoder.layer.1.attention.self.query.weight"
    less = {name: value for name, value in state.items() if name != query}
    with pytest.raises(ValueError, match=rf"1 weights are missing \['{query[6:]}'\], 1 are unknown \['extra'\]"):
        fid_retriever(less | {"model.extra": torch.ones(1)}, config, tokenizer)
    with pytest.raises(ValueError, match=r"found \['norm.weight'\]"):
        fid_retriever(state | {"norm.weight": torch.ones(1)}, config | {"projection": True}, tokenizer)
    with pytest.raises(ValueError, match=r"(?s)not a BERT state dict of this config.*size mismatch"):
        fid_retriever(state, config | {"intermediate_size": 41}, tokenizer)


def test_a_tokeniser_of_a_larger_vocabulary_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"the tokeniser has 37 entries, but the encoder 30 embeddings"):
        fid_retriever(
            weights("released_mean768") | {"model.embeddings.word_embeddings.weight": torch.ones(30, 24)},
            CONFIG | RETRIEVER["released_mean768"]["cfg"] | {"vocab_size": 30},
            tokenizer,
        )


# ---- Contriever


def masked_mean(encoder, model, task, text):
    features = model.preprocess([text, "a"], task=task)
    with torch.no_grad():
        states = encoder(**{name: features[name] for name in ("input_ids", "attention_mask")}).last_hidden_state
    mask = features["attention_mask"][..., None]
    return (states * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["tied", "separate"])
def test_contriever_towers_give_the_masked_mean_of_their_own_states(seeds, tokenizer, tmp_path):
    encoders = [ancestors.contriever(seed) for seed in seeds]
    contriever([encoder.state_dict() for encoder in encoders], tokenizer, tokens=20).save(tmp_path / "model")
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    for task, encoder in (("query", encoders[0]), ("document", encoders[-1])):
        with torch.no_grad():
            found = model(model.preprocess(["snow who?", "a"], task=task), task=task)["sentence_embedding"]
        torch.testing.assert_close(found, masked_mean(encoder, model, task, "snow who?"), atol=1e-5, rtol=0)


def test_the_config_of_a_bert_is_told_from_its_shapes():
    found = bert_architecture(ancestors.contriever(0).state_dict())
    assert found == ancestors.CONTRIEVER


def test_what_is_no_bert_or_of_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"no BERT state dict: it lacks 'embeddings.word_embeddings.weight'; found \['a'\]"):
        bert_architecture({"a": torch.ones(1)})
    bare = {name.removeprefix("model."): value for name, value in weights("released_mean768").items()}
    with pytest.raises(ValueError, match="a BERT of width 24, expected a multiple of 64"):
        bert_architecture(bare)
