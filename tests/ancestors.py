"""Checkpoints in the layouts of FiD and Atlas (methods 4.3, 4.4), built from the golden weights: never downloaded."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

GOLDEN = Path(__file__).parent / "reference" / "golden"
RETRIEVER = json.loads((GOLDEN / "ref_retriever_v302.json").read_text())
READER = json.loads((GOLDEN / "ref_fid_v302.json").read_text())
WORDS = [
    "[PAD]", "</s>", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", "snow", "who", "?", ":", "title", "question",
]  # fmt: skip
CONTRIEVER = {  # as wide as one attention head of the published size
    "vocab_size": 60, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 80,
    "max_position_embeddings": 32, "type_vocab_size": 2,
}  # fmt: skip


def arrays(name):
    with np.load(GOLDEN / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def small_tokenizer(folder, *, end="[SEP]"):
    """A WordPiece tokeniser with fewer entries than the golden models have embeddings, saved in `folder`."""
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, WORDS.index(name)) for name in ("[CLS]", "[SEP]")]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", eos_token=end
    )
    wrapped.save_pretrained(folder)
    return wrapped


def fid_names(state):
    """T5's weights under the names that FiD's wrapped encoder has."""
    names = {}
    for name, value in state.items():
        old = f"encoder.{name}" if name.startswith("encoder.") else name
        if old.startswith("encoder.encoder.block."):
            old = old.replace(".layer.", ".module.layer.", 1)
        names[old] = value
    return names


def fid_reader(folder, state=None, config=None):
    """FiD's folder of the golden reader, the removed bias with it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(fid_names(arrays("tiny_t5.npz")) if state is None else state, folder / "pytorch_model.bin")
    old = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "n_positions": 512,
        "task_specific_params": {},
    }
    (folder / "config.json").write_text(json.dumps(old | (READER["cfg"] if config is None else config)))
    torch.save({"step": 1, "opt": argparse.Namespace(name="x"), "optimizer": {}}, folder / "optimizer.pth.tar")
    return folder


def fid_retriever(folder, name, *, state=None, **changes):
    """FiD's folder of one of the golden retrievers: `name` as in the golden file."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {"indexing_dimension": 256, "passage_maxlength": 24, "question_maxlength": 12} | RETRIEVER[name]["cfg"] | changes
    file = "tiny_retr_proj_mean.npz" if cfg["projection"] else "tiny_retr_released_mean768.npz"
    positions = {"model.embeddings.position_ids": torch.arange(32)[None]}
    torch.save(arrays(file) | positions if state is None else state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"} | RETRIEVER["bert"] | cfg))
    return folder


def contriever(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertModel(BertConfig(**CONTRIEVER, initializer_range=0.2), add_pooling_layer=False).eval()


def t5_1_1(seed=0):
    """A random T5 1.1, with an output table of its own."""
    config = T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4,
        relative_attention_num_buckets=8, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        decoder_start_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
        model.lm_head.weight = torch.nn.Parameter(torch.randn(64, 32))
    return model.eval()


def atlas(folder, *, reader=None, towers=None, wrapper="", **more):
    """An Atlas checkpoint of a reader and of towers by name, each weight's name behind its model's and `wrapper`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {} if reader is None else {f"reader.{name}": value for name, value in reader.state_dict().items()}
    for tower, encoder in (towers or {}).items():
        model |= {f"retriever.{wrapper}{tower}.{name}": value for name, value in encoder.state_dict().items()}
    options = argparse.Namespace(text_maxlength=24, name="atlas", per_gpu_batch_size=1)
    saved = {"step": 5, "model": model, "optimizer": {"state": {}}, "retr_optimizer": None, "scheduler": {"last_epoch": 5},
             "retr_scheduler": None, "opt": options, **more}  # fmt: skip
    torch.save(saved, folder / "model.pth.tar")
    return folder
