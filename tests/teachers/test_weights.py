"""Checkpoints that do not hold a model's weights, all of them and no others, are refused."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5ForConditionalGeneration

from retort.teachers.weights import check_whole, loaded
from tiny import tiny_t5, tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    tiny_t5(tiny_tokenizer(folder)).save_pretrained(folder)
    return folder


@pytest.fixture
def changed(saved, tmp_path):
    """Makes a folder of the same model whose weights are what `change` makes of them."""

    def make(change):
        folder = shutil.copytree(saved, tmp_path / "changed")
        file = folder / "model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file, metadata={"format": "pt"})
        return str(folder)

    return make


def load(path):
    model, found = loaded(T5ForConditionalGeneration, path, what="this model")
    check_whole(found, "this model")
    return model


def test_a_whole_checkpoint_comes_back_weight_for_weight(saved):
    found, weights = load(str(saved)).state_dict(), load_file(saved / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_a_missing_weight_is_named(changed):
    path = changed(lambda weights: weights.pop("decoder.block.1.layer.1.EncDecAttention.k.weight"))
    with pytest.raises(ValueError, match=r"this model lacks 1 weights, for example 'decoder\.block\.1\.layer\.1"):
        load(path)


def test_a_weight_that_would_be_left_out_is_named(changed):
    path = changed(lambda weights: weights.update({"decoder.block.7.layer.0.SelfAttention.q.weight": torch.ones(2)}))
    with pytest.raises(ValueError, match=r"this model holds 1 weights that its config has no place for, .*block\.7"):
        load(path)


def test_a_weight_of_another_shape_is_named_with_both_shapes(changed):
    path = changed(lambda weights: weights.update({"encoder.final_layer_norm.weight": torch.ones(7)}))
    with pytest.raises(
        ValueError, match=r"another shape .* 'encoder\.final_layer_norm\.weight' of \(7,\), expected \(24,\)"
    ):
        load(path)


@pytest.mark.parametrize(
    "name",
    ["pooler.dense.bias", "encoder.embeddings.position_ids", "model.visual.patch.weight",
     "transformer.h.0.attn.bias", "transformer.h.0.attn.attention.bias"],  # GPT-J's and GPT-Neo's masks
)  # fmt: skip
def test_what_no_teacher_reads_may_stand_beside_the_weights(changed, name):
    load(changed(lambda weights: weights.update({name: torch.ones(2)})))


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_broken_file_is_said_to_be_broken(saved, tmp_path, file):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / file).write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"the weights of this model cannot be read \(.*\), expected whole files: fetch"):
        load(str(tmp_path))
