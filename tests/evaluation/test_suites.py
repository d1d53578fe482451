"""The table of a suite: macro averages over datasets, parts of a dataset first, nothing averaged over other datasets."""

import pytest

from retort.evaluation.suites import suite_table

N = "nDCG@10"


def scored(**values):
    return {name.replace("_", "/"): {N: value, "R@100": 0.9} for name, value in values.items()}


def test_every_dataset_counts_alike_and_parts_of_one_are_averaged_first():
    found = suite_table({"splade": scored(scifact=0.7, cqadupstack_gis=0.2, cqadupstack_tex=0.4, fiqa=0.2)}, N)
    assert found.datasets == ("scifact", "cqadupstack", "fiqa")
    assert found.rows["splade"] == pytest.approx((0.7, 0.3, 0.2))
    assert found.averages["splade"] == pytest.approx(0.4)  # not 0.375, the mean of the four


def test_what_was_trained_on_is_shown_and_not_averaged():
    results = {"dense": scored(msmarco=0.9, scifact=0.6, fiqa=0.2)}
    assert suite_table(results, N).rows["dense"][0] == 0.9
    assert suite_table(results, N).averages["dense"] == pytest.approx(0.4)
    assert suite_table(results, N, in_domain=()).averages["dense"] == pytest.approx(1.7 / 3)
    assert suite_table(results, N, in_domain=("msmarco", "scifact", "fiqa")).averages["dense"] is None


def test_a_system_without_a_dataset_or_a_part_of_one_has_no_average():
    results = {
        "whole": scored(scifact=0.6, cqadupstack_gis=0.2, cqadupstack_tex=0.4),
        "part": scored(scifact=0.7, cqadupstack_gis=0.9),
        "none": scored(cqadupstack_gis=0.2, cqadupstack_tex=0.4),
    }
    found = suite_table(results, N)
    assert found.rows["part"] == (0.7, None)
    assert found.rows["none"] == pytest.approx((None, 0.3))
    assert found.averages["whole"] == pytest.approx(0.45)
    assert found.averages["part"] is found.averages["none"] is None


def test_the_columns_stand_in_the_order_in_which_datasets_come_first():
    found = suite_table({"a": scored(fiqa=0.1, scifact=0.2), "b": scored(scifact=0.3, arguana=0.4, fiqa=0.5)}, N)
    assert found.datasets == ("fiqa", "scifact", "arguana")
    assert found.rows["b"] == (0.5, 0.3, 0.4)


def test_the_printed_table_is_aligned_and_marks_what_is_missing():
    text = str(suite_table({"bm25": scored(scifact=0.665, fiqa=0.236), "a longer name": scored(scifact=1.0)}, N))
    assert text.splitlines() == [
        "| nDCG@10       | scifact | fiqa | average |",
        "| ------------- | ------: | ---: | ------: |",
        "| bm25          |    66.5 | 23.6 |    45.1 |",
        "| a longer name |   100.0 |    – |       – |",  # noqa: RUF001
    ]


def test_no_results_and_a_measure_that_was_not_taken_are_refused():
    with pytest.raises(ValueError, match="no results to tabulate"):
        suite_table({"bm25": {}}, N)
    with pytest.raises(ValueError, match=r"'bm25' has no RR@10 on 'scifact', only nDCG@10, R@100: evaluate it"):
        suite_table({"bm25": scored(scifact=0.6)}, "RR@10")
