import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

from retort.config import StudentModel
from retort.records import Passage
from retort.students.loading import load_student
from retort.students.stock import transformers_of
from tiny import tiny_bert, tiny_encoder, tiny_masked_model, tiny_student, tiny_t5, tiny_tokenizer

LENGTHS = {"query_tokens": 20, "passage_tokens": 48}
TEXT = [Passage("a", "Snow", "It is cold in the north.")]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def test_a_bare_encoder_is_pooled_by_the_mean_over_its_tokens(encoder):
    student = load_student(StudentModel(model=str(encoder), **LENGTHS))
    tokens = student.tokenise(TEXT, "passage")
    with torch.no_grad():
        hidden = transformers_of(student.model)[0].model(tokens.tensors["input_ids"]).last_hidden_state
    torch.testing.assert_close(torch.from_numpy(student.embed(TEXT, "passage")), hidden.mean(1), atol=1e-5, rtol=0)


def test_cls_pooling_takes_the_first_position(encoder):
    student = load_student(StudentModel(model=str(encoder), pooling="cls", **LENGTHS))
    with torch.no_grad():
        hidden = transformers_of(student.model)[0].model(student.tokenise(TEXT, "passage").tensors["input_ids"])
    found = torch.from_numpy(student.embed(TEXT, "passage"))
    torch.testing.assert_close(found, hidden.last_hidden_state[:, 0], atol=1e-5, rtol=0)


def test_every_weight_of_the_folder_is_loaded_and_a_head_in_it_is_kept(tmp_path):
    model = SentenceTransformer(str(tiny_student(tmp_path)), device="cpu")
    model.append(Dense(24, 10))
    model.save(str(tmp_path / "headed"), create_model_card=False)
    student = load_student(StudentModel(model=str(tmp_path / "headed"), **LENGTHS))
    saved, found = model.state_dict(), student.model.state_dict()
    assert saved.keys() == found.keys()
    assert all(torch.equal(saved[name], found[name]) for name in saved)
    assert student.dimension == 10


def test_a_folder_that_lacks_weights_of_its_encoder_is_refused(tmp_path):
    folder = tiny_encoder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of .*encoder\.layer\.1\.output\.dense\.weight"):
        load_student(StudentModel(model=str(folder), **LENGTHS))


def test_a_pooler_that_the_checkpoint_lacks_is_drawn_alike_each_time(tmp_path):
    folder = tiny_encoder(tmp_path)
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("pooler")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    first, second = (load_student(StudentModel(model=str(folder), **LENGTHS)).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_loading_does_not_touch_the_random_state(encoder):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    load_student(StudentModel(model=str(encoder), **LENGTHS))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_pinned_model_is_checked_by_its_sha256(encoder):
    pin = hashlib.sha256((encoder / "model.safetensors").read_bytes()).hexdigest()
    load_student(StudentModel(model=str(encoder), sha256=pin, **LENGTHS))
    with pytest.raises(ValueError, match="not the pinned model"):
        load_student(StudentModel(model=str(encoder), sha256="0" * 64, **LENGTHS))


def test_a_length_beyond_the_models_positions_is_refused(encoder):
    with pytest.raises(ValueError, match="passage_tokens 200, but the model has 64 positions"):
        load_student(StudentModel(model=str(encoder)))


def test_two_towers_cannot_be_loaded_as_one(encoder, tmp_path):
    load_student(StudentModel(model=str(encoder), towers="separate", **LENGTHS)).save(tmp_path)
    with pytest.raises(ValueError, match="set it to 'separate'"):
        load_student(StudentModel(model=str(tmp_path), **LENGTHS))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json or modules\.json there"):
        load_student(StudentModel(model=str(tmp_path)))


@pytest.mark.parametrize("towers", ["tied", "separate"])
def test_frozen_layers_and_embeddings_are_not_trained(tmp_path, towers):
    folder = tiny_student(tmp_path)
    student = load_student(StudentModel(model=str(folder), frozen_layers=1, towers=towers, **LENGTHS))
    for transformer in transformers_of(student.model):
        trained = {name for name, parameter in transformer.named_parameters() if parameter.requires_grad}
        assert any("layer.1." in name for name in trained)
        assert not [name for name in trained if "embeddings" in name or "layer.0." in name]


def test_more_frozen_layers_than_there_are_are_refused(tmp_path):
    settings = StudentModel(model=str(tiny_student(tmp_path)), frozen_layers=3, **LENGTHS)
    with pytest.raises(ValueError, match=r"student.frozen_layers is 3, the encoder has 2 layers"):
        load_student(settings)


def test_dropout_is_set_where_the_config_gives_it(tmp_path):
    folder = tiny_student(tmp_path, dropout=0.1)
    found = {
        rate: {
            m.p
            for m in load_student(StudentModel(model=str(folder), dropout=rate, **LENGTHS)).model.modules()
            if isinstance(m, torch.nn.Dropout)
        }
        for rate in (None, 0.0, 0.3)
    }
    assert found == {None: {0.1}, 0.0: {0.0}, 0.3: {0.3}}


def test_a_cosine_without_a_temperature_is_refused():
    with pytest.raises(ValidationError, match=r"set scale to a temperature such as 0\.05"):
        StudentModel(score="cosine")


def test_a_passage_format_with_an_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="expected the fields"):
        StudentModel(passage_format="{titel}: {text}")


def test_bert_checkpoints_with_the_first_names_of_layer_norms_are_whole(tmp_path):
    folder = tiny_encoder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for k in weights}
    renamed = dict(zip(sorted(old), (weights[k] for k in sorted(weights)), strict=True))
    expected = load_student(StudentModel(model=str(folder), **LENGTHS)).embed(TEXT, "passage")
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(load_student(StudentModel(model=str(folder), **LENGTHS)).embed(TEXT, "passage"), expected)


def sparse(model, **settings):
    return load_student(StudentModel(kind="sparse", model=str(model), **LENGTHS, **settings))


def late(model, **settings):
    return load_student(StudentModel(kind="late_interaction", model=str(model), **LENGTHS, **{"dimension": 16} | settings))


def test_an_encoder_without_a_head_gets_one_that_starts_as_its_input_embeddings(encoder):
    with pytest.warns(UserWarning, match="has no masked-language-model head: one was made"):
        student = sparse(encoder)
    model = transformers_of(student.model)[0].model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    state = torch.randn(1, model.config.hidden_size)
    norm = torch.nn.functional.layer_norm(torch.nn.functional.gelu(state), state.shape[1:], eps=model.config.layer_norm_eps)
    torch.testing.assert_close(model.cls(state), norm @ model.get_input_embeddings().weight.T)


def test_a_head_in_the_checkpoint_is_kept(tmp_path):
    folder = tiny_masked_model(tmp_path)
    saved, found = load_file(folder / "model.safetensors"), transformers_of(sparse(folder).model)[0].model.state_dict()
    assert saved
    assert all(torch.equal(saved[name], found[name]) for name in saved)


def test_a_dense_model_lends_its_encoder_to_a_sparse_one(tmp_path):
    folder = tiny_student(tmp_path)
    with pytest.warns(UserWarning, match="no masked-language-model head"):
        found = transformers_of(sparse(folder).model)[0].model.base_model.state_dict()
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(saved[name], weight) for name, weight in found.items())


def test_a_checkpoint_with_a_head_that_lacks_weights_of_its_encoder_is_refused(tmp_path):
    folder = tiny_masked_model(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of .*encoder\.layer\.1\.output\.dense\.weight"):
        sparse(folder)


def test_an_architecture_without_a_masked_language_model_cannot_be_sparse(tmp_path):
    tiny_t5(tiny_tokenizer(tmp_path)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="t5 encoders come without a masked-language model"):
        sparse(tmp_path)


def test_a_model_without_a_transformer_is_refused(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    static.save(str(tmp_path / "static"), create_model_card=False)
    for load in (sparse, late):
        with pytest.raises(ValueError, match="consists of StaticEmbedding: expected a Transformer"):
            load(tmp_path / "static")


def test_a_sparse_model_of_another_kind_is_refused(encoder, tmp_path):
    modules = [Transformer(str(encoder)), Pooling(24), SparseAutoEncoder(24, 48, k=4)]
    SparseEncoder(modules=modules, device="cpu").save(str(tmp_path), create_model_card=False)
    with pytest.raises(ValueError, match="sparse by SparseAutoEncoder: expected SpladePooling"):
        sparse(tmp_path)


def test_queries_with_and_without_inference_are_not_confused(tmp_path):
    folder = tiny_masked_model(tmp_path / "base")
    sparse(folder, inference_free=True).save(tmp_path / "free")
    sparse(folder, towers="separate").save(tmp_path / "towers")
    with pytest.raises(ValueError, match="are encoded by token lookup: set it to True"):
        sparse(tmp_path / "free", towers="separate")
    with pytest.raises(ValueError, match="are encoded by a transformer: set it to False"):
        sparse(tmp_path / "towers", inference_free=True)


def test_queries_without_inference_need_a_logit_for_each_token(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    tiny_bert(len(tokenizer) + 5).save_pretrained(tmp_path)
    with (
        pytest.warns(UserWarning, match="no masked-language-model head"),
        pytest.raises(ValueError, match=f"{len(tokenizer) + 5} logits and {len(tokenizer)} tokens"),
    ):
        sparse(tmp_path, inference_free=True)


def test_a_projection_that_is_missing_is_drawn_alike_each_time(encoder):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="one of 24 to 16 was drawn"):
        first, second = late(encoder), late(encoder)
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], weight), name


def test_a_projection_in_the_folder_is_kept(tmp_path):
    model = SentenceTransformer(str(tiny_student(tmp_path)), device="cpu")
    model.append(Dense(24, 16))
    model.save(str(tmp_path / "headed"), create_model_card=False)
    saved, found = model.state_dict(), late(tmp_path / "headed").model.state_dict()
    assert torch.equal(saved["2.linear.weight"], found["1.linear.weight"])


def test_a_checkpoint_of_colberts_own_format_keeps_its_projection(encoder, tmp_path):
    shutil.copytree(encoder, tmp_path, dirs_exist_ok=True)
    weights = {f"bert.{name}": weight for name, weight in load_file(encoder / "model.safetensors").items()}
    weights["linear.weight"] = torch.randn(16, 24)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
    found = late(tmp_path).model.state_dict()
    assert torch.equal(found["1.linear.weight"], weights["linear.weight"])
    assert torch.equal(found["0.model.embeddings.word_embeddings.weight"], weights["bert.embeddings.word_embeddings.weight"])


def test_a_projection_of_another_length_is_refused(encoder, tmp_path):
    with pytest.warns(UserWarning, match="one of 24 to 16 was drawn"):
        late(encoder).save(tmp_path)
    with pytest.raises(ValueError, match=r"student\.dimension is 8, but .* projects to 16: set it to 16"):
        late(tmp_path, dimension=8)


def test_how_a_folder_expands_queries_is_kept(encoder, tmp_path):
    with pytest.warns(UserWarning, match="one of 24 to 16 was drawn"):
        student = late(encoder)
    transformers_of(student.model)[0].query_expansion = {"strategy": "fixed", "attend": True, "length": 12}
    student.save(tmp_path)
    expansion = transformers_of(late(tmp_path).model)[0].query_expansion
    assert (expansion["attend"], expansion["length"]) == (True, 20)


def test_late_interaction_takes_no_dense_model_of_two_towers(encoder, tmp_path):
    load_student(StudentModel(model=str(encoder), towers="separate", **LENGTHS)).save(tmp_path)
    with pytest.raises(ValueError, match="consists of Router: expected a Transformer"):
        late(tmp_path)


def test_two_towers_of_a_late_interaction_model_cannot_be_loaded_as_one(encoder, tmp_path):
    with pytest.warns(UserWarning, match="one of 24 to 16 was drawn"):
        late(encoder, towers="separate").save(tmp_path)
    assert isinstance(late(tmp_path, towers="separate").model, MultiVectorEncoder)
    with pytest.raises(ValueError, match="set it to 'separate'"):
        late(tmp_path)
