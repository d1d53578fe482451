import hashlib

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense

from retort.config import StudentModel
from retort.records import Passage
from retort.students.dense import transformers_of
from retort.students.loading import load_student
from tiny import tiny_encoder, tiny_student

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
