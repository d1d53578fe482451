"""Seismic: exact scores of what it finds, which is nearly all of the best; nothing that does not match."""

import sys

import numpy as np
import pytest
from scipy.sparse import csr_array

from retort.indexes.best import recall
from retort.indexes.inverted import InvertedIndex
from retort.indexes.seismic import RECORD_FILE, SeismicIndex
from retort.indexes.sparse_vectors import SparseParts

pytest.importorskip("seismic", reason="the extra [seismic] is not installed")


def drawn(texts, entries, width=200, seed=0):
    rng = np.random.default_rng(seed)
    columns = rng.zipf(1.3, (texts, entries)) % width
    found = csr_array((rng.uniform(0, 3, columns.size), columns.ravel(), np.arange(texts + 1) * entries), (texts, width))
    found.sum_duplicates()
    return found.astype(np.float32)


PARTS, QUERIES = SparseParts.of(drawn(300, 20), csr_array((2, 200)), drawn(100, 20, seed=1)), drawn(15, 8, seed=2)


@pytest.fixture(scope="module")
def index():
    return SeismicIndex.build(PARTS)


def plain(found):
    return [[one.tolist() for one in part] for part in found]


def test_nearly_all_of_the_exact_best_are_found_with_their_exact_scores(index):
    (scores, rows), (best_scores, best) = index.search(QUERIES, 10), InvertedIndex.build(PARTS).search(QUERIES, 10)
    assert recall(best, rows) > 0.9
    for number in range(15):
        exact = dict(zip(best[number].tolist(), best_scores[number].tolist(), strict=True))
        shared = {
            row: score for row, score in zip(rows[number].tolist(), scores[number].tolist(), strict=True) if row in exact
        }
        assert shared == {row: exact[row] for row in shared}


def test_equal_scores_stand_in_corpus_order():
    twins = SparseParts.of(csr_array(np.ones((6, 4), np.float32)))
    scores, rows = SeismicIndex.build(twins).search(csr_array(np.array([[1, 0, 0, 2]], np.float32)), 6)
    assert rows[0].tolist() == sorted(rows[0].tolist())
    assert set(scores[0].tolist()) == {3.0}


def test_a_query_without_weights_finds_nothing_and_does_not_shift_the_others(index):
    padded = csr_array(np.vstack([np.zeros(200), QUERIES.toarray()[0], np.zeros(200)]))
    _, rows = index.search(padded, 5)
    assert [len(one) for one in rows] == [0, 5, 0]
    assert rows[1].tolist() == index.search(QUERIES[[0]], 5)[1][0].tolist()
    assert [len(one) for one in index.search(csr_array((2, 200)), 5)[1]] == [0, 0]


def test_no_queries_find_nothing(index):
    assert index.search(csr_array((0, 200)), 5) == ([], [])


def test_vocabularies_beyond_16_bits_are_searched_too(tmp_path):
    """XLM-R has 250,002 entries."""
    wide = SparseParts.of(csr_array(([1.0, 2.0], [70_000, 99_999], [0, 1, 2]), (2, 100_000)))
    index = SeismicIndex.build(wide)
    index.save(tmp_path)
    asked = csr_array(([1.0], [99_999], [0, 1]), (1, 100_000))
    for one in (index, SeismicIndex.load(tmp_path, wide)):
        assert plain(one.search(asked, 5)) == [[[2.0]], [[1]]]


def test_a_loaded_index_finds_what_the_saved_one_found(index, tmp_path):
    index.save(tmp_path)
    assert plain(SeismicIndex.load(tmp_path, PARTS).search(QUERIES, 10)) == plain(index.search(QUERIES, 10))
    index.save(tmp_path)  # over the first


def test_nothing_is_printed(capfd, tmp_path):
    built = SeismicIndex.build(PARTS)
    built.save(tmp_path)
    SeismicIndex.load(tmp_path, PARTS).search(QUERIES, 3)
    print("heard")  # noqa: T201
    assert capfd.readouterr().out == "heard\n"


def test_a_folder_or_vectors_of_another_index_are_refused(index, tmp_path):
    with pytest.raises(ValueError, match=f"holds no Seismic index: expected {RECORD_FILE}"):
        SeismicIndex.load(tmp_path, PARTS)
    index.save(tmp_path)
    with pytest.raises(ValueError, match="is over 402 vectors of 200 columns, but 3 of 200 were given"):
        SeismicIndex.load(tmp_path, SparseParts.of(drawn(3, 4)))


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (csr_array((1, 7)), 3, "the queries have 7 columns, the index has 200"),
        (csr_array(np.full((1, 200), np.nan, np.float32)), 3, "query vector 0 of 1 holds NaN"),
        (QUERIES, 0, "k is 0"),
    ],
)
def test_queries_that_cannot_be_answered_are_refused(index, queries, k, message):
    with pytest.raises(ValueError, match=message):
        index.search(queries, k)


@pytest.mark.parametrize("settings", [{"query_terms": 0}, {"heap_factor": 0.0}, {"heap_factor": 1.5}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="expected 1 at least, and more than 0"):
        SeismicIndex.build(PARTS, **settings)


def test_a_machine_without_seismic_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "seismic", None)
    with pytest.raises(ImportError, match=r"pip install 'retort-ir\[seismic\]'"):
        SeismicIndex.build(PARTS)
