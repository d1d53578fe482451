import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    ByT5Tokenizer,
    EncoderDecoderModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from retort.config import Prompts, Read
from retort.teachers.fid.attention import passage_scores
from retort.teachers.fid.bias import REMOVED_BIAS
from retort.teachers.fid.loading import check_reader, load_reader, load_t5, make_reader, save_reader, warm_start
from retort.teachers.fid.model import Reader
from tiny import tiny_bert, tiny_encoder, tiny_masked_model, tiny_reader, tiny_t5, tiny_tokenizer

KINDS = ["t5", "bart", "bert", "copying"]
SHORT = Prompts(passage_tokens=60)  # for models of 64 positions
WEIGHTS = {Path("model.safetensors"), Path("gate.safetensors")}


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_weights(found, wanted):
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory, tokenizer):
    """A T5 as transformers saves it, without our mark."""
    folder = tmp_path_factory.mktemp("t5")
    tiny_t5(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ---- saving and loading


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_reader_comes_back_weight_for_weight_and_scores_alike(readers, passages, kind, tmp_path):
    save_reader(readers[kind], tmp_path)
    loaded = load_reader(tmp_path).eval()
    assert_same_weights(loaded.state_dict(), readers[kind].state_dict())
    with torch.no_grad():
        wanted = passage_scores(readers[kind].model, *passages)
        assert torch.equal(passage_scores(loaded.model, *passages), wanted)
        labels = torch.tensor([[25, 30, 3], [38, 3, -100]])
        assert torch.equal(loaded(*passages, labels), readers[kind](*passages, labels))
    assert torch.equal(loaded.generate(*passages, max_tokens=4), readers[kind].generate(*passages, max_tokens=4))


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_is_saved_loaded_and_saved_leaves_the_same_bytes(readers, kind, tmp_path):
    """Of the weights at once; the configs of a model built in code say less than those of a loaded one."""
    for name in ("zero", "again"):
        save_reader(readers[kind], tmp_path / name)
    for before, after in (("zero", "one"), ("one", "two")):
        save_reader(load_reader(tmp_path / before), tmp_path / after)
    zero, again, one, two = (files(tmp_path / name) for name in ("zero", "again", "one", "two"))
    assert zero == again
    assert one == two
    assert {path: zero[path] for path in WEIGHTS & set(zero)} == {path: one[path] for path in WEIGHTS & set(one)}


@pytest.mark.parametrize("kind", ["bert", "copying"])
def test_a_loaded_warm_start_still_shares_one_word_table(readers, kind, tmp_path):
    save_reader(readers[kind], tmp_path)
    model = load_reader(tmp_path).model
    table = model.encoder.embeddings.word_embeddings.weight
    assert model.decoder.bert.embeddings.word_embeddings.weight is table
    assert model.decoder.cls.predictions.decoder.weight is table


def test_an_encoder_decoder_with_tables_of_its_own_keeps_them(tokenizer, passages, tmp_path):
    """As published BERT2BERT models have them; sharing them on loading would replace trained weights."""
    config = BertConfig(**tiny_bert(len(tokenizer)).config.to_dict() | {"is_decoder": True, "add_cross_attention": True})
    model = EncoderDecoderModel(encoder=tiny_bert(len(tokenizer)), decoder=BertLMHeadModel(config))
    model.config.decoder_start_token_id = tokenizer.cls_token_id
    reader = Reader(model.eval(), tokenizer)
    save_reader(reader, tmp_path)
    loaded = load_reader(tmp_path)
    found, wanted = loaded.state_dict(), reader.state_dict()
    assert_same_weights(found, {name: value for name, value in wanted.items() if "pooler" not in name})
    word_tables = [name for name in found if name.endswith("word_embeddings.weight")]
    assert not torch.equal(*(found[name] for name in word_tables))


def test_a_loaded_encoder_has_no_pooler_since_no_reader_uses_it(tokenizer, tmp_path):
    """An unused weight stops DistributedDataParallel, and a missing one would be random at each loading."""
    model = tiny_reader("bert", tokenizer).model
    model.encoder.pooler = BertModel(model.encoder.config).pooler
    save_reader(Reader(model, tokenizer), tmp_path)
    assert load_reader(tmp_path).model.encoder.pooler is None


@pytest.mark.parametrize("kind", ["t5", "bart", "bert"])
def test_loading_sets_every_dropout_when_asked(readers, kind, tmp_path):
    save_reader(readers[kind], tmp_path)
    for wanted in (0.0, 0.3):
        model = load_reader(tmp_path, dropout=wanted).model
        rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        rates |= {module.dropout for module in model.modules() if isinstance(getattr(module, "dropout", None), float)}
        assert rates == {wanted}


def test_a_folder_that_holds_no_reader_is_refused(t5_folder, tmp_path):
    for folder in (t5_folder, tmp_path / "nothing"):
        with pytest.raises(ValueError, match="expected a folder that a reader was saved to"):
            load_reader(folder)


def test_a_saved_reader_that_lacks_a_weight_is_refused(readers, tmp_path):
    save_reader(readers["bert"], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["decoder.bert.encoder.layer.0.crossattention.self.key.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, for example 'decoder\.bert.*crossattention\.self\.key"):
        load_reader(tmp_path)


# ---- making


def test_a_warm_start_copies_the_first_layers_and_lets_cross_attention_start_as_self_attention(tokenizer):
    encoder = tiny_bert(len(tokenizer))
    wanted = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = warm_start(encoder, tokenizer, decoder_layers=1)
    assert_same_weights(model.encoder.state_dict(), wanted)
    (layer,) = model.decoder.bert.encoder.layer
    for part in ("attention", "intermediate", "output"):
        given = {name: value for name, value in layer.state_dict().items() if name.startswith(f"{part}.")}
        assert_same_weights(given, {name: wanted[f"encoder.layer.0.{name}"] for name in given})
    assert_same_weights(layer.crossattention.state_dict(), layer.attention.state_dict())
    assert model.decoder.bert.embeddings.word_embeddings.weight is encoder.embeddings.word_embeddings.weight
    assert model.decoder.cls.predictions.decoder.weight is encoder.embeddings.word_embeddings.weight


def test_the_settings_make_a_reader_of_an_encoder(encoder_folder, tmp_path):
    reader = make_reader(Read(model=str(encoder_folder), decoder_layers=2, copies=True, dropout=0.25, prompts=SHORT))
    assert isinstance(reader.model, EncoderDecoderModel)
    assert (len(reader.model.decoder.bert.encoder.layer), reader.gate is None) == (2, False)
    assert {module.p for module in reader.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    assert reader.model.encoder.pooler is None


def test_the_settings_make_a_reader_of_an_encoder_decoder(t5_folder, tokenizer):
    reader = make_reader(Read(model=str(t5_folder)))
    assert_same_weights(reader.model.state_dict(), tiny_t5(tokenizer).state_dict())


def test_a_t5_with_an_output_table_of_its_own_keeps_it_through_saving_and_loading(t5_folder, tmp_path):
    """As Flan-T5 has; its config asks for `tie_word_embeddings: false`, which also means that logits are not scaled."""
    shutil.copytree(t5_folder, tmp_path / "flan")
    weights = load_file(t5_folder / "model.safetensors")
    weights["lm_head.weight"] = weights["shared.weight"] + 1
    save_file(weights, tmp_path / "flan" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((t5_folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    del config["scale_decoder_outputs"]  # newer than Flan-T5's config
    (tmp_path / "flan" / "config.json").write_text(json.dumps(config))
    save_reader(make_reader(Read(model=str(tmp_path / "flan"))), tmp_path / "saved")
    model = load_reader(tmp_path / "saved").model
    assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])
    assert torch.equal(model.shared.weight, weights["shared.weight"])
    assert model.config.scale_decoder_outputs is False


def test_the_settings_take_up_a_saved_reader_as_it_is(readers, tmp_path):
    save_reader(readers["copying"], tmp_path)
    reader = make_reader(
        Read(model=str(tmp_path), decoder_layers=1, prompts=SHORT)
    )  # as for a round that goes on from a warm start
    assert_same_weights(reader.state_dict(), readers["copying"].state_dict())


def test_copies_are_not_silently_left_out_or_started_anew(readers, tmp_path):
    save_reader(readers["bert"], tmp_path)
    with pytest.raises(ValueError, match="was trained without"):
        make_reader(Read(model=str(tmp_path), copies=True, prompts=SHORT))


def test_a_warm_start_from_anything_but_bert_is_refused(t5_folder):
    with pytest.raises(ValueError, match=r"is a t5 model and read\.decoder_layers is set"):
        make_reader(Read(model=str(t5_folder), decoder_layers=1))


def test_more_decoder_layers_than_the_encoder_has_are_refused(encoder_folder):
    with pytest.raises(ValueError, match=r"decoder_layers is 3, .* layers, which are 2"):
        make_reader(Read(model=str(encoder_folder), decoder_layers=3, prompts=SHORT))


def test_a_checkpoint_that_lacks_weights_is_refused(t5_folder, tmp_path):
    shutil.copytree(t5_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "EncDecAttention" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 8 weights, for example 'decoder\.block\.0\.layer\.1"):
        make_reader(Read(model=str(tmp_path)))


def test_a_bare_encoder_is_taken_out_of_a_checkpoint_with_the_head_that_it_was_trained_with(tmp_path):
    masked = tiny_masked_model(tmp_path)
    weights = load_file(masked / "model.safetensors")
    assert any(name.startswith("cls.") for name in weights)
    found = make_reader(Read(model=str(masked), decoder_layers=1, prompts=SHORT)).model.encoder.state_dict()
    assert all(torch.equal(value, weights[f"bert.{name}"]) for name, value in found.items())


def test_an_encoder_of_more_layers_than_its_config_says_is_refused(tmp_path):
    folder = tiny_encoder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"holds 16 weights that its config has no place for, .*'encoder\.layer\.1\."):
        make_reader(Read(model=str(folder), decoder_layers=1, prompts=SHORT))


def test_a_t5_that_holds_the_removed_bias_is_taken_with_a_warning(t5_folder, tmp_path):
    shutil.copytree(t5_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {REMOVED_BIAS: torch.ones(8, 2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"relative_attention_bias\.weight, which no T5 since .* it is dropped"):
        reader = make_reader(Read(model=str(tmp_path)))
    assert REMOVED_BIAS not in reader.model.state_dict()


def test_a_model_that_is_no_encoder_decoder_is_refused_when_it_is_made_and_before(tokenizer, encoder_folder, tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for folder, kind in ((tmp_path, "gpt2"), (encoder_folder, "bert")):
        for refuse in (make_reader, check_reader):
            with pytest.raises(ValueError, match=rf"is a {kind} model and read\.decoder_layers is not set, expected an enc"):
                refuse(Read(model=str(folder)))


def test_the_check_before_reads_no_weight(t5_folder, tmp_path):
    shutil.copy(t5_folder / "config.json", tmp_path)
    check_reader(Read(model=str(tmp_path)))
    with pytest.raises(ValueError, match=r"is a t5 model and read\.decoder_layers is set"):
        check_reader(Read(model=str(tmp_path), decoder_layers=1))


@pytest.mark.parametrize("load", [lambda folder: make_reader(Read(model=str(folder))), load_reader])
def test_a_tokenizer_that_cannot_fill_up_batches_is_refused(readers, tmp_path, load):
    save_reader(readers["t5"], tmp_path)
    without = tiny_tokenizer(tmp_path / "other")
    without.pad_token = None
    without.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="neither a padding token nor an end token, expected one of them"):
        load(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tokenizer, tmp_path):
    model = tiny_t5(tokenizer)
    model.resize_token_embeddings(100)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"the tokenizer has {len(tokenizer)} tokens, its model's vocabulary 100"):
        make_reader(Read(model=str(tmp_path)))


def test_a_slow_tokenizer_is_taken(tmp_path):
    """As ByT5 has; only what asks where tokens stand needs a fast one."""
    slow = ByT5Tokenizer()
    tiny_t5(slow).save_pretrained(tmp_path)
    slow.save_pretrained(tmp_path)
    assert not make_reader(Read(model=str(tmp_path))).tokenizer.is_fast


def test_a_broken_gate_is_named(readers, tmp_path):
    save_reader(readers["copying"], tmp_path)
    (tmp_path / "gate.safetensors").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"gate\.safetensors cannot be read \(.*\), expected what a saved reader has there"):
        load_reader(tmp_path)


def test_a_model_that_is_not_there_is_refused_with_what_to_give(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="give a model folder or a hub id"):
        make_reader(Read(model=str(tmp_path / "nothing")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"no-one/nothing' cannot be loaded: .* Give a model folder, package:NAME/folder"):
        make_reader(Read(model="no-one/nothing"))


# ---- plain T5 state dicts


def test_a_plain_t5_state_dict_is_taken_whole_but_for_the_removed_bias(golden, golden_weights):
    model = load_t5(golden_weights, golden["cfg"])
    found = model.state_dict()
    assert REMOVED_BIAS in golden_weights
    assert set(found) == set(golden_weights) - {REMOVED_BIAS}
    assert all(torch.equal(found[name], golden_weights[name]) for name in found)
    assert not model.training


def test_a_t5_state_dict_may_leave_out_the_copies_of_its_tied_table(golden, golden_weights):
    few = {name: value for name, value in golden_weights.items() if "embed_tokens" not in name and name != "lm_head.weight"}
    found = load_t5(few, golden["cfg"]).state_dict()
    assert all(torch.equal(found[name], golden_weights[name]) for name in found)


@pytest.mark.parametrize("missing", ["shared.weight", "decoder.block.1.layer.1.EncDecAttention.k.weight"])
def test_a_t5_state_dict_that_lacks_a_weight_is_refused(golden, golden_weights, missing):
    few = {name: value for name, value in golden_weights.items() if name != missing}
    with pytest.raises(ValueError, match=f"missing .*{missing}"):
        load_t5(few, golden["cfg"])


def test_a_t5_state_dict_with_an_output_table_of_its_own_keeps_it(golden, golden_weights):
    given = golden_weights | {"lm_head.weight": golden_weights["shared.weight"] + 1}
    found = load_t5(given, golden["cfg"] | {"tie_word_embeddings": False}).state_dict()
    assert all(torch.equal(found[name], given[name]) for name in found)


def test_an_untied_t5_needs_its_output_table(golden, golden_weights):
    few = {name: value for name, value in golden_weights.items() if name != "lm_head.weight"}
    with pytest.raises(ValueError, match=r"missing \['lm_head\.weight'\]"):
        load_t5(few, golden["cfg"] | {"tie_word_embeddings": False})


def test_a_t5_state_dict_with_an_unknown_weight_is_refused(golden, golden_weights):
    with pytest.raises(ValueError, match=r"unknown \['decoder.head.weight'\]"):
        load_t5(golden_weights | {"decoder.head.weight": torch.ones(1)}, golden["cfg"])


def test_a_t5_state_dict_of_another_size_is_refused(golden, golden_weights):
    with pytest.raises(ValueError, match=r"(?s)not a T5 state dict of this config.*size mismatch.*check the config"):
        load_t5(golden_weights, golden["cfg"] | {"d_ff": 40})


def test_the_mark_of_a_saved_reader_says_what_transformers_cannot(readers, tmp_path):
    save_reader(readers["copying"], tmp_path)
    assert json.loads((tmp_path / "reader.json").read_text()) == {"copies": True, "shared_embeddings": True}
    assert isinstance(EncoderDecoderModel.from_pretrained(tmp_path), EncoderDecoderModel)  # a plain folder of transformers
