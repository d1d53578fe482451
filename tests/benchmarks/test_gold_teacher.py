from pathlib import Path

import gold_teacher
import rows

from retort.data import read_corpus, read_qrels, read_queries
from retort.indexes.bm25 import BM25Index
from retort.records import Corpus
from retort.teachers.loading import load_cross_encoder

BUDGET = gold_teacher.Budget(steps=2, batch=8, learning_rate=1e-3, tokens=48, frozen_layers=1)


def test_a_question_comes_with_a_gold_passage_and_with_others_of_bm25(data):
    corpus = Corpus.from_passages(read_corpus(str(data / "corpus.jsonl")))
    queries, qrels = read_queries(str(data / "queries.jsonl"), "train"), read_qrels(str(data / "qrels" / "train.tsv"))
    bm25 = BM25Index.build(corpus)
    found = gold_teacher.pairs(corpus, queries, qrels, bm25, count=16, seed=0)
    gold = {query.text: f"{corpus[i].title} {corpus[i].text}" for i, query in _owners(queries)}
    assert len(found) == 16
    assert found["label"] == [1, 0, 0, 0] * 4
    assert len(set(found["query"])) == 4
    assert all((row["passage"] == gold[row["query"]]) == bool(row["label"]) for row in found)


def test_the_trained_folder_holds_a_cross_encoder_and_is_trained_again_for_another_budget_only(data, options, tmp_path):
    config = rows.config_on(data, Path(options[1]), options[3::2])
    grades, out = data / "qrels" / "train.tsv", tmp_path / "teacher"
    weights = out / "model" / "model.safetensors"
    gold_teacher.trained(config, grades, out, BUDGET)
    before = weights.stat().st_mtime_ns
    assert load_cross_encoder(str(out / "model")).max_seq_length == 48
    gold_teacher.trained(config, grades, out, BUDGET)
    assert weights.stat().st_mtime_ns == before
    gold_teacher.trained(config, grades, out, gold_teacher.Budget(**{**vars(BUDGET), "steps": 1}))
    assert weights.stat().st_mtime_ns != before


def _owners(queries):
    return [(int(query.id.removeprefix("q")), query) for query in queries]
