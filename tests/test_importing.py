"""Checkpoints of the ancestors converted: what each is shows in its weights, what is lost is said, code is never run."""

import argparse
import json

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer
from typer.testing import CliRunner

from ancestors import (
    READER,
    RETRIEVER,
    arrays,
    atlas,
    contriever,
    fid_names,
    fid_reader,
    fid_retriever,
    small_tokenizer,
    t5_1_1,
)
from malicious import Malicious
from retort.cli import app
from retort.config import Prompts, StudentModel
from retort.importing import convert
from retort.records import Group, Passage, Query
from retort.students.loading import load_student
from retort.teachers.fid.attention import passage_scores
from retort.teachers.fid.bias import kept_bias
from retort.teachers.fid.loading import load_reader
from retort.teachers.fid.prompts import answers_in, passage_strings, tokenise_targets


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """The arguments of `convert` that name a tokeniser; the test machine has no others."""
    folder = tmp_path_factory.mktemp("tokenizers")
    small_tokenizer(folder / "reader", end="</s>")
    small_tokenizer(folder / "retriever")
    return {"reader_tokenizer": str(folder / "reader"), "retriever_tokenizer": str(folder / "retriever")}


def student_of(settings):
    own = {name.removeprefix("distil.student."): value for name, value in settings.items() if "student" in name}
    return load_student(StudentModel(**own))


def test_a_fid_reader_becomes_a_reader_folder(tokenizers, tmp_path):
    found = convert(fid_reader(tmp_path / "old"), tmp_path / "new", **tokenizers)
    assert (found.kind, dict(found.folders)) == ("FiD reader", {"reader": tmp_path / "new"})
    assert "relative_attention_bias.weight is dropped" in found.notes[0]
    assert "optimizer.pth.tar" in found.notes[1]
    state, weights = load_reader(tmp_path / "new").model.state_dict(), arrays("tiny_t5.npz")
    assert all(torch.equal(state[name], weights[name]) for name in state)


def test_a_fid_reader_can_keep_its_bias(tokenizers, tmp_path):
    found = convert(fid_reader(tmp_path / "old"), tmp_path / "new", **tokenizers, with_bias=True)
    assert not any("dropped" in note for note in found.notes)
    ids, mask = torch.tensor(READER["ids"]), torch.tensor(READER["mask"])
    with torch.no_grad():
        scores = passage_scores(load_reader(tmp_path / "new").model.eval(), ids, mask)
    torch.testing.assert_close(scores, torch.tensor(READER["scores"]), atol=1e-5, rtol=0)


def test_the_command_keeps_the_bias_where_asked_to(tokenizers, tmp_path):
    old, reader = fid_reader(tmp_path / "old"), tokenizers["reader_tokenizer"]
    arguments = ["convert", str(old), str(tmp_path / "new"), "--reader-tokenizer", reader, "--keep-bias"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert kept_bias(load_reader(tmp_path / "new").model) is not None


def test_only_a_reader_of_fid_has_a_bias_to_keep(tokenizers, tmp_path):
    for old in (fid_retriever(tmp_path / "fid", "proj_cls"), atlas(tmp_path / "atlas", reader=t5_1_1())):
        with pytest.raises(ValueError, match="holds no reader of FiD, which alone has a bias to be kept"):
            convert(old, tmp_path / "new", **tokenizers, with_bias=True)
        assert not (tmp_path / "new").exists()


def test_the_prompts_of_an_atlas_reader_give_atlas_ids(tokenizers, tmp_path):
    """Its target is '<extra_id_0> ANSWER' and the end (methods 3.1)."""
    special = AutoTokenizer.from_pretrained(tokenizers["reader_tokenizer"])
    special.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    special.save_pretrained(tmp_path / "tokenizer")
    named = {**tokenizers, "reader_tokenizer": str(tmp_path / "tokenizer")}
    found = convert(atlas(tmp_path / "old", reader=t5_1_1()), tmp_path / "new", **named)
    own = {name.removeprefix("read.prompts."): value for name, value in found.settings.items() if "prompts" in name}
    prompts, reader = Prompts(**own), load_reader(tmp_path / "new" / "reader")
    sentinel, snow, end = (special.convert_tokens_to_ids(word) for word in ("<extra_id_0>", "snow", "</s>"))
    targets = tokenise_targets(reader, ["snow"], prompts)
    assert targets.tolist() == [[sentinel, snow, end]]
    assert answers_in(reader, targets, prompts) == ["snow"]
    group = Group(Query("q", "who"), (Passage("p", "title", "snow"),))
    assert passage_strings(group, prompts) == ["question: who answer: <extra_id_0> title: title context: snow"]


@pytest.mark.parametrize("name", ["released_mean768", "proj_cls"])
def test_a_fid_retriever_becomes_a_sentence_transformers_folder(name, tokenizers, tmp_path):
    found = convert(fid_retriever(tmp_path / "old", name), tmp_path / "new", **tokenizers)
    assert found.kind == "FiD retriever"
    model = SentenceTransformer(str(found.folders["retriever"]), device="cpu")
    features = {"input_ids": torch.tensor(RETRIEVER["qid"]), "attention_mask": torch.tensor(RETRIEVER["qm"])}
    with torch.no_grad():
        torch.testing.assert_close(
            model(features)["sentence_embedding"], torch.tensor(RETRIEVER[name]["q"]), atol=1e-5, rtol=0
        )
    assert student_of(found.settings).settings.passage_tokens == 24


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_an_atlas_checkpoint_becomes_a_reader_and_a_retriever(wrapper, tokenizers, tmp_path):
    reader, encoder = t5_1_1(), contriever(0)
    old = atlas(tmp_path / "old", reader=reader, towers={"contriever": encoder}, wrapper=wrapper)
    found = convert(old, tmp_path / "new", **tokenizers)
    assert dict(found.folders) == {role: tmp_path / "new" / role for role in ("reader", "retriever")}
    state = load_reader(tmp_path / "new" / "reader").model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in reader.state_dict().items())
    student = student_of(found.settings)
    towers = student.model[0].model.state_dict()
    assert all(torch.equal(towers[name], value) for name, value in encoder.state_dict().items())
    assert (student.settings.query_tokens, student.settings.towers, found.settings["read.prompts.passage_tokens"]) == (
        24,
        "tied",
        24,
    )
    assert "optimizer, scheduler of step 5 are left behind" in found.notes


@pytest.mark.parametrize(("seeds", "towers"), [((0, 1), "separate"), ((0, 0), "tied")])
def test_atlas_towers_stay_two_only_where_they_differ(seeds, towers, tokenizers, tmp_path):
    names = ("query_contriever", "passage_contriever")
    encoders = dict(zip(names, map(contriever, seeds), strict=True))
    found = convert(atlas(tmp_path / "old", towers=encoders), tmp_path / "new", **tokenizers)
    student = student_of(found.settings)
    assert student.settings.towers == towers
    assert any("two retriever towers are equal" in note for note in found.notes) == (towers == "tied")
    assert set(found.folders) == {"retriever"}


def test_the_summary_reads_as_lines_and_as_json(tokenizers, tmp_path):
    found = convert(fid_reader(tmp_path / "old"), tmp_path / "new", **tokenizers)
    assert list(found.lines())[:2] == ["FiD reader", f"reader: {tmp_path / 'new'}"]
    assert json.loads(json.dumps(found.plain()))["settings"] == {"read.model": str(tmp_path / "new")}


def test_a_folders_own_tokeniser_is_taken(tmp_path):
    old = fid_retriever(tmp_path / "old", "proj_mean")
    small_tokenizer(old)
    convert(old, tmp_path / "new")
    assert SentenceTransformer(str(tmp_path / "new"), device="cpu").preprocess(["snow"])["input_ids"].tolist() == [
        [3, 31, 4]
    ]


def test_code_in_a_checkpoint_is_not_run_and_nothing_is_written(tokenizers, tmp_path):
    victim = tmp_path / "was-run"
    code = Malicious(f"touch {victim}")
    fid_reader(tmp_path / "fid", {"shared.weight": torch.ones(1), "x": code})
    atlas(tmp_path / "atlas", towers={"contriever": contriever(0)}, opt=argparse.Namespace(name=code))
    for name in ("fid", "atlas"):
        with pytest.raises(ValueError, match=r"names \w+\.system, expected tensors"):
            convert(tmp_path / name, tmp_path / "new", **tokenizers)
    assert not victim.exists()
    assert not (tmp_path / "new").exists()


def refused(source, tokenizers, message):
    with pytest.raises(ValueError, match=message):
        convert(source, source.parent / "new", **tokenizers)
    assert not (source.parent / "new").exists()


def test_what_is_no_checkpoint_of_the_ancestors_is_refused(tokenizers, tmp_path):
    one = torch.ones(1)
    refused(
        fid_reader(tmp_path / "a", {"bert.x": one}), tokenizers, r"holds the weights \['bert.x'\], expected FiD's reader"
    )
    refused(fid_reader(tmp_path / "b", {"epoch": 3}), tokenizers, r"holds dict \{'epoch': 3\}, expected tensors by name")
    refused(fid_reader(tmp_path / "c", [1]), tokenizers, r"holds list \[1\], expected tensors by name")
    twice = {"module.shared.weight": one, "shared.weight": one}
    refused(fid_reader(tmp_path / "d", twice), tokenizers, "differ in `module` only")


def test_a_folder_above_the_checkpoint_is_refused_with_the_right_one(tokenizers, tmp_path):
    fid_reader(tmp_path / "name" / "checkpoint" / "best_dev")
    refused(tmp_path / "name", tokenizers, r"holds 0 of the files .*did you mean .*best_dev")


def test_a_missing_or_broken_config_and_missing_weights_are_named(tokenizers, tmp_path):
    old = fid_reader(tmp_path / "old")
    (old / "config.json").write_text("{")
    refused(old, tokenizers, r"config.json cannot be read")
    (old / "config.json").unlink()
    refused(old, tokenizers, r"config.json cannot be read .*expected the config of pytorch_model.bin")
    state = fid_names(arrays("tiny_t5.npz"))
    del state["encoder.encoder.final_layer_norm.weight"]
    refused(fid_reader(tmp_path / "few", state), tokenizers, r"missing \['encoder.final_layer_norm.weight'\]")


def test_atlas_weights_of_other_models_are_refused(tokenizers, tmp_path):
    refused(
        atlas(tmp_path / "a", towers={"encoder": contriever(0)}), tokenizers, r"a weight 'retriever.encoder.*expected reader"
    )
    refused(
        atlas(tmp_path / "b", towers={"query_contriever": contriever(0)}),
        tokenizers,
        r"holds \['query_contriever'\], expected",
    )
    refused(
        atlas(tmp_path / "c", model={"other.x": torch.ones(1)}),
        tokenizers,
        r"a weight 'other.x', expected reader\., retriever\.contriever",
    )


def test_a_place_that_is_taken_and_a_tokeniser_that_is_not_there_are_refused(tokenizers, tmp_path):
    old = fid_reader(tmp_path / "old")
    with pytest.raises(ValueError, match=r"old is there already, expected a new folder"):
        convert(old, old, **tokenizers)
    with pytest.raises(ValueError, match=r"tokeniser '.*nothing' of the reader cannot be loaded: .*google-t5/t5-base"):
        convert(old, tmp_path / "new", reader_tokenizer=str(tmp_path / "nothing"))
