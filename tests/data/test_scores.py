"""Teachers' scores: every form comes down to the same Run, and what is wrong with a file is named or counted."""

import gzip
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retort.data import write_fid_json, write_trec_run
from retort.data.scores import Aside, read_scores
from retort.records import Corpus, Passage, Qrels, Query, Run

CORPUS = Corpus.from_passages(Passage(str(10 + i), "Title" if i % 2 else "", f"text {i}") for i in range(6))
QUERIES = [Query("1", "who is it?"), Query("2", "why?"), Query("3", "how?")]
RUN = Run.build("teacher", ["1", "2", "3"], [[0, 1, 2, 4], [3, 1], []], [[7.5, -2.0, 0.1, -2.0], [0.0, -11.25], []])
POSITIVE = {"1": {"10": 1}, "2": {"13": 1}}


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def listed(run):
    return {query_id: dict(zip(CORPUS.ids(rows.tolist()), scores.tolist(), strict=True)) for query_id, rows, scores in run}


def pairs():
    """Each query that has passages, with ids and scores as Python values."""
    return [
        (query_id, [*held], [float(str(np.float32(s))) for s in held.values()])
        for query_id, held in listed(RUN).items()
        if held
    ]


def text_of(passage_id, titled):
    passage = CORPUS[int(passage_id) - 10]
    return f"{passage.title} {passage.text}".strip() if titled else passage.text


def colbert():
    return lines([int(q), *([int(i), s] for i, s in zip(ids, scores, strict=True))] for q, ids, scores in pairs())


def by_ids():
    return lines({"query_id": q, "document_ids": ids, "scores": scores} for q, ids, scores in pairs())


def by_ids_as_strings():
    return lines({"query_id": int(q), "document_ids": str(ids), "scores": str(scores)} for q, ids, scores in pairs())


def flag_embedding(titled=True):
    texts = {query.id: query.text for query in QUERIES}
    return lines(
        {
            "query": texts[q],
            "pos": [text_of(ids[0], titled)],
            "neg": [text_of(i, titled) for i in ids[1:]],
            "pos_scores": scores[:1],
            "neg_scores": scores[1:],
        }
        for q, ids, scores in pairs()
    )


def sim_lm():
    return lines(
        {
            "query_id": q,
            "query": "any",
            "positives": {"doc_id": ids[:1], "score": scores[:1]},
            "negatives": {"doc_id": ids[1:], "score": scores[1:]},
        }
        for q, ids, scores in pairs()
    )


def tevatron():
    return lines(
        {
            "query_id": q,
            "query": "any",
            "positive_passages": [{"docid": ids[0], "title": "", "text": "any", "score": scores[0]}],
            "negative_passages": [{"docid": i, "text": "any", "score": s} for i, s in zip(ids[1:], scores[1:], strict=True)],
        }
        for q, ids, scores in pairs()
    )


def neural_ranking_kd():
    return "".join(
        f"{scores[0]}\t{score}\t{q}\t{ids[0]}\t{i}\n"
        for q, ids, scores in pairs()
        for i, score in zip(ids[1:], scores[1:], strict=True)
    )


FORMS = {
    "ColBERT": (colbert, {}),
    "ids": (by_ids, {}),
    "ids in strings": (by_ids_as_strings, {}),
    "FlagEmbedding": (flag_embedding, POSITIVE),
    "FlagEmbedding without titles": (lambda: flag_embedding(titled=False), POSITIVE),
    "SimLM": (sim_lm, POSITIVE),
    "Tevatron": (tevatron, POSITIVE),
    "neural-ranking-kd": (neural_ranking_kd, POSITIVE),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_run(tmp_path, form, packed):
    make, grades = FORMS[form]
    content = make().encode()
    (tmp_path / "kd.any").write_bytes(gzip.compress(content) if packed else content)
    found = read_scores(str(tmp_path / "kd.any"), QUERIES, CORPUS)
    assert found.run.name == "kd"
    assert listed(found.run) == listed(RUN)
    assert found.grades == Qrels(grades)
    assert found.aside == {}


@pytest.mark.parametrize("write", [RUN.write, lambda path: write_trec_run(RUN, CORPUS, path)], ids=["Run", "TREC"])
def test_runs_keep_their_names(tmp_path, write):
    write(tmp_path / "any.file")
    found = read_scores(str(tmp_path / "any.file"), QUERIES, CORPUS)
    assert (found.run.name, listed(found.run)) == ("teacher", listed(RUN))


@pytest.mark.parametrize("labels_as_score", [False, True])
def test_candidates_of_fid_are_read_with_their_ids_and_those_of_dpr_by_their_question(tmp_path, labels_as_score):
    write_fid_json(RUN, CORPUS, QUERIES, tmp_path / "fid.json", labels_as_score)
    records = json.loads((tmp_path / "fid.json").read_text())
    (tmp_path / "dpr.json").write_text(json.dumps([{k: v for k, v in r.items() if k != "id"} for r in records[::-1]]))
    for name in ("fid", "dpr"):
        found = read_scores(str(tmp_path / f"{name}.json"), QUERIES, CORPUS)
        assert (found.run.name, listed(found.run)) == (name, listed(RUN))


def test_parquet_with_ids_is_read_too(tmp_path):
    table = pa.table(dict(zip(("query_id", "document_ids", "scores"), zip(*pairs(), strict=True), strict=True)))
    pq.write_table(table, tmp_path / "train.parquet")
    assert listed(read_scores(str(tmp_path / "train.parquet"), QUERIES, CORPUS).run) == listed(RUN)


def pickled(folder):
    scores = {int(q): dict(zip(map(int, ids), scores, strict=True)) for q, ids, scores in pairs()}
    (folder / "ce-scores.pkl.gz").write_bytes(gzip.compress(pickle.dumps(scores)))


def test_the_pickled_scores_of_hard_negatives_are_read_alone_or_with_their_positives(tmp_path):
    pickled(tmp_path)
    alone = read_scores(str(tmp_path / "ce-scores.pkl.gz"), QUERIES, CORPUS)
    assert (alone.run.name, listed(alone.run), alone.grades) == ("ce-scores", listed(RUN), Qrels({}))
    negatives = [
        {"qid": 2, "pos": [13], "neg": {"bm25": [11]}},
        {"qid": 1, "pos": [10], "neg": {"bm25": [11], "tas-b": [12, 14]}},
    ]
    (tmp_path / "hard-negatives.jsonl.gz").write_bytes(gzip.compress(lines(negatives).encode()))
    both = read_scores(str(tmp_path), QUERIES, CORPUS)
    assert (listed(both.run), both.grades) == (listed(RUN), Qrels(POSITIVE))
    with pytest.raises(ValueError, match="hard negatives without scores, expected scores: put the file into one folder"):
        read_scores(str(tmp_path / "hard-negatives.jsonl.gz"), QUERIES, CORPUS)
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match=r"holds the pickles ce-scores.pkl.gz, other.pkl, expected one"):
        read_scores(str(tmp_path), QUERIES, CORPUS)


def test_what_is_not_known_here_is_counted_and_named(tmp_path):
    records = [[1, [10, 1.0], [99, 5.0], [98, 4.0]], [8, [10, 1.0]], [9, [97, 1.0]], [2, [99, 1.0]]]
    (tmp_path / "kd").write_text(lines(records))
    found = read_scores(str(tmp_path / "kd"), QUERIES, CORPUS)
    assert listed(found.run) == {"1": {"10": 1.0}, "2": {}, "3": {}}
    assert found.aside == {"unknown query": Aside(2, ("8", "9")), "unknown passage": Aside(2, ("99", "98"))}


def test_unknown_texts_are_counted_and_named(tmp_path):
    record = {"query": "who is it?", "pos": ["text 0"], "neg": ["no such text"], "pos_scores": [1.0], "neg_scores": [0.5]}
    (tmp_path / "kd").write_text(lines([record, record | {"query": "who else?"}]))
    found = read_scores(str(tmp_path / "kd"), QUERIES, CORPUS)
    assert listed(found.run)["1"] == {"10": 1.0}
    assert found.aside == {"unknown query": Aside(1, ("who else?",)), "unknown passage": Aside(1, ("no such text",))}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[8, [10, 1.0]]\n", r"for none of the 3 queries, it names '8': compare"),
        ("[1, [99, 1.0], [98, 0.0]]\n", r"none of the 6 passages of the corpus, it names '99', '98'"),
    ],
)
def test_a_file_of_which_nothing_is_known_is_refused(tmp_path, content, message):
    (tmp_path / "kd").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_scores(str(tmp_path / "kd"), QUERIES, CORPUS)


def test_a_positive_among_its_own_negatives_stays_a_positive(tmp_path):
    record = {
        "query_id": "1",
        "positives": {"doc_id": ["10"], "score": [3.0]},
        "negatives": {"doc_id": ["11", "10"], "score": [1.0, 2.0]},
    }
    (tmp_path / "kd").write_text(lines([record]))
    found = read_scores(str(tmp_path / "kd"), QUERIES, CORPUS)
    assert (listed(found.run)["1"], found.grades) == ({"10": 3.0, "11": 1.0}, Qrels({"1": {"10": 1}}))
    assert found.aside == {"positive among the negatives": Aside(1, ("1 10",))}


def test_a_positive_is_one_in_every_line_of_its_query(tmp_path):
    (tmp_path / "kd").write_text("3.0\t1.0\t1\t10\t11\n2.0\t9.0\t1\t12\t10\n3.0\t0.5\t1\t10\t13\n")
    found = read_scores(str(tmp_path / "kd"), QUERIES, CORPUS)
    assert listed(found.run)["1"] == {"10": 3.0, "11": 1.0, "12": 2.0, "13": 0.5}
    assert found.grades == Qrels({"1": {"10": 1, "12": 1}})
    assert found.aside == {"positive among the negatives": Aside(1, ("1 10",))}


def test_the_first_score_of_a_pair_counts(tmp_path):
    (tmp_path / "kd").write_text("[1, [10, 1.0], [10, 2.0], [11, 0.0], [11, 0.0]]\n[1, [10, 3.0]]\n")
    found = read_scores(str(tmp_path / "kd"), QUERIES, CORPUS)
    assert listed(found.run)["1"] == {"10": 1.0, "11": 0.0}
    assert found.aside == {"another score of the same pair": Aside(2, ("1 10", "1 10"))}


def test_queries_that_read_the_same_share_the_scores_of_their_text(tmp_path):
    (tmp_path / "kd").write_text(flag_embedding())
    found = read_scores(str(tmp_path / "kd"), [*QUERIES, Query("1b", "who is it?")], CORPUS)
    assert listed(found.run)["1b"] == listed(found.run)["1"] == listed(RUN)["1"]


def test_a_run_of_a_larger_corpus_or_of_other_queries_is_refused(tmp_path):
    RUN.write(tmp_path / "run")
    small = Corpus.from_passages([Passage("10", "", "text")])
    with pytest.raises(ValueError, match=r"holds passage row 4 of a corpus of 1 passages: a Run goes by rows"):
        read_scores(str(tmp_path / "run"), QUERIES, small)
    with pytest.raises(ValueError, match=r"for none of the 1 queries, it names '1', '2', '3'"):
        read_scores(str(tmp_path / "run"), [Query("x", "?")], CORPUS)
    some = read_scores(str(tmp_path / "run"), [Query("2", "why?"), Query("x", "?")], CORPUS)
    assert listed(some.run) == {"2": listed(RUN)["2"], "x": {}}
    assert some.aside == {"unknown query": Aside(2, ("1", "3"))}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, [10, NaN]]\n", r"kd:1: query 1 gives passage 10 the score nan, expected a finite number"),
        ("[1, [10, 1.0]]\n[2, [10, Infinity]]\n", r"kd:2: query 2 gives passage 10 the score inf"),
        ("nan\t1.0\t1\t10\t11\n", r"kd:1: positive score is 'nan', expected a finite number"),
        ("1 Q0 10 1 nan t\n", r"kd:1: score is 'nan'"),
        ('[1, [10, "2.0"]]\n', r"gives passage 10 the score '2.0', expected a finite number"),
        ("[1, [10, true]]\n", r"the score True"),
        ("[1, 10, 11]\n", r"kd:1: '\[1, 10, 11\]', expected \[query, \[passage, score\], ...\]: triples"),
        ("[1, [10, 1.0]\n", r"kd:1: .* expected \[query, "),
        ("[1, [1.5, 1.0]]\n", r"kd:1: 1.5 as an id, expected a string or a whole number"),
        ('{"query_id": 1, "document_ids": [10, 11], "scores": [1.0]}\n', r"kd:1: query '1' has 2 passages and 1 scores"),
        ('{"query_id": 1, "document_ids": [10]}\n', r"kd:1: no column 'scores'"),
        ('{"query_id": 1, "document_ids": [10], "scores": 1.0}\n', r"kd:1: scores is 1.0, expected a list"),
        ('{"query": "why?", "pos": ["a"], "neg": ["b"]}\n', r"kd:1: no column 'pos_scores'"),
        ('{"query": "why?", "pos": [1], "neg": [], "pos_scores": [1.0], "neg_scores": []}\n', r"expected texts"),
        ('{"id": "1", "question": "?", "ctxs": [{"id": "10"}]}\n', r"candidate 1: no column 'score'"),
        ("1 0 10 1\n", r"kd:1: a grade of TREC qrels, expected a teacher's score"),
        ("1.0\t2.0\t1\t10\t11\n1.0\t2.0\t1\t10\n", r"kd:2: 4 fields, expected 5"),
        ('{"query_id": "1", "positives": {"doc_id": ["10"]}, "negatives": {"doc_id": []}}\n', r"no column 'score'"),
        ('["q0", "p0", "p1"]\n', r'kd:1: .*"p0", "p1".*, expected \[query, \[passage, score\], ...\]: triples'),
        ('[1, {"10": 1.0}]\n', r"kd:1: .* expected \[query, "),
        ("[1, [10, 1.0, 2.0]]\n", r"kd:1: .* expected \[query, "),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_named(tmp_path, content, message):
    (tmp_path / "kd").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_scores(str(tmp_path / "kd"), QUERIES, CORPUS)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (5, r"kd:1: positives are 5, expected a list of objects"),
        (["10"], r"kd:1, positive 1: '10', expected an object with named values"),
        ([{"docid": "10", "score": 1.0}, None], r"kd:1, positive 2: None, expected an object"),
        ([{"score": 1.0}], r"kd:1, positive 1: no column 'docid' or 'doc_id'"),
        ([{"docid": "10", "score": None}], r"kd:1, positive 1: 'score' is there but empty"),
        ({"doc_id": 10, "score": [1.0]}, r"kd:1, positives: doc_id is 10, expected a list"),
        ({"doc_id": "10", "score": [1.0]}, r"kd:1, positives: doc_id is 10, expected a list"),
        ({"doc_id": [10], "score": 1.0}, r"kd:1, positives: score is 1.0, expected a list"),
        ({"doc_id": [["10"]], "score": [1.0]}, r"kd:1, positives: \['10'\] as an id"),
    ],
    ids=str,
)
def test_what_is_malformed_in_a_side_of_simlm_or_tevatron_is_named(tmp_path, side, message):
    (tmp_path / "kd").write_text(lines([{"query_id": "1", "positives": side, "negatives": []}]))
    with pytest.raises(ValueError, match=message):
        read_scores(str(tmp_path / "kd"), QUERIES, CORPUS)


@pytest.mark.parametrize("broken", [lambda b: b[:-9], lambda b: b[:40] + bytes(20) + b[60:]], ids=["cut", "overwritten"])
def test_a_run_whose_file_is_not_whole_is_named(tmp_path, broken):
    RUN.write(tmp_path / "run.parquet")
    (tmp_path / "run.parquet").write_bytes(broken((tmp_path / "run.parquet").read_bytes()))
    with pytest.raises(ValueError, match=r"run\.parquet: .*; expected a whole parquet file"):
        read_scores(str(tmp_path / "run.parquet"), QUERIES, CORPUS)


def test_a_path_that_is_not_there_is_told_with_its_neighbour(tmp_path):
    (tmp_path / "scores.tsv").touch()
    with pytest.raises(FileNotFoundError, match=r"did you mean 'scores.tsv'"):
        read_scores(str(tmp_path / "score.tsv"), QUERIES, CORPUS)
