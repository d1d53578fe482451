import yaml

from retort.config import StudentModel
from retort.students.card import CardFacts, write_model_card


def card(tmp_path, **student):
    facts = CardFacts(
        student=StudentModel(model="some/encoder", **student),
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
