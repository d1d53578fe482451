"""Distillation sets for other libraries: they read back the same, here and with `datasets`."""

import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from sentence_transformers.util import resolve_ids

from retort.data.kd_sets import write_colbert, write_flag_embedding, write_id_tables, write_tevatron
from retort.data.scores import read_scores
from retort.records import Corpus, Passage, Qrels, Query, Run
from tiny import tiny_world

CORPUS, QUERIES, RUN = tiny_world(passages=9, queries=4)
EMPTY = Query("q9", "without any passage")
ASKED = [*QUERIES, EMPTY]
RUN = Run.build("t", [q.id for q in ASKED], [*(rows for _, rows, _ in RUN), []], [*(s / 3 for *_, s in RUN), []])
WRITERS = {
    "ids.jsonl": lambda path: write_id_tables(RUN, CORPUS, ASKED, path.parent),
    "ids.parquet": lambda path: write_id_tables(RUN, CORPUS, ASKED, path.parent, ending="parquet"),
    "flag.jsonl": lambda path: write_flag_embedding(RUN, CORPUS, ASKED, path),
    "tevatron.jsonl": lambda path: write_tevatron(RUN, CORPUS, ASKED, path),
    "colbert.json": lambda path: write_colbert(RUN, CORPUS, path),
}


def same(run, other):
    return (
        run.query_ids == other.query_ids
        and (run.starts == other.starts).all()
        and (run.passages == other.passages).all()
        and (run.scores == other.scores).all()
    )


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_reads_back_the_same_to_the_last_bit(tmp_path, name):
    count = WRITERS[name](tmp_path / name)
    path = tmp_path / name.replace("ids", "scores")
    found = read_scores(str(path), ASKED, CORPUS)
    assert same(found.run, RUN)
    assert found.aside == {}
    assert count in (None, len(QUERIES))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_sentence_transformers_joins_the_tables_by_id(tmp_path, ending):
    write_id_tables(RUN, CORPUS, ASKED, tmp_path, ending=ending)
    kind = "json" if ending == "jsonl" else ending
    tables = {
        name: datasets.load_dataset(
            kind, data_files=str(tmp_path / f"{name}.{ending}"), split="train", cache_dir=str(tmp_path / "cache")
        )
        for name in ("queries", "documents", "scores")
    }
    train = tables["scores"]
    train.set_transform(resolve_ids({"query_id": tables["queries"], "document_ids": tables["documents"]}, max_list_length=5))
    assert len(train) == len(QUERIES)
    for query, row in zip(QUERIES, train, strict=True):
        rows, scores = RUN.of(query.id)
        assert row["query"] == query.text
        np.testing.assert_allclose(row["scores"], scores[:5], rtol=1e-6)
        passages = [CORPUS[at] for at in rows[:5].tolist()]
        assert [row[f"document_{i}"] for i in range(1, 6)] == [f"{p.title} {p.text}".strip() for p in passages]


@pytest.mark.parametrize(("name", "columns"), [
    ("flag.jsonl", {"query", "pos", "neg", "pos_scores", "neg_scores"}),
    ("tevatron.jsonl", {"query_id", "query", "positive_passages", "negative_passages"}),
])  # fmt: skip
def test_datasets_loads_the_lines_of_the_others(tmp_path, name, columns):
    WRITERS[name](tmp_path / name)
    files, cache = str(tmp_path / name), str(tmp_path / "cache")
    loaded = datasets.load_dataset("json", data_files=files, split="train", cache_dir=cache)
    assert set(loaded.column_names) == columns
    assert loaded["query"] == [query.text for query in QUERIES]


@pytest.mark.parametrize("name", ["flag", "tevatron"])
def test_positives_are_those_of_the_grades_and_a_query_needs_both_sides(tmp_path, name):
    held = {query_id: CORPUS.ids(rows) for query_id, rows, _ in RUN}
    grades = {
        "q0": {held["q0"][3]: 2, held["q0"][1]: 1, held["q0"][0]: 0},
        "q1": dict.fromkeys(held["q1"], 1),
        "q2": {"x": 1},
    }
    write = write_flag_embedding if name == "flag" else write_tevatron
    assert write(RUN, CORPUS, ASKED, tmp_path / "kd", positives=Qrels(grades)) == 1
    found = read_scores(str(tmp_path / "kd"), ASKED, CORPUS)
    assert same(found.run.select(["q0"]), RUN.select(["q0"]))
    assert found.grades == Qrels({"q0": {held["q0"][3]: 1, held["q0"][1]: 1}})
    (record,) = [json.loads(line) for line in (tmp_path / "kd").read_text().splitlines()]
    sides = record["pos"] if name == "flag" else record["positive_passages"]
    assert len(sides) == 2


def test_without_grades_the_teachers_best_is_the_positive(tmp_path):
    write_tevatron(RUN, CORPUS, ASKED, tmp_path / "kd")
    assert read_scores(str(tmp_path / "kd"), ASKED, CORPUS).grades == Qrels(
        {q.id: {CORPUS[int(RUN.of(q.id)[0][0])].id: 1} for q in QUERIES}
    )


def test_colbert_gets_numbers_for_ids_that_are_numbers(tmp_path):
    corpus = Corpus.from_passages(Passage(name, "", "text") for name in ("7", "07", "p1", "-1"))
    run = Run.build("r", ["12"], [[0, 1, 2, 3]], [[4.0, 3.0, 2.0, 0.1]])
    write_colbert(run, corpus, tmp_path / "kd.json")
    assert json.loads((tmp_path / "kd.json").read_text()) == [12, [7, 4.0], ["07", 3.0], ["p1", 2.0], ["-1", 0.1]]


def test_only_the_documents_of_the_run_are_written(tmp_path):
    write_id_tables(RUN.top(1).select(["q0"]), CORPUS, ASKED, tmp_path, ending="parquet")
    assert pq.read_table(tmp_path / "documents.parquet").column("document_id").to_pylist() == CORPUS.ids(RUN.of("q0")[0][:1])


def test_a_query_that_is_not_given_is_refused(tmp_path):
    with pytest.raises(ValueError, match="query 'q3' of run 't' is not among the 3 queries"):
        write_tevatron(RUN, CORPUS, QUERIES[:3], tmp_path / "kd")
