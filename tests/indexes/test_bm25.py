"""BM25: the published formula, honest ends of lists, and the same bytes and hits each time."""

import math
import os
import subprocess
import sys

import pytest

from retort.indexes.bm25 import SETTINGS_FILE, BM25Index, BM25Settings, Words
from retort.records import Corpus, Passage, Query

PLAIN = BM25Settings(stemmer=None, stopwords=None)


def index_of(*texts, settings=PLAIN):
    return BM25Index.build([Passage(str(i), "", text) for i, text in enumerate(texts)], settings=settings)


def hits(index, text, k=10):
    rows, scores = index.search([Query("q", text)], k, name="bm25").of("q")
    return rows.tolist(), scores.tolist()


def test_a_score_is_the_published_formula():
    index = index_of("apple apple pear", "pear plum", "plum plum plum plum")
    mean_words = 3.0
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    weight = 2 / (2 + 0.9 * (1 - 0.4 + 0.4 * 3 / mean_words))
    rows, scores = hits(index, "apple")
    assert rows == [0]
    assert scores == pytest.approx([idf * weight], rel=1e-6)


def test_a_word_counts_as_often_as_it_stands_in_the_query():
    index = index_of("apple", "pear", "plum")
    assert hits(index, "apple apple")[1] == pytest.approx([2 * hits(index, "apple")[1][0]])


def test_a_passage_that_shares_no_word_is_not_a_hit():
    assert hits(index_of("apple pie", "pear", "an apple"), "apple")[0] == [0, 2]


def test_fewer_passages_than_k_give_fewer_rows():
    assert sorted(hits(index_of("apple", "apple pie"), "apple", k=100)[0]) == [0, 1]


@pytest.mark.parametrize("text", ["", "zebra", "!?", "a b c"])
def test_a_query_without_a_known_word_has_no_passage_and_stays_in_the_run(text):
    run = index_of("apple", "pear").search([Query("q1", text), Query("q2", "pear")], 5, name="bm25")
    assert run.query_ids == ("q1", "q2")
    assert run.of("q1")[0].tolist() == []
    assert run.of("q2")[0].tolist() == [1]


def test_no_query_gives_an_empty_run():
    assert len(index_of("apple").search([], 5, name="bm25")) == 0


@pytest.mark.parametrize("k", [1, 3, 5, 7, 20])
def test_ties_stand_in_corpus_order_also_where_k_cuts_between_them(k):
    index = index_of(*["pear", "apple pie"] * 10, "apple apple")
    assert hits(index, "apple", k)[0] == [20, *range(1, 20, 2)][:k]


def test_the_title_is_searched_too():
    index = BM25Index.build([Passage("a", "Orchard", "apple"), Passage("b", "", "pear")], settings=PLAIN)
    assert hits(index, "orchard")[0] == [0]


def test_a_passage_without_a_word_is_indexed_and_never_found():
    index = index_of("the", "apple", settings=BM25Settings())
    assert len(index) == 2
    assert hits(index, "the apple")[0] == [1]


def test_stems_meet_across_query_and_passage():
    texts = ["the queens wept", "a queen"]
    assert hits(index_of(*texts, settings=BM25Settings()), "queen")[0] == [1, 0]
    assert hits(index_of(*texts, settings=BM25Settings(stemmer=None)), "queen")[0] == [1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (BM25Settings(stemmer=None), ["cats", "dogs"]),
        (BM25Settings(stemmer=None, stopwords=None), ["the", "cats", "and", "dogs"]),
        (BM25Settings(stemmer=None, stopwords=["Cats"]), ["the", "and", "dogs"]),
        (BM25Settings(), ["cat", "dog"]),
    ],
)
def test_stop_words_and_stemmer_are_configurable(settings, expected):
    assert Words(settings).of("The cats, and 2 Dogs") == expected


def test_another_language_has_its_own_stems_and_stop_words():
    assert Words(BM25Settings(stemmer="german", stopwords="de")).of("Die Häuser und der Wald") == ["haus", "wald"]


def test_a_corpus_is_indexed_by_its_rows():
    corpus = Corpus.from_passages([Passage("wiki:9", "", "pear"), Passage("wiki:1", "", "apple")])
    assert corpus.ids(BM25Index.build(corpus).search([Query("q", "apples")], 5, name="bm25").passages.tolist()) == ["wiki:1"]


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("settings", [BM25Settings(k1=1.2, b=0.75), BM25Settings(stemmer=None, stopwords=["pie"])])
def test_a_loaded_index_finds_what_the_saved_one_found(tmp_path, mmap, settings):
    built = index_of("apple pies", "apple pie pie", "pear", settings=settings)
    built.save(tmp_path)
    loaded = BM25Index.load(tmp_path, mmap=mmap)
    assert loaded.settings == built.settings
    assert len(loaded) == 3
    assert hits(loaded, "a pie of apples and pears") == hits(built, "a pie of apples and pears")


def test_the_files_do_not_depend_on_the_hash_seed(tmp_path):
    code = (
        "import sys, pathlib; from retort.indexes.bm25 import *\n"
        "words = [Passage(str(i), '', f'apple{i} pear{i % 7} plum{i % 3}') for i in range(40)]\n"
        "BM25Index.build(words).save(pathlib.Path(sys.argv[1]))"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], env=environment, check=True)
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert SETTINGS_FILE in files
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_building_and_searching_print_nothing(capfd, tmp_path):
    index = index_of("apple", "pear")
    index.save(tmp_path)
    hits(BM25Index.load(tmp_path), "apple")
    assert capfd.readouterr() == ("", "")


def test_a_corpus_without_any_word_is_refused():
    with pytest.raises(ValueError, match="none of the 2 passages holds a word"):
        index_of("the", "and", settings=BM25Settings())


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no BM25 index"):
        BM25Index.load(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stemmer": "klingon"}, "stemmer is 'klingon'.*english"),
        ({"stopwords": "klingon"}, "stopwords is 'klingon'.*en"),
        ({"k1": -1.0}, "k1 is -1.0"),
        ({"b": 1.5}, "b is 1.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        BM25Settings(**wrong)


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="k is 0"):
        hits(index_of("apple"), "apple", k=0)
