import re

import numpy as np
import pytest
import yaml

from retort.config import StudentModel
from retort.records import Passage, Query
from retort.students.card import CardFacts, write_model_card
from retort.students.loading import load_student
from tiny import tiny_masked_model


def card(tmp_path, **student):
    facts = CardFacts(
        student=StudentModel(**{"model": "some/encoder"} | student),
        round=2,
        teacher="FiD reader of round 2",
        objectives="KL(student_temperature=1.0, teacher_temperature=1.0)",
        data={"questions": 120},
        metrics={"nDCG@10": 0.51234},
        cost={"optimiser steps": 40},
    )
    write_model_card(tmp_path, facts)
    return (tmp_path / "README.md").read_text()


def test_the_card_states_lineage_data_metrics_and_cost(tmp_path):
    text = card(tmp_path)
    for row in (
        "| Base model | `some/encoder` |",
        "| Round | 2 |",
        "| questions | 120 |",
        "| nDCG@10 | 0.5123 |",
        "| optimiser steps | 40 |",
        "| Teacher | FiD reader of round 2 |",
    ):
        assert row in text


def test_the_header_of_the_card_is_yaml_that_the_hub_reads(tmp_path):
    header = yaml.safe_load(card(tmp_path).split("---")[1])
    assert header["library_name"] == "sentence-transformers"


def test_the_usage_names_the_passage_format_only_where_there_is_one_to_fill_in(tmp_path):
    assert '"title: {title} context: {text}".format(title=title, text=text)' in card(tmp_path)
    assert "encode_document([text])" in card(tmp_path, passage_format="passage: {text}")


def test_the_card_says_how_a_score_was_made_in_training(tmp_path):
    for settings, said in (
        ({}, "inner product divided by the square root of the dimension"),
        ({"score": "cosine", "scale": 0.05}, "cosine divided by 0.05"),
        ({"kind": "sparse"}, "inner product divided by 1"),
        ({"kind": "late_interaction", "scale": 32.0}, "MaxSim divided by 32"),
    ):
        assert f"| Score in training | {said} |" in card(tmp_path, **settings)


KINDS = {
    "dense": lambda query, passage: query @ passage.T,
    "sparse": lambda query, passage: (query @ passage.T).toarray(),
    "late_interaction": lambda query, passage: [[(query[0] @ passage[0].T).max(1).sum()]],
}


@pytest.mark.filterwarnings("ignore:.*has no projection", "ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("kind", KINDS)
def test_the_lines_of_the_card_load_the_model_and_score_as_it_does(kind, tmp_path):
    settings = {"kind": kind, "model": str(tiny_masked_model(tmp_path / "base")), "query_tokens": 20, "passage_tokens": 48}
    student = load_student(StudentModel(**settings))
    student.save(tmp_path)
    lines = re.search(r"```python\n(.*?)```", card(tmp_path, **settings), re.DOTALL)[1]
    names = {"question": "who was king of the snow", "title": "Snow", "text": "It is cold in the north."}
    exec(lines.replace("path/of/this/folder", str(tmp_path)), names)
    query, passage = Query("q", names["question"]), Passage("p", names["title"], names["text"])
    expected = KINDS[kind](student.embed([query], "query"), student.embed([passage], "passage"))
    np.testing.assert_allclose(names["scores"].numpy(), expected, rtol=1e-5)
