"""Models are looked at by their small files before anything is built."""

import json

import pytest
from transformers import BertConfig, GPT2Config

from retort.checks import check_start
from retort.plan import plan
from tiny import tiny_cross_encoder
from tiny_run import config


def refused(sources, root, message, **changes):
    steps = plan(config(sources, **changes), root)
    with pytest.raises(ValueError, match=message):
        check_start(steps, list(steps), force=False)


def with_config(folder, **values):
    """A model's folder whose config says something else."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return str(folder)


@pytest.mark.parametrize(
    ("values", "tokens", "message"),
    [
        ({"id2label": None, "num_labels": 3}, 40, "gives 3 labels for a pair, expected 1"),
        ({"id2label": {"0": "no", "1": "yes"}}, 40, "gives 2 labels for a pair, expected 1"),
        ({}, 4000, "is given 4000 tokens, but its model has"),
        ({"architectures": ["BertModel"]}, 40, "is a SentenceTransformer, expected a CrossEncoder"),
    ],
)
def test_a_cross_encoder_that_cannot_rank_is_refused_with_its_place(values, tokens, message, sources, tmp_path):
    folder = tiny_cross_encoder(tmp_path / "model")
    for file in folder.glob("*modules.json"):
        file.unlink()
    (folder / "config_sentence_transformers.json").unlink(missing_ok=True)
    model = with_config(folder, **values)
    teachers = [{"kind": "bm25"}, {"kind": "cross_encoder", "model": model, "tokens": tokens}]
    refused(sources, tmp_path / "run", f"label.teachers.1: .*{message}", label={"teachers": teachers})


def test_a_cross_encoder_is_no_retriever(sources, tmp_path):
    teachers = [{"kind": "retriever", "model": str(tiny_cross_encoder(tmp_path / "model")), "tokens": 40}]
    refused(sources, tmp_path / "run", "label.teachers.0: .*is a CrossEncoder, expected", label={"teachers": teachers})


@pytest.mark.parametrize(("kind", "found"), [(GPT2Config, "is a gpt2 model"), (BertConfig, "is a bert model")])
def test_a_model_without_cross_attention_is_no_reader(kind, found, sources, tmp_path):
    kind().save_pretrained(tmp_path / "model")
    model = {"model": str(tmp_path / "model")}
    refused(sources, tmp_path / "run", f"read: .*{found} and read.decoder_layers is not set, expected", read=model)


def test_weights_that_were_cut_off_are_refused(sources, tmp_path):
    folder = tiny_cross_encoder(tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    teachers = [{"kind": "cross_encoder", "model": str(folder), "tokens": 40}]
    refused(sources, tmp_path / "run", "label.teachers.0: .*model.safetensors is not whole", label={"teachers": teachers})
