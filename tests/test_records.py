import dataclasses
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retort import records
from retort.records import Corpus, Group, Passage, Qrels, Query, Run

PASSAGES = [Passage(f"p{i}", f"title {i}", f"text number {i}") for i in range(7)]


def plain(run):
    """A Run as plain values, to compare."""
    return run.name, run.query_ids, {q: (rows.tolist(), scores.tolist()) for q, rows, scores in run}


def raw(*, query_ids=("a", "b"), starts=(0, 2, 3), passages=(1, 2, 3), scores=(2.0, 1.0, 5.0)):
    """A Run by its constructor, which checks and does not sort."""
    return Run(
        "raw", tuple(query_ids), np.array(starts, np.int64), np.array(passages, np.int32), np.array(scores, np.float32)
    )


# ---- corpus


def test_a_written_corpus_opens_with_the_same_passages(tmp_path):
    assert Corpus.write(tmp_path / "c.arrow", iter(PASSAGES)) == 7
    corpus = Corpus.open(tmp_path / "c.arrow")
    assert len(corpus) == 7
    assert list(corpus) == PASSAGES
    assert [corpus[row] for row in range(7)] == PASSAGES


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_a_corpus_in_several_batches_reads_like_one(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(records, "WRITE_ROWS", batch)
    Corpus.write(tmp_path / "c.arrow", PASSAGES)
    for corpus in (Corpus.open(tmp_path / "c.arrow"), Corpus.from_passages(PASSAGES)):
        assert corpus.table.column("id").num_chunks == -(-7 // batch)
        assert list(corpus) == PASSAGES
        assert [corpus[row] for row in (6, 0, 3)] == [PASSAGES[6], PASSAGES[0], PASSAGES[3]]
        assert corpus.ids([6, 0, 0, 3]) == ["p6", "p0", "p0", "p3"]
        assert corpus.rows(["p6", "p0", "p3", "p0"]).tolist() == [6, 0, 3, 0]


def test_the_bytes_of_a_corpus_do_not_depend_on_when_it_is_written(tmp_path):
    for name in ("one", "two"):
        Corpus.write(tmp_path / name, PASSAGES)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_ids_and_rows_are_inverse():
    corpus = Corpus.from_passages(PASSAGES)
    order = np.random.default_rng(0).permutation(7).tolist()
    found = corpus.rows(corpus.ids(order))
    assert found.tolist() == order
    assert found.dtype == np.int32


def test_no_ids_and_no_rows_are_no_error():
    corpus = Corpus.from_passages(PASSAGES)
    assert corpus.ids([]) == []
    assert corpus.rows([]).tolist() == []


def test_texts_in_any_script_and_an_empty_title_survive(tmp_path):
    passages = [Passage("ä\t1", "", 'line\none "quoted"\0 東京 \U0001f600'), Passage("1e5", "T", "x")]
    Corpus.write(tmp_path / "c.arrow", passages)
    assert list(Corpus.open(tmp_path / "c.arrow")) == passages


@pytest.mark.parametrize("row", [-1, 7, 100])
def test_a_row_outside_the_corpus_is_an_index_error(row):
    with pytest.raises(IndexError, match=f"row {row} is outside the corpus of 7 passages"):
        Corpus.from_passages(PASSAGES)[row]


def test_an_unknown_id_is_named():
    with pytest.raises(ValueError, match=r"passage id 'p9' is not in the corpus of 7 passages \(2 of 3"):
        Corpus.from_passages(PASSAGES).rows(["p1", "p9", "p10"])


@pytest.mark.parametrize(
    ("passages", "message"),
    [
        ([], "the corpus is empty: found 0 passages"),
        ([Passage("a", "", "x"), Passage("b", "", "y"), Passage("a", "", "z")], "passage id 'a' appears 2 times"),
        ([Passage("a", "", "x"), Passage("b", "title", "")], "passage 'b' has an empty text"),
        ([Passage("a", "", " \n\t")], "passage 'a' has an empty text"),
    ],
)
def test_a_corpus_that_no_stage_could_use_is_refused(tmp_path, passages, message):
    with pytest.raises(ValueError, match=message):
        Corpus.from_passages(passages)
    with pytest.raises(ValueError, match=message):
        Corpus.write(tmp_path / "c.arrow", passages)


def test_a_repeated_id_is_found_across_batches(monkeypatch):
    monkeypatch.setattr(records, "WRITE_ROWS", 2)
    with pytest.raises(ValueError, match="passage id 'p0' appears 2 times"):
        Corpus.from_passages([*PASSAGES, Passage("p0", "", "again")])


def test_passages_are_streamed_into_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "WRITE_ROWS", 2)
    waiting = [0]
    longest = [0]
    batches = records._batches

    def written(passages):
        for batch in batches(passages):
            longest[0] = max(longest[0], waiting[0])
            waiting[0] = 0
            yield batch

    def produce():
        for passage in PASSAGES:
            waiting[0] += 1
            yield passage

    monkeypatch.setattr(records, "_batches", written)
    Corpus.write(tmp_path / "c.arrow", produce())
    assert longest[0] == 2


# ---- small records


@pytest.mark.parametrize("record", [Query("q", "text"), PASSAGES[0], Group(Query("q", "t"), ()), Qrels({"q": {"p": 1}})])
def test_records_are_frozen(record):
    name = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, None)


def test_qrels_are_as_long_as_their_queries():
    assert len(Qrels({"a": {"p": 1}, "b": {}})) == 2


# ---- building a Run


def test_build_sorts_by_score_and_ties_by_corpus_row():
    run = Run.build("r", ["a"], [[5, 9, 2, 7]], [[1.0, 3.0, 1.0, 3.0]])
    assert run.of("a")[0].tolist() == [7, 9, 2, 5]
    assert run.of("a")[1].tolist() == [3.0, 3.0, 1.0, 1.0]


def test_build_does_not_depend_on_the_order_given():
    rng = np.random.default_rng(0)
    rows, scores = np.arange(50), rng.integers(0, 8, size=50).astype(np.float32)
    expected = plain(Run.build("r", ["a"], [rows], [scores]))
    for _ in range(5):
        order = rng.permutation(50)
        assert plain(Run.build("r", ["a"], [rows[order]], [scores[order]])) == expected


def test_scores_that_are_equal_in_float32_are_ties():
    run = Run.build("r", ["a"], [[2, 1]], [[16777217.0, 16777216.0]])
    assert run.of("a")[0].tolist() == [1, 2]


def test_build_keeps_queries_apart_and_in_order():
    run = Run.build("r", ["b", "a"], [[1, 2], [1, 2]], [[1.0, 2.0], [4.0, 3.0]])
    assert plain(run) == ("r", ("b", "a"), {"b": ([2, 1], [2.0, 1.0]), "a": ([1, 2], [4.0, 3.0])})


def test_types_and_borders_are_those_promised():
    run = Run.build("r", ["a", "b", "c"], [[1], [], [3, 2]], [[0.5], [], [1.0, 2.0]])
    assert (run.passages.dtype, run.scores.dtype, run.starts.dtype) == (np.int32, np.float32, np.int64)
    assert run.starts.tolist() == [0, 1, 1, 3]
    assert len(run) == 3


def test_a_query_may_have_no_passage():
    run = Run.build("r", ["a", "b"], [[], [1]], [[], [1.0]])
    rows, scores = run.of("a")
    assert (len(rows), len(scores)) == (0, 0)
    assert [query_id for query_id, _, _ in run] == ["a", "b"]


@pytest.mark.parametrize("query_ids", [[], ["a", "b"]])
def test_a_run_may_hold_no_passage_at_all(query_ids):
    run = Run.build("r", query_ids, [[] for _ in query_ids], [[] for _ in query_ids])
    assert (len(run), len(run.passages)) == (len(query_ids), 0)


def test_membership_and_access_go_by_query_id():
    run = Run.build("r", ["a"], [[1]], [[1.0]])
    assert "a" in run
    assert "z" not in run
    with pytest.raises(KeyError, match="z"):
        run.of("z")


# ---- what a Run refuses


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_named_with_its_query_and_passage(score):
    with pytest.raises(ValueError, match=rf"run 'r', query 'b', passage row 8: score is {score}"):
        Run.build("r", ["a", "b"], [[1], [7, 8]], [[1.0], [2.0, score]])


def test_a_score_beyond_float32_is_refused_as_infinite():
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="score is inf"):
        Run.build("r", ["a"], [[1]], [np.array([1e300])])


@pytest.mark.parametrize(("rows", "scores"), [([3, 3], [1.0, 1.0]), ([3, 3], [2.0, 1.0]), ([3, 4, 3], [3.0, 2.0, 1.0])])
def test_a_passage_twice_in_a_query_is_refused_by_name(rows, scores):
    with pytest.raises(ValueError, match="query 'b' holds passage row 3 twice"):
        Run.build("r", ["a", "b"], [[3], rows], [[1.0], scores])


def test_a_query_twice_is_refused_by_name():
    with pytest.raises(ValueError, match="lists query 'a' twice"):
        Run.build("r", ["a", "b", "a"], [[1], [1], [2]], [[1.0], [1.0], [1.0]])


def test_more_passages_than_scores_are_refused():
    with pytest.raises(ValueError, match="2 passages but 1 scores"):
        Run.build("r", ["a"], [[1, 2]], [[1.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": (1.0, 2.0, 5.0)}, "query 'a' is not in descending order: use Run.build"),
        ({"scores": (1.0, 1.0, 5.0), "passages": (2, 1, 3)}, "query 'a' is not in descending order"),
        ({"starts": (0, 2, 4)}, "starts do not match 2 queries and 3 rows"),
        ({"starts": (0, 3)}, "starts do not match"),
        ({"passages": (1, 1, 3)}, "query 'a' holds passage row 1 twice"),
        ({"scores": (2.0, np.nan, 5.0)}, "query 'a', passage row 2: score is nan"),
    ],
)
def test_the_constructor_checks_and_does_not_sort(change, message):
    assert plain(raw()) == ("raw", ("a", "b"), {"a": ([1, 2], [2.0, 1.0]), "b": ([3], [5.0])})
    with pytest.raises(ValueError, match=message):
        raw(**change)


# ---- top and select


def test_top_keeps_the_best_of_each_query_and_no_more_than_there_are():
    run = Run.build("r", ["a", "b", "c"], [[1, 2, 3], [], [4]], [[1.0, 2.0, 3.0], [], [1.0]])
    assert plain(run.top(2))[2] == {"a": ([3, 2], [3.0, 2.0]), "b": ([], []), "c": ([4], [1.0])}
    assert plain(run.top(10)) == plain(run)
    assert run.top(0).starts.tolist() == [0, 0, 0, 0]


def test_the_top_of_a_top_is_the_smaller_top():
    rng = np.random.default_rng(1)
    lists = [rng.permutation(30)[: rng.integers(0, 20)] for _ in range(9)]
    run = Run.build("r", [str(i) for i in range(9)], lists, [rng.random(len(rows)) for rows in lists])
    assert plain(run.top(7).top(3)) == plain(run.top(3)) == plain(run.top(3).top(7))


def test_select_takes_queries_in_the_order_asked_for():
    run = Run.build("r", ["a", "b", "c"], [[1, 2], [], [3]], [[1.0, 1.0], [], [2.0]])
    assert plain(run.select(["c", "a"])) == ("r", ("c", "a"), {"c": ([3], [2.0]), "a": ([1, 2], [1.0, 1.0])})
    assert plain(run.select(["a", "b", "c"])) == plain(run)
    with pytest.raises(KeyError, match="z"):
        run.select(["a", "z"])


# ---- files


def test_reading_a_written_run_is_the_identity(tmp_path):
    run = Run.build("bm25 ü", ["a b", "2", "none", "ä"], [[5, 1], [7], [], [1]], [[0.1, 0.1], [1e-30], [], [-3.5]])
    run.write(tmp_path / "run.parquet")
    assert plain(Run.read(tmp_path / "run.parquet")) == plain(run)


@pytest.mark.parametrize("lists", [[], [[], []], [[], [3], []]])
def test_queries_without_passages_survive_a_file_wherever_they_stand(tmp_path, lists):
    run = Run.build("r", [f"q{i}" for i in range(len(lists))], lists, [[1.0] * len(rows) for rows in lists])
    run.write(tmp_path / "run.parquet")
    assert plain(Run.read(tmp_path / "run.parquet")) == plain(run)


def test_many_queries_survive_a_file_with_every_bit(tmp_path):
    rng = np.random.default_rng(2)
    lists = [rng.permutation(1000)[: rng.integers(0, 50)] for _ in range(300)]
    run = Run.build("r", [f"q{i}" for i in rng.permutation(300)], lists, [rng.standard_normal(len(r)) for r in lists])
    run.write(tmp_path / "run.parquet")
    again = Run.read(tmp_path / "run.parquet")
    assert again.query_ids == run.query_ids
    for field in ("starts", "passages", "scores"):
        one, two = getattr(run, field), getattr(again, field)
        assert one.dtype == two.dtype
        assert one.tobytes() == two.tobytes()


def test_the_bytes_of_a_run_do_not_depend_on_when_it_is_written(tmp_path):
    run = Run.build("r", ["a", "b"], [[1, 2], [3]], [[1.0, 2.0], [1.0]])
    run.write(tmp_path / "one")
    Run.read(tmp_path / "one").write(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_file_whose_rows_were_changed_is_refused(tmp_path):
    Run.build("r", ["a"], [[1, 2]], [[1.0, 2.0]]).write(tmp_path / "run.parquet")
    table = pq.read_table(tmp_path / "run.parquet")
    ascending = pa.array([[1.0, 2.0]], pa.large_list(pa.float32()))
    pq.write_table(table.set_column(2, "scores", ascending), tmp_path / "run.parquet")
    with pytest.raises(ValueError, match="query 'a' is not in descending order"):
        Run.read(tmp_path / "run.parquet")


def test_records_and_text_load_without_torch():
    code = "import sys, retort.records, retort.text; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
