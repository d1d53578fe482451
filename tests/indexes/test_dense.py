"""The dense index: flat is exact, the approximate kinds reach enough, and no kind ever invents a passage."""

import faiss
import numpy as np
import pytest

from retort.indexes.dense import FAISS_FILE, DenseIndex
from retort.indexes.vectors import VectorParts, write_part
from retort.records import Corpus, Passage, Run

KINDS = ["flat", "hnsw", "ivf"]


def directions(rows, *, dimensions=16, seed=1):
    """Random unit vectors around 20 centres, as passages gather around topics."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((20, dimensions))
    vectors = centres[rng.integers(0, 20, rows)] + 0.5 * rng.standard_normal((rows, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    return VectorParts.of(directions(1200), directions(800, seed=2))


@pytest.fixture(scope="module")
def queries():
    return directions(50, seed=3)


def recall(found, expected):
    return np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, expected, strict=True)])


@pytest.mark.parametrize(("kind", "bound"), [("hnsw", 0.98), ("ivf", 0.9)])
def test_an_approximate_index_reaches_nearly_all_that_flat_finds(vectors, queries, kind, bound):
    expected = DenseIndex.build(vectors).search(queries, 10)[1]
    assert recall(DenseIndex.build(vectors, kind=kind).search(queries, 10)[1], expected) >= bound


def test_ivf_that_visits_every_list_equals_flat(vectors, queries):
    index = DenseIndex.build(vectors, kind="ivf", lists=8, probes=8)
    (flat_scores, flat_rows), (scores, rows) = DenseIndex.build(vectors).search(queries, 10), index.search(queries, 10)
    assert np.array_equal(np.stack(rows), np.stack(flat_rows))
    np.testing.assert_allclose(np.stack(scores), np.stack(flat_scores), atol=1e-6)


def test_ivf_has_four_root_n_lists_and_visits_an_eighth_of_them(vectors):
    index = DenseIndex.build(vectors, kind="ivf").approximate
    assert (index.nlist, index.nprobe) == (179, 22)  # 4 sqrt(2000) = 178.9


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_inner_products_with_the_vectors_on_disk(vectors, queries, kind):
    scores, rows = DenseIndex.build(vectors, kind=kind).search(queries[:5], 3)
    expected = [vectors.take(found) @ query for found, query in zip(rows, queries, strict=False)]
    np.testing.assert_allclose(np.stack(scores), np.stack(expected), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_passages_than_k_give_fewer_rows_and_never_a_wrong_one(kind):
    index = DenseIndex.build(VectorParts.of(directions(3)), kind=kind, lists=1)
    scores, rows = index.search(directions(2, seed=3), 10)
    assert [sorted(found) for found in rows] == [[0, 1, 2], [0, 1, 2]]
    assert [len(found) for found in scores] == [3, 3]


def test_an_ivf_list_shorter_than_k_gives_fewer_rows():
    index = DenseIndex.build(VectorParts.of(np.eye(4)), kind="ivf", lists=4, probes=1)
    assert [found.tolist() for found in index.search(np.eye(4, dtype=np.float32), 3)[1]] == [[0], [1], [2], [3]]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_stand_in_corpus_order(kind):
    index = DenseIndex.build(VectorParts.of(np.tile(np.eye(2), (4, 1))), kind=kind, lists=1)
    scores, rows = index.search(np.array([[2, 1]], np.float32), 8)
    assert rows[0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert scores[0].tolist() == [2, 2, 2, 2, 1, 1, 1, 1]


def test_rows_lead_to_passages_with_string_ids_through_the_corpus():
    corpus = Corpus.from_passages(Passage(name, "", "text") for name in ("wiki:123", "wiki:7"))
    scores, rows = DenseIndex.build(VectorParts.of(np.eye(2))).search(np.array([[0, 1]], np.float32), 2)
    run = Run.build("dense", ["q"], rows, scores)
    assert run.passages.dtype == rows[0].dtype == np.int32
    assert corpus.ids(run.of("q")[0].tolist()) == ["wiki:7", "wiki:123"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_index_finds_what_the_saved_one_found(tmp_path, vectors, queries, kind):
    for number, part in enumerate(vectors.parts):
        write_part(tmp_path / "encode", number, part)
    built = DenseIndex.build(vectors, kind=kind)
    built.save(tmp_path / "index")
    loaded = DenseIndex.load(tmp_path / "index", VectorParts.open(tmp_path / "encode"))
    for before, after in zip(built.search(queries, 10), loaded.search(queries, 10), strict=True):
        assert np.array_equal(np.stack(before), np.stack(after))


def test_a_flat_index_copies_no_vector(tmp_path, vectors):
    DenseIndex.build(vectors).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"]


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_one_thread_and_one_seed_give_the_same_bytes(tmp_path, vectors, kind):
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        for folder in (tmp_path / "a", tmp_path / "b"):
            DenseIndex.build(vectors, kind=kind, seed=4).save(folder)
    finally:
        faiss.omp_set_num_threads(threads)
    assert (tmp_path / "a" / FAISS_FILE).read_bytes() == (tmp_path / "b" / FAISS_FILE).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_dimension_that_does_not_match_is_refused_with_both_numbers(kind):
    index = DenseIndex.build(VectorParts.of(np.eye(3)), kind=kind)
    with pytest.raises(ValueError, match="queries have 4 dimensions, the index has 3: encode"):
        index.search(np.ones((1, 4), np.float32), 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_query_that_is_not_finite_is_refused(kind, value):
    index = DenseIndex.build(VectorParts.of(np.eye(3)), kind=kind)
    with pytest.raises(ValueError, match=r"query vector 1 \(1 of 2\)"):
        index.search(np.array([[1, 1, 1], [1, value, 1]], np.float32), 1)


def test_an_index_over_other_vectors_is_refused(tmp_path):
    DenseIndex.build(VectorParts.of(np.eye(3))).save(tmp_path)
    with pytest.raises(ValueError, match="over 3 vectors of 3 dimensions, but 2 of 3 were given"):
        DenseIndex.load(tmp_path, VectorParts.of(np.eye(3)[:2]))


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no dense index"):
        DenseIndex.load(tmp_path, VectorParts.of(np.eye(3)))


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="k is 0"):
        DenseIndex.build(VectorParts.of(np.eye(3))).search(np.ones((1, 3), np.float32), 0)
