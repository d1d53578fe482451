"""MS MARCO's files as they are downloaded: each is told from the others by its content and gives what it holds."""

import pytest

from retort.data import read_candidates, read_corpus, read_qrels, read_queries
from retort.data.formats import sniff
from retort.records import Corpus, Passage, Qrels, Query

FILES = {
    "collection.tsv": (
        "pairs",
        "0\tThe presence of communication amid scientific minds.\n1\tThe Manhattan Project, 1945.\n",
    ),
    "queries.train.tsv": ("pairs", "121352\tdefine extreme\n634306\twhat does chattel mean on credit history\n"),
    "qrels.train.tsv": ("qrels", "1185869\t0\t0\t1\n1185868\t0\t16\t1\n597651\t0\t49\t1\n"),
    "2019qrels-pass.txt": ("qrels", "19335 Q0 1017759 0\n19335 Q0 1082489 3\n19335 Q0 109063 -1\n"),
    "run.dev.small.tsv": ("ranking", "7\t31\t1\n7\t12\t2\n9\t31\t1\n9\t50\t2\n"),
    "run.tiny.tsv": ("ranking", "7\t31\t1\n"),
    "qidpidtriples.train.full.2.tsv": ("triples", "1000094\t5399011\t4239068\n1000094\t5399011\t2\n1000094\t5399011\t3\n"),
    "top1000.dev": ("top", "188714\t1000052\tfoods and supplements\tWatch portion sizes.\n7\t8\twho\tMe, 3 4.\n"),
    "run.trec": ("run", "7 Q0 31 1 27.5 splade\n7 Q0 12 2 20 splade\n"),
}
CORPUS = Corpus.from_passages(Passage(str(i), "", f"text {i}") for i in range(60))
QUERIES = [Query("7", "who"), Query("9", "why"), Query("11", "how")]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("name", FILES)
def test_each_file_is_known_by_its_content_alone(tmp_path, name, ends):
    kind, content = FILES[name]
    (tmp_path / "data").write_bytes(content.replace("\n", ends).encode())
    assert sniff(tmp_path / "data") == kind


def written(tmp_path, name, content=None):
    (tmp_path / name).write_text(content or FILES[name][1])
    return str(tmp_path / name)


def listed(run):
    return {query: dict(zip(CORPUS.ids(rows.tolist()), scores.tolist(), strict=True)) for query, rows, scores in run}


def test_collection_questions_and_grades_have_one_kind_of_ids(tmp_path):
    passages = list(read_corpus(written(tmp_path, "collection.tsv")))
    assert passages[1] == Passage("1", "", "The Manhattan Project, 1945.")
    assert read_queries(written(tmp_path, "queries.train.tsv"))[0] == Query("121352", "define extreme")
    assert read_qrels(written(tmp_path, "qrels.train.tsv")).grades["1185868"] == {"16": 1}


def test_a_ranking_stands_by_its_ranks_and_not_by_its_lines(tmp_path):
    content = "7\t31\t1\n7\t12\t2\n7\t4\t3\n9\t50\t2\n9\t31\t1\n"
    found = read_candidates(written(tmp_path, "run.dev.small.tsv", content), QUERIES, CORPUS)
    assert found.name == "run"
    assert listed(found) == {"7": pytest.approx({"31": 1.0, "12": 1 / 2, "4": 1 / 3}), "9": {"31": 1.0, "50": 0.5}, "11": {}}


def test_the_top_1000_keeps_the_order_of_its_lines_in_each_query(tmp_path):
    content = "7\t31\twho\ttext 31\n9\t2\twhy\ttext 2\n7\t12\twho\ttext 12\n7\t4\twho\ttext 4\n"
    found = read_candidates(written(tmp_path, "top1000.dev", content), QUERIES, CORPUS)
    assert listed(found)["7"] == pytest.approx({"31": 1.0, "12": 1 / 2, "4": 1 / 3})
    assert listed(found)["9"] == {"2": 1.0}


def test_triples_give_their_positives_as_grades(tmp_path):
    content = "7\t31\t5\n7\t31\t6\n9\t2\t7\n7\t31\t8\n7\t33\t8\n"
    assert read_qrels(written(tmp_path, "qidpidtriples.tsv", content)) == Qrels({"7": {"31": 1, "33": 1}, "9": {"2": 1}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("7\t31\t1\n7\t12\t2\n9\t2\t1\n9\t4\t0\n", r"data:4: rank 0, expected 1, 2, 3"),
        ("7\t31\t1\n7\t12\t2\n9\t2\t1\n9\t4\n", r"data:4: 2 fields, expected 3 \(query-id, corpus-id, rank\)"),
    ],
)
def test_a_wrong_line_of_a_ranking_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_candidates(written(tmp_path, "data", content), QUERIES, CORPUS)


def test_a_wrong_line_of_triples_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data:4: 2 fields, expected 3 \(query-id, corpus-id, negative-id\)"):
        read_qrels(written(tmp_path, "data", "7\t31\t5\n7\t31\t6\n7\t31\t7\n7\t31\n"))


@pytest.mark.parametrize("content", ["7\t31\t5\n7\t31\t6\n", "7\t31\t2\n7\t12\t1\n"])
def test_triples_and_a_ranking_that_does_not_begin_at_1_are_no_candidates(tmp_path, content):
    with pytest.raises(ValueError, match=r"data:1: a grade without a score, expected .* ranks that count up from 1"):
        read_candidates(written(tmp_path, "data", content), QUERIES, CORPUS)


def test_triples_of_texts_are_refused_with_the_ones_of_ids_named(tmp_path):
    with pytest.raises(ValueError, match="qidpidtriples"):
        read_qrels(written(tmp_path, "triples.train.small.tsv", "who is\tthe king is\ta book is\n"))
