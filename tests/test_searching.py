"""Rounds in which the query side alone is trained: what stays, and what does not. What is taken out of many vectors."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from retort.indexes.sparse_vectors import SparseParts
from retort.pipeline import run
from retort.records import Run
from retort.searching import KINDS
from retort.store import MANIFEST, read_json
from retort.tensors import TokenVectors
from tiny_run import config


def bytes_in(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("way", ["full", "lora"])
def test_passage_vectors_and_their_index_stay_and_the_search_changes(sources, tmp_path, way):
    chosen = config(
        sources, label={"teachers": [{"kind": "answers"}, {"kind": "bm25"}]},
        distil={"student": {"query_side": way, "lora_rank": 2}, "later_rounds": "continue"}, index={"kind": "hnsw"},
    )  # fmt: skip
    steps = run(chosen, tmp_path)
    vectors, index = bytes_in(steps["round-0/encode"].path / "parts"), (steps["round-0/index"].path / "index.faiss")
    for number in (1, 2):
        assert bytes_in(steps[f"round-{number}/encode"].path / "parts") == vectors
        assert (steps[f"round-{number}/index"].path / "index.faiss").read_bytes() == index.read_bytes()
        assert not (steps[f"round-{number}/index"].path / "bm25").exists()
    found = [(steps[f"round-{number}/retrieve"].path / "student.parquet").read_bytes() for number in range(3)]
    assert len(set(found)) == 3


@pytest.mark.filterwarnings("ignore:.*has no masked-language-model head")
def test_a_sparse_student_is_searched_by_seismic_as_exactly_where_it_looks_everywhere(sources, tmp_path):
    pytest.importorskip("seismic", reason="the extra [seismic] is not installed")
    sparse = {"kind": "sparse", "scale": 1.0}
    found = {}
    for kind, everywhere in {"flat": {}, "seismic": {"seismic_terms": 1000, "seismic_heap": 0.01}}.items():
        chosen = config(sources, distil={"student": sparse}, index={"kind": kind, **everywhere})
        rounds = [f"round-0/{stage}" for stage in ("encode", "index", "retrieve")]
        steps = run(chosen, tmp_path / kind, only=["prepare", *rounds])
        found[kind] = Run.read(steps["round-0/retrieve"].path / "student.parquet")
    assert read_json(steps["round-0/index"].path / MANIFEST)["recall@100 of the exact search"] == 1
    assert found["seismic"].passages.tolist() == found["flat"].passages.tolist()
    assert found["seismic"].scores.tolist() == found["flat"].scores.tolist()


def test_sparse_rows_are_taken_from_several_parts_in_any_order():
    matrix = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 0], [3, 0, 4], [0, 5, 0]], np.float32)
    parts = SparseParts.of(csr_array(matrix[:2]), csr_array(matrix[2:3]), csr_array(matrix[3:]))
    rows = np.array([4, 0, 3, 2, 1])
    assert KINDS["sparse"].take(parts, rows).toarray().tolist() == matrix[rows].tolist()


@pytest.mark.parametrize(
    ("kind", "vectors", "second"),
    [
        ("dense", np.eye(3, dtype=np.float32), [[0, 1, 0]]),
        ("sparse", csr_array(np.eye(3, dtype=np.float32)), [[0, 1, 0]]),
        ("late_interaction", TokenVectors(np.eye(3, dtype=np.float32), np.array([0, 1, 3])), [[0, 1, 0], [0, 0, 1]]),
    ],
)
def test_one_text_of_several_is_cut_out_as_its_kind_has_it(kind, vectors, second):
    one = KINDS[kind].one(vectors, 1)
    array = one.vectors if isinstance(one, TokenVectors) else one.toarray() if isinstance(one, csr_array) else one
    assert array.tolist() == second
