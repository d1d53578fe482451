"""Indexes are as large as their files are; a stage holds its models, what training adds, and the batch in hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from retort.config import Index
from retort.footprint import BLOCK_BYTES, Work, checkpoints, encoded_dimensions, index_bytes, memory
from retort.indexes.token_vectors import TokenParts
from retort.plan import plan
from retort.searching import KINDS
from retort.speeds import TeacherTried, Weights
from retort.spending import bytes_of
from retort.tensors import TokenVectors
from tiny_run import config
from tiny_speeds import QUESTIONS, SPEEDS, STUDENT


def built_bytes(kind: str, vectors: object, settings: Index, folder) -> int:
    KINDS[kind].build(KINDS[kind].hold(vectors), settings, 0).save(folder)
    return bytes_of(folder)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("kind", "dimension"), [("hnsw", 16), ("hnsw", 128), ("ivf", 64)])
def test_an_approximate_dense_index_is_as_large_as_its_file(rng, tmp_path, kind, dimension):
    settings, student = Index(kind=kind, hnsw_links=16), replace(STUDENT, dimension=dimension)
    vectors = rng.standard_normal((1500, dimension)).astype(np.float32)
    assert index_bytes(settings, "dense", 1500, student) == pytest.approx(
        built_bytes("dense", vectors, settings, tmp_path), rel=0.05
    )


def test_an_exact_index_of_vectors_has_nothing_beyond_them():
    assert index_bytes(Index(), "dense", 1500, STUDENT) == 0
    assert index_bytes(Index(exact_up_to=1500), "late_interaction", 1500, STUDENT) == 0


def sparse(rng, passages: int) -> csr_array:
    columns = np.minimum(rng.zipf(1.3, (passages, 50)) - 1, 4999)
    rows = np.repeat(np.arange(passages), 50)
    found = csr_array((rng.random(50 * passages, np.float32) + 0.1, (rows, columns.ravel())), (passages, 5000))
    found.sum_duplicates()
    return found


@pytest.mark.parametrize(("kind", "margin"), [("flat", 0.01), ("seismic", 0.5)])
def test_the_index_of_sparse_vectors_grows_with_their_nonzeros(rng, tmp_path, kind, margin):
    vectors = sparse(rng, 3000)
    student = replace(STUDENT, vectors=vectors.nnz / 3000, dimension=5000)
    found = index_bytes(Index(kind=kind), "sparse", 3000, student)
    assert found == pytest.approx(built_bytes("sparse", vectors, Index(kind=kind), tmp_path), rel=margin)


def test_above_its_size_late_interaction_has_encodings_and_their_index(rng, tmp_path):
    settings = Index(kind="hnsw", exact_up_to=100, encoding_repetitions=4, encoding_planes=2, encoding_projected=4)
    tokens = TokenVectors(rng.standard_normal((2000, 24)).astype(np.float32), np.arange(0, 2001, 10))
    assert encoded_dimensions(settings, STUDENT) == 64
    assert len(TokenParts.of(tokens)) == 200
    assert index_bytes(settings, "late_interaction", 200, STUDENT) == pytest.approx(
        built_bytes("late_interaction", tokens, settings, tmp_path), rel=0.15
    )


def test_a_training_replaces_a_checkpoint_of_the_model_and_two_moments_by_another():
    assert checkpoints(Weights(1000, 800)) == 2 * (1000 + 2 * 800)


def peak(sources, folder, name, speeds=SPEEDS, **changes) -> int:
    """Of a step, without what the process holds."""
    step = plan(config(sources, **changes), folder)[name]
    return memory(Work(step, QUESTIONS, 40, step.config.label.depth, speeds)) - 10_000


def test_training_holds_gradients_moments_and_the_activations_of_a_batch(sources, tmp_path):
    """The reader reads 4 x 3 passages; the student 4 x 4, and both vectors and their gradients in float32."""
    assert peak(sources, tmp_path, "round-1/read") == 5000 + 3 * 4000 + 4 * 3 * 13
    small = {"phases": [{"passages": 3, "steps": 2, "batch": 4, "microbatch": 2}]}
    assert peak(sources, tmp_path, "round-1/read", read=small) == 5000 + 3 * 4000 + 2 * 3 * 13
    assert peak(sources, tmp_path, "round-1/distil") == 1000 + 3 * 800 + 16 * 11 + 8 * 16 * 24
    cached = {"chunk_tokens": 60}  # 4 passages of 15 tokens
    assert peak(sources, tmp_path, "round-1/distil", distil=cached) == 1000 + 3 * 800 + 4 * 11 + 8 * 16 * 24
    whole = {"chunk_tokens": 60, "gradient_caching": False}
    assert peak(sources, tmp_path, "round-1/distil", distil=whole) == peak(sources, tmp_path, "round-1/distil")


def test_training_the_query_side_holds_the_activations_of_questions(sources, tmp_path):
    alone = {"student": {"query_side": "full"}}
    assert peak(sources, tmp_path, "round-1/distil", distil=alone) == 1000 + 3 * 800 + 4 * 11 + 8 * 16 * 24


def test_encoding_and_labelling_hold_weights_and_a_batch(sources, tmp_path):
    assert peak(sources, tmp_path, "round-1/encode") == 1000 + 40 * 7 + 3 * 16 * 48  # 16 passages a part
    small = {"encode": {"batch_tokens": 150}}
    assert peak(sources, tmp_path, "round-1/encode", **small) == 1000 + 10 * 7 + 3 * 16 * 48
    assert peak(sources, tmp_path, "round-1/encode", distil={"student": {"query_side": "full"}}) == 0
    assert peak(sources, tmp_path, "round-1/label") == 5000 + 8 * 6 * 3
    other = replace(SPEEDS, teachers=(TeacherTried(5.0, 900.0),))
    assert peak(sources, tmp_path, "round-1/label", other) == 5000 + 900
    assert peak(sources, tmp_path, "round-1/label", replace(other, reader=None)) == 900


def test_an_approximate_index_is_built_and_searched_in_memory_and_an_exact_one_by_the_block(sources, tmp_path):
    size = 40 * (2 * 24 + 8 * 32 + 16)
    hnsw = {"index": {"kind": "hnsw"}}
    assert peak(sources, tmp_path, "round-1/index") == BLOCK_BYTES
    assert peak(sources, tmp_path, "round-1/index", **hnsw) == BLOCK_BYTES + 1000 + size
    assert peak(sources, tmp_path, "round-1/retrieve") == 1000 + 4 * 34 * 24 + BLOCK_BYTES
    assert peak(sources, tmp_path, "round-1/retrieve", **hnsw) == 1000 + 4 * 34 * 24 + BLOCK_BYTES + size
