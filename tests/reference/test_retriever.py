"""The dense student against the published retriever (golden files of methods 9.4), in its four configurations.

A projection head stands before the pooling there. For position 0 the stock modules after the pooling are the same thing; for
the mean, a per-token LayerNorm has no stock module, so the test brings one.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling, Transformer
from transformers import BertConfig, BertModel

from retort.config import StudentModel
from retort.losses.listwise import kl
from retort.students.dense import DenseStudent
from retort.students.loading import load_student
from retort.tensors import Batch, Tokens
from tiny import tiny_tokenizer

GOLDEN = Path(__file__).parent / "golden"
REFERENCE = json.loads((GOLDEN / "ref_retriever_v302.json").read_text())
LENGTHS = {"query_tokens": 32, "passage_tokens": 32}


class TokenNorm(torch.nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, features):
        return {**features, "token_embeddings": self.norm(features["token_embeddings"])}


def weights(name):
    with np.load(GOLDEN / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def encoder_folder(folder, state):
    tiny_tokenizer(folder)
    encoder = BertModel(BertConfig(**REFERENCE["bert"]))
    encoder.load_state_dict({name.removeprefix("model."): w for name, w in state.items() if name.startswith("model.")})
    encoder.save_pretrained(folder)
    return folder


def released(folder):
    path = encoder_folder(folder, weights("tiny_retr_released_mean768.npz"))
    return load_student(StudentModel(model=str(path), **LENGTHS))


def projected(folder, pooling):
    state = weights("tiny_retr_proj_mean.npz")
    path = encoder_folder(folder, state)
    pooled = pooling == "cls"
    place = "sentence_embedding" if pooled else "token_embeddings"
    dense = Dense(24, 10, activation_function=None, module_input_name=place)
    norm = LayerNorm(10)
    dense.linear.load_state_dict({"weight": state["proj.weight"], "bias": state["proj.bias"]})
    norm.norm.load_state_dict({"weight": state["norm.weight"], "bias": state["norm.bias"]})
    head = [Pooling(24, "cls"), dense, norm] if pooled else [dense, TokenNorm(norm.norm), Pooling(10, "mean")]
    model = SentenceTransformer(modules=[Transformer(str(path)), *head], device="cpu")
    return DenseStudent(model.eval(), StudentModel(**LENGTHS))


def tokens(side, ids, mask, *, masked):
    ids, mask = torch.tensor(ids).flatten(0, -2), torch.tensor(mask).flatten(0, -2)
    mask = mask if masked else torch.ones_like(mask)
    return Tokens(side, {"input_ids": ids, "attention_mask": mask}, mask.bool())


STUDENTS = {
    "released_mean768": released,
    "proj_cls": lambda folder: projected(folder, "cls"),
    "proj_mean": lambda folder: projected(folder, "mean"),
    "proj_mean_nomask": lambda folder: projected(folder, "mean"),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_vectors_scores_and_loss_are_those_of_the_published_code(name, tmp_path):
    expected, student = REFERENCE[name], STUDENTS[name](tmp_path)
    masked = name != "proj_mean_nomask"
    with torch.no_grad():
        queries = student.encode(tokens("query", REFERENCE["qid"], REFERENCE["qm"], masked=masked))
        passages = student.encode(tokens("passage", REFERENCE["pid"], REFERENCE["pm"], masked=masked))
    real = torch.ones(2, 4, dtype=torch.bool)
    batch = Batch((), (), torch.arange(8).reshape(2, 4), real, ~real)
    scores = student.score(queries, passages, batch, frozenset({"scores"})).scores
    loss = kl(scores, torch.tensor(REFERENCE["gold"]), real)
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(queries.vectors, torch.tensor(expected["q"]), **close)
    torch.testing.assert_close(passages.vectors, torch.tensor(expected["p"]), **close)
    torch.testing.assert_close(scores, torch.tensor(expected["score"]), **close)
    torch.testing.assert_close(loss.mean(), torch.tensor(expected["kl_batchmean"]), **close)
    torch.testing.assert_close(loss.mean() / 4, torch.tensor(expected["loss"]), **close)
