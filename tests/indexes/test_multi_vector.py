"""The late-interaction index: MaxSim of all passages, sorted; candidates that lose little, and say how much they lose."""

from functools import partial

import faiss
import numpy as np
import pytest
import torch

from retort.indexes import multi_vector
from retort.indexes.best import recall
from retort.indexes.dense import DenseIndex
from retort.indexes.fixed_dimensional import EncodingSettings
from retort.indexes.multi_vector import RECORD_FILE, MultiVectorIndex, exact_maxsim, maxsim_scores
from retort.indexes.token_vectors import TokenParts, write_token_part
from retort.tensors import TokenVectors, maxsim

D = 16


def whole_numbers(*lengths, seed=0):
    """Small integers: every MaxSim is exact in float32, and many tie."""
    vectors = np.random.default_rng(seed).integers(-2, 3, (sum(lengths), D)).astype(np.float32)
    return TokenVectors(vectors, np.cumsum([0, *lengths]))


def topical(count, *, seed):
    """Texts of unit vectors around two topics each, of 30: what candidates are found by."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((30, D))
    lengths = rng.integers(3, 12, count)
    topics = rng.integers(0, 30, (count, 2))[np.repeat(np.arange(count), lengths), rng.integers(0, 2, lengths.sum())]
    vectors = centres[topics] + 0.6 * rng.standard_normal((lengths.sum(), D))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TokenVectors(vectors.astype(np.float32), np.cumsum([0, *lengths]))


LENGTHS = np.random.default_rng(1).integers(0, 6, 90).tolist()
CORPUS, QUERIES = TokenParts.of(whole_numbers(*LENGTHS)), whole_numbers(4, 0, *[3] * 34, seed=2)
PASSAGES, QUESTIONS = TokenParts.of(topical(400, seed=3)), topical(30, seed=4)
COARSE = EncodingSettings(repetitions=4, planes=2, projected=4)


def brute_force(corpus, queries, k):
    scores = np.zeros((len(queries), len(corpus)), np.float32)
    everything = corpus.take(np.arange(len(corpus)))
    for p, passage in enumerate(np.split(everything.vectors, everything.starts[1:-1])):
        if len(passage):
            for q, query in enumerate(np.split(queries.vectors, queries.starts[1:-1])):
                scores[q, p] = (query @ passage.T).max(1).sum()
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [np.take_along_axis(scores, rows, 1).tolist(), rows.tolist()]


def plain(found):
    return [[one.tolist() for one in part] for part in found]


def padded(texts):
    matrices = [torch.from_numpy(texts[row]) for row in range(len(texts))]
    mask = torch.arange(max(map(len, matrices))) < torch.tensor([[len(matrix)] for matrix in matrices])
    return torch.nn.utils.rnn.pad_sequence(matrices, batch_first=True), mask


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_scores_without_padding_equal_the_padded_maxsim_of_training():
    queries, passages = topical(5, seed=1), TokenVectors(whole_numbers(3, 0, 5, 0).vectors, np.array([0, 3, 3, 8, 8]))
    (q, q_mask), (p, p_mask) = padded(queries), padded(passages)
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(4)).T
    expected = maxsim(q[pairs[0]], p[pairs[1]], q_mask[pairs[0]], p_mask[pairs[1]]).reshape(5, 4)
    np.testing.assert_allclose(maxsim_scores(queries, passages), expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("block_tokens", [1, 7, 100, 10_000])
@pytest.mark.parametrize("k", [1, 5, 200])
def test_any_block_size_equals_brute_force_with_ties_and_empties(block_tokens, k):
    assert 0 in LENGTHS
    assert plain(exact_maxsim(CORPUS, QUERIES, k, block_tokens=block_tokens)) == brute_force(CORPUS, QUERIES, k)


def test_the_exact_index_and_parts_equal_brute_force():
    everything = CORPUS.take(np.arange(90))
    cuts = [multi_vector.cut(everything, start, stop) for start, stop in ((0, 3), (3, 3), (3, 90))]
    for corpus in (CORPUS, TokenParts.of(*cuts)):
        index = MultiVectorIndex.build(corpus)
        assert index.exact
        assert plain(index.search(QUERIES, 7)) == brute_force(CORPUS, QUERIES, 7)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_candidates_that_are_the_whole_corpus_equal_brute_force(kind):
    dense = partial(DenseIndex.build, kind=kind, ef_search=200)
    index = MultiVectorIndex.build(CORPUS, exact_up_to=89, candidates=90, settings=COARSE, dense=dense)
    assert not index.exact
    assert plain(index.search(QUERIES, 7)) == brute_force(CORPUS, QUERIES, 7)


def test_more_results_than_candidates_are_all_re_scored():
    index = MultiVectorIndex.build(CORPUS, exact_up_to=1, candidates=2, settings=COARSE)
    assert plain(index.search(QUERIES, 90)) == brute_force(CORPUS, QUERIES, 90)


def test_scores_of_candidates_are_exact_maxsim():
    scores, rows = MultiVectorIndex.build(PASSAGES, exact_up_to=1, candidates=20).search(QUESTIONS, 5)
    for number in range(len(QUESTIONS)):
        query = multi_vector.cut(QUESTIONS, number, number + 1)
        np.testing.assert_allclose(scores[number], maxsim_scores(query, PASSAGES.take(rows[number]))[0], rtol=1e-5)


def recalled(**settings):
    found = MultiVectorIndex.build(PASSAGES, exact_up_to=1, **settings).search(QUESTIONS, 10)[1]
    return recall(list(exact_maxsim(PASSAGES, QUESTIONS, 10)[1]), found)


def test_recall_rises_with_candidates_to_all():
    recalls = [recalled(candidates=candidates, settings=COARSE) for candidates in (10, 60, 400)]
    assert recalls[0] < recalls[1] < recalls[2] == 1


def test_the_default_encodings_find_nearly_all_among_a_quarter_of_the_corpus():
    assert recalled(candidates=100) > 0.9


@pytest.mark.parametrize("exact_up_to", [1, 400])
def test_a_loaded_index_finds_what_the_built_one_found_and_bytes_depend_on_the_seed_alone(tmp_path, exact_up_to):
    write_token_part(tmp_path / "encode" / "part-00000.tokens", PASSAGES.parts[0])
    on_disk = TokenParts.open(tmp_path / "encode")
    build = partial(MultiVectorIndex.build, exact_up_to=exact_up_to, candidates=30, settings=COARSE, seed=4)
    built = build(PASSAGES)
    built.save(tmp_path / "a")
    build(on_disk).save(tmp_path / "b")
    loaded = MultiVectorIndex.load(tmp_path / "a", on_disk)
    assert plain(loaded.search(QUESTIONS, 10)) == plain(built.search(QUESTIONS, 10))
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_an_hnsw_index_of_encodings_is_saved_and_loaded(tmp_path):
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        built = MultiVectorIndex.build(
            PASSAGES, exact_up_to=1, dense=partial(DenseIndex.build, kind="hnsw"), settings=COARSE
        )
    finally:
        faiss.omp_set_num_threads(threads)
    built.save(tmp_path)
    loaded = MultiVectorIndex.load(tmp_path, PASSAGES)
    assert loaded.encoded.kind == "hnsw"
    assert plain(loaded.search(QUESTIONS, 10)) == plain(built.search(QUESTIONS, 10))


def test_an_exact_index_copies_no_vector_and_clears_an_approximate_one(tmp_path):
    MultiVectorIndex.build(PASSAGES, exact_up_to=1, settings=COARSE).save(tmp_path)
    MultiVectorIndex.build(PASSAGES).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD_FILE]


def test_no_query_gives_no_list():
    none = TokenVectors(np.empty((0, D), np.float32), np.array([0]))
    for exact_up_to in (1, 90):
        assert MultiVectorIndex.build(CORPUS, exact_up_to=exact_up_to, settings=COARSE).search(none, 3) == ([], [])


def test_scores_and_rows_have_the_types_of_a_run():
    half = TokenVectors(QUERIES.vectors.astype(np.float16), QUERIES.starts)
    for exact_up_to in (1, 90):
        scores, rows = MultiVectorIndex.build(CORPUS, exact_up_to=exact_up_to, settings=COARSE).search(half, 3)
        assert (scores[0].dtype, rows[0].dtype) == (np.float32, np.int32)


def test_an_index_over_other_vectors_is_refused(tmp_path):
    MultiVectorIndex.build(PASSAGES).save(tmp_path)
    with pytest.raises(ValueError, match=r"is over 400 passages with .* but 90 with"):
        MultiVectorIndex.load(tmp_path, CORPUS)


def test_a_folder_without_an_index_or_with_a_dense_one_is_refused(tmp_path):
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no multi-vector index: expected multi_vector\.json"):
        MultiVectorIndex.load(tmp_path, CORPUS)


@pytest.mark.parametrize("exact_up_to", [1, 90])
@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (
            TokenVectors(np.ones((1, 3), np.float32), np.array([0, 1])),
            1,
            "queries have 3 dimensions, the index has 16: encode",
        ),
        (TokenVectors(np.full((2, D), np.nan, np.float32), np.array([0, 0, 2])), 1, "query 1 of 2 holds NaN"),
        (QUERIES, 0, "k is 0"),
    ],
)
def test_queries_that_cannot_be_answered_are_refused(exact_up_to, queries, k, message):
    with pytest.raises(ValueError, match=message):
        MultiVectorIndex.build(CORPUS, exact_up_to=exact_up_to, settings=COARSE).search(queries, k)


def test_no_candidates_are_refused():
    with pytest.raises(ValueError, match="candidates is 0"):
        MultiVectorIndex.build(CORPUS, candidates=0)
