"""What kind of model a folder holds."""

import hashlib
import json

import pytest
from sentence_transformers import CrossEncoder

from retort.teachers.loading import load_cross_encoder, load_retriever, model_kind
from tiny import tiny_cross_encoder, tiny_encoder, tiny_student


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"config.json": {"architectures": ["BertForSequenceClassification"]}}, "CrossEncoder"),
        ({"config.json": {"architectures": ["Qwen3ForCausalLM"]}}, "CrossEncoder"),
        ({"config.json": {"architectures": ["HF_ColBERT"]}}, "MultiVectorEncoder"),
        ({"config.json": {"architectures": ["BertModel"]}}, "SentenceTransformer"),
        ({"config.json": {}}, "SentenceTransformer"),
        ({"config.json": {"architectures": ["BertForMaskedLM"]}, "modules.json": []}, "SentenceTransformer"),
        ({"config_sentence_transformers.json": {"model_type": "SparseEncoder"}, "modules.json": []}, "SparseEncoder"),
        ({"config_sentence_transformers.json": {"model_type": "ColBERT"}, "modules.json": []}, "MultiVectorEncoder"),
        ({"config_sentence_transformers.json": {}, "modules.json": []}, "SentenceTransformer"),
    ],
)
def test_the_kind_shows_in_the_files(tmp_path, files, kind):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert model_kind(str(tmp_path)) == kind


def test_a_bare_encoder_or_a_retriever_is_no_cross_encoder(tmp_path):
    for folder in (tiny_encoder(tmp_path / "bare"), tiny_student(tmp_path / "student")):
        with pytest.raises(ValueError, match="is a SentenceTransformer, expected a CrossEncoder"):
            load_cross_encoder(str(folder))


def test_a_cross_encoder_is_no_retriever_whoever_saved_it(tmp_path):
    folder = tiny_cross_encoder(tmp_path / "plain")
    CrossEncoder(str(folder), device="cpu").save(str(tmp_path / "stock"), create_model_card=False)
    for path in (folder, tmp_path / "stock"):
        with pytest.raises(ValueError, match="is a CrossEncoder, expected a SentenceTransformer or SparseEncoder"):
            load_retriever(str(path))
        assert load_cross_encoder(str(path)).num_labels == 1


def test_only_the_pinned_model_is_loaded(tmp_path):
    folder = tiny_cross_encoder(tmp_path)
    load_cross_encoder(str(folder), hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="it is not the pinned model"):
        load_cross_encoder(str(folder), "0" * 64)


def test_a_model_that_is_nowhere_is_named():
    with pytest.raises(ValueError, match="model 'nobody/nothing' cannot be found: give a model folder"):
        load_retriever("nobody/nothing")
