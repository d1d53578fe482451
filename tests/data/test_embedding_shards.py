"""Embedding shards of FiD, Contriever and DPR: what is written reads back the same, as their own code reads it too."""

import pickle

import numpy as np
import pytest

from retort.data.embedding_shards import read_shard, read_vectors, shard_paths, write_shards
from retort.records import Corpus, Passage

IDS = ["7", "wiki:12", "c", "ü", "e"]
CORPUS = Corpus.from_passages(Passage(i, "", "text") for i in IDS)
VECTORS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float16)


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize(("layout", "precision"), [("fid", np.float16), ("dpr", np.float32)])
def test_shards_read_back_the_same_in_the_corpus_order(tmp_path, layout, precision, shards):
    paths = write_shards(tmp_path / "wiki", IDS, VECTORS, shards=shards, layout=layout)
    assert shard_paths(tmp_path / "wiki") == paths
    assert len(paths) == shards
    back = read_vectors(paths, CORPUS)
    assert back.dtype == precision
    assert np.array_equal(back, VECTORS.astype(precision))
    assert [one for path in paths for one in read_shard(path)[0]] == IDS


def test_the_layouts_are_those_of_the_ancestors(tmp_path):
    fid = write_shards(tmp_path / "fid", IDS, VECTORS, shards=2)
    assert [path.name for path in fid] == ["fid_00", "fid_01"]
    ids, vectors = pickle.loads(fid[0].read_bytes())
    assert (ids, vectors.dtype, vectors.shape) == (IDS[:3], np.float16, (3, 4))
    dpr = write_shards(tmp_path / "dpr", IDS, VECTORS, shards=2, layout="dpr")
    assert [path.name for path in dpr] == ["dpr_0", "dpr_1"]
    pairs = pickle.loads(dpr[1].read_bytes())
    assert [(name, vector.shape, vector.dtype) for name, vector in pairs] == [(i, (4,), np.float32) for i in IDS[3:]]


def test_shards_stand_by_number_with_or_without_an_ending(tmp_path):
    for number in range(11):
        (tmp_path / f"passages_{number}.pkl").write_bytes(b"")
    (tmp_path / "passages_other").write_bytes(b"")
    assert [path.name for path in shard_paths(tmp_path / "passages")] == [f"passages_{n}.pkl" for n in range(11)]


def test_a_missing_shard_is_named(tmp_path):
    paths = write_shards(tmp_path / "wiki", IDS, VECTORS, shards=3)
    paths[1].unlink()
    with pytest.raises(ValueError, match=r"wiki_\* are 2 shards of embeddings without number 1"):
        shard_paths(tmp_path / "wiki")
    with pytest.raises(ValueError, match=r"none_\* are 0 shards of embeddings without number 0"):
        shard_paths(tmp_path / "none")


def test_a_passage_without_a_vector_with_two_or_unknown_is_named(tmp_path):
    paths = write_shards(tmp_path / "wiki", IDS, VECTORS, shards=5)
    with pytest.raises(ValueError, match=r"1 of 5 passages, for example 'ü', have 0 vectors in 4 shards"):
        read_vectors([*paths[:3], paths[4]], CORPUS)
    with pytest.raises(ValueError, match=r"1 of 5 passages, for example '7', have 2 vectors in 6 shards"):
        read_vectors([*paths, paths[0]], CORPUS)
    with pytest.raises(ValueError, match=r"wiki_01: passage id 'wiki:12' is not in the corpus"):
        read_vectors(paths, Corpus.from_passages([Passage("7", "", "text")]))


def test_shards_of_different_widths_are_refused(tmp_path):
    first, second = (
        write_shards(tmp_path / "a", IDS[:2], VECTORS[:2]),
        write_shards(tmp_path / "b", IDS[2:], VECTORS[2:, :3]),
    )
    with pytest.raises(ValueError, match=r"b_00 has vectors of 3 numbers, expected 4 as in"):
        read_vectors([*first, *second], CORPUS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "expected a pickle of"),
        ({"a": VECTORS}, "expected a pickle of"),
        ((IDS, VECTORS[0]), r"expected numbers \[n, D\]"),
        ((IDS, np.arange(5)[:, None]), r"expected numbers \[n, D\]"),
        ((IDS[:3], VECTORS), r"for 5 vectors, expected one string for each"),
        (([None] * 5, VECTORS), r"for 5 vectors, expected one string for each"),
        ([("a", VECTORS[0]), ("b", VECTORS[0, :2])], "different widths"),
        ([("a", 1.0)], "different widths"),
        ((IDS, VECTORS * [[1.0], [1.0], [1.0], [np.nan], [1.0]]), rf"the vector of '{IDS[3]}' is not finite"),
    ],
    ids=str,
)
def test_what_is_no_shard_is_refused(tmp_path, value, message):
    (tmp_path / "f").write_bytes(pickle.dumps(value, protocol=4))
    with pytest.raises(ValueError, match=message):
        read_shard(tmp_path / "f")


def test_vectors_beyond_the_range_of_half_precision_are_refused_not_made_infinite(tmp_path):
    with pytest.raises(ValueError, match="are not finite in float16"):
        write_shards(tmp_path / "a", ["7"], np.array([[1e6]], np.float32))
    with pytest.raises(ValueError, match="1 ids for 5 vectors"):
        write_shards(tmp_path / "a", ["7"], VECTORS)
    with pytest.raises(ValueError, match="5 vectors in 6 shards, expected at least one"):
        write_shards(tmp_path / "a", IDS, VECTORS, shards=6)
