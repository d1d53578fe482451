import json

import encode_speed
import numpy as np
import pytest
import torch

from retort.config import StudentModel
from retort.students.loading import load_student
from tiny import tiny_student, tiny_world


@pytest.fixture
def model(tmp_path):
    return tiny_student(tmp_path)


@pytest.mark.usefixtures("data")
def test_both_sides_give_the_same_vectors_and_the_line_holds_each_target(model, capsys):
    short = ["--passages", "12", "--repeats", "1", "--tokens", "32"]
    encode_speed.main([*short, "--sets", "fairytaleqa", "--model", str(model)])
    line = json.loads(capsys.readouterr().out)
    measured = {(one["what"].removesuffix(", fairytaleqa"), one["against"]): one for one in line["targets"]}
    assert (line["set"], line["passages"]) == ("fairytaleqa", 12)
    assert set(line["ratio"]) == {encode_speed.DEFAULT, encode_speed.BEST}
    closeness = encode_speed.CLOSENESS[getattr(torch, line["precision"])]
    assert measured[closeness.what, closeness.against]["verdict"] == "pass"


def test_padding_is_what_a_count_by_hand_finds(model):
    student = load_student(StudentModel(model=str(model), query_tokens=16, passage_tokens=32))
    passages = list(tiny_world()[0])
    lengths = student.tokenise(passages, "passage").lengths
    assert encode_speed.padding(student, passages, batch_tokens=1) == 0  # one text a batch
    whole = 1 - float(lengths.sum()) / (len(lengths) * int(lengths.max()))
    assert encode_speed.padding(student, passages, batch_tokens=10_000) == pytest.approx(whole)


def test_vectors_that_differ_are_found_in_either_precision():
    vectors = np.eye(2, dtype=np.float32)
    assert encode_speed.nearness(vectors, vectors + 0.5, torch.float32) == 0.5
    assert encode_speed.nearness(vectors, vectors[::-1], torch.bfloat16) == 0
    assert encode_speed.nearness(vectors, 2 * vectors, torch.bfloat16) == 1
