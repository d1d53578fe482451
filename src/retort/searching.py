"""How a round's passages are encoded, indexed and searched, for each kind of student: one table of kinds.

Between the pipeline and the families; nothing here depends on how a student came about.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int32
from scipy.sparse import csr_array

from retort.config import Bm25, Index
from retort.distil.topics import Place
from retort.indexes.best import recall
from retort.indexes.bm25 import BM25Index, BM25Settings
from retort.indexes.dense import DenseIndex
from retort.indexes.fixed_dimensional import EncodingSettings
from retort.indexes.inverted import InvertedIndex
from retort.indexes.multi_vector import MultiVectorIndex
from retort.indexes.parts import DENSE, SPARSE, TOKENS
from retort.indexes.seismic import RECORD_FILE as SEISMIC
from retort.indexes.seismic import SeismicIndex
from retort.indexes.sparse_vectors import SparseParts, write_sparse_part
from retort.indexes.token_vectors import TokenParts, cut, write_token_part
from retort.indexes.vectors import VectorParts, write_vector_part
from retort.job import Job
from retort.labelling import MODEL
from retort.plan import Step, stored_round
from retort.prepared import Prepared
from retort.records import Corpus, Passage, Query, Run
from retort.store import PARTS
from retort.students.dense import DenseStudent
from retort.students.loading import AnyStudent, InTraining, load_student
from retort.students.query_side import QuerySideStudent
from retort.students.sparse import SparseStudent, collapse
from retort.tensors import TokenVectors

AnyIndex = DenseIndex | InvertedIndex | SeismicIndex | MultiVectorIndex
Encodings = np.ndarray | csr_array | TokenVectors  # texts by a student of any kind, in memory
Found = tuple[list[Float32[np.ndarray, "_"]], list[Int32[np.ndarray, "_"]]]  # scores and rows of each query, best first
BM25 = "bm25"  # its folder in the index of round 0
ASKED = 100  # questions of which recall is measured where an index is approximate
K = 100  # at which it is measured


@dataclass(frozen=True)
class Kind:
    """What the vectors of one kind of student are on disk and in memory, and what searches them."""

    ending: str  # of a part's name
    write: Callable[[Path, Any], None]
    open: Callable[[Path], Any]  # the parts of a folder
    hold: Callable[[Any], Any]  # vectors in memory, as if they were parts
    take: Callable[[Any, Int[np.ndarray, "n"]], Any]  # the vectors of some rows of parts, in memory
    one: Callable[[Any, int], Encodings]  # of vectors in memory those of one text
    build: Callable[[Any, Index, int], AnyIndex]
    load: Callable[[Path, Any], AnyIndex]


def student_of(job: Job, number: int) -> AnyStudent:
    """The student of a round on the device of the job; of round 0 the untouched one."""
    settings = job.steps[f"round-{number}/encode"].config.distil.student
    student = load_student(settings, folder=job.path(number, "distil") / MODEL if number else None)
    student.module.to(job.accelerator.device)
    return student


def in_training(job: Job, step: Step, labels: Run) -> InTraining:
    """The student that a round trains: of the round before, or anew; over stored passages where only queries are trained."""
    settings, goes_on = step.config.distil.student, step.config.distil.later_rounds == "continue" and step.round > 1
    student = load_student(settings, folder=job.path(step.round - 1, "distil") / MODEL if goes_on else None)
    if settings.query_side is None:
        return student
    assert isinstance(student, DenseStudent)
    stored = stored_round(step.config, step.round)
    assert stored is not None
    rows, corpus = np.unique(labels.passages), job.prepared.corpus
    return QuerySideStudent(student, passages_of(job, stored).take, dict(zip(corpus.ids(rows), rows.tolist(), strict=True)))


def placed(job: Job, step: Step) -> Place | None:
    """What gives passages' vectors by the student of the round before, where batches are drawn by topic."""
    return passages_of(job, step.round - 1).take if step.config.distil.batches == "topics" else None


def kind_of(job: Job, number: int) -> Kind:
    """The kind of a round's student."""
    return KINDS[job.steps[f"round-{number}/encode"].config.distil.student.kind]


def passages_of(job: Job, number: int) -> Any:  # noqa: ANN401 (parts of the student's kind)
    """The encoded corpus of a round, memory-mapped."""
    return kind_of(job, number).open(job.path(number, "encode") / PARTS)


def bm25_index(corpus: Corpus, settings: Bm25, scratch: Path | None = None) -> BM25Index:
    """BM25 over the corpus, as the config has it; its temporary files stand in `scratch`."""
    return BM25Index.build(corpus, settings=BM25Settings(**settings.model_dump()), scratch=scratch)


def search_vectors(job: Job, number: int, asked: Encodings, k: int) -> Found:
    """Scores and rows of the best `k` in the index of a round, for each encoded query."""
    index = kind_of(job, number).load(job.path(number, "index"), passages_of(job, number))
    return index.search(asked, k)  # type: ignore[arg-type]


def search_pool(student: InTraining, passages: Sequence[Passage], queries: Sequence[Query], k: int, job: Job) -> Found:
    """Scores and places in `passages` of the best `k` for each query, by an exact search in memory."""
    kind = KINDS[student.settings.kind]
    held = kind.hold(student.embed(passages, "passage", autocast=job.precision))
    index = kind.build(held, Index(exact_up_to=len(passages)), 0)
    return index.search(student.embed(queries, "query", autocast=job.precision), k)  # type: ignore[arg-type]


def sparse_trouble(student: InTraining, prepared: Prepared, job: Job) -> str | None:
    """What is wrong with the vectors of a sparse student in training: of dev questions, and of some passages."""
    if not isinstance(student, SparseStudent):
        return None
    passages = [prepared.corpus[row] for row in range(min(ASKED, len(prepared.corpus)))]
    queries = prepared.splits["dev"][:ASKED]
    asked, stored = (student.embed(queries, "query", autocast=job.precision),
                     student.embed(passages, "passage", autocast=job.precision))  # fmt: skip
    for what, vectors in (("questions", asked), ("passages", stored)):
        if trouble := collapse(vectors):
            return f"the sparse student's vectors of {what} have collapsed: {trouble}"
    return None


def lost(job: Job, number: int, index: AnyIndex, queries: Sequence[Query]) -> dict[str, float]:
    """What an approximate index finds of the exact best for some questions, measured; nothing for an exact one."""
    if index.exact:
        return {}
    kind, passages = kind_of(job, number), passages_of(job, number)
    asked = student_of(job, number).embed(queries[:ASKED], "query", autocast=job.precision)
    exact = kind.build(passages, Index(exact_up_to=len(passages)), 0)
    best, found = (one.search(asked, K)[1] for one in (exact, index))  # type: ignore[arg-type]
    return {f"recall@{K} of the exact search": recall(best, found)}


def _dense_index(vectors: VectorParts, settings: Index, seed: int) -> DenseIndex:
    return DenseIndex.build(
        vectors, kind=settings.kind, neighbours=settings.hnsw_links, ef_search=settings.hnsw_search,
        lists=settings.ivf_lists, probes=settings.ivf_probes, seed=seed,
    )  # fmt: skip


def _sparse_index(vectors: SparseParts, settings: Index, seed: int) -> InvertedIndex | SeismicIndex:
    if settings.kind == "flat":
        return InvertedIndex.build(vectors)
    return SeismicIndex.build(vectors, query_terms=settings.seismic_terms, heap_factor=settings.seismic_heap)


def _saved_sparse_index(folder: Path, vectors: SparseParts) -> InvertedIndex | SeismicIndex:
    return SeismicIndex.load(folder, vectors) if (folder / SEISMIC).is_file() else InvertedIndex.load(folder)


def _multi_vector_index(tokens: TokenParts, settings: Index, seed: int) -> MultiVectorIndex:
    cells = EncodingSettings(
        repetitions=settings.encoding_repetitions, planes=settings.encoding_planes, projected=settings.encoding_projected
    )
    return MultiVectorIndex.build(
        tokens, exact_up_to=settings.exact_up_to, candidates=settings.candidates, settings=cells,
        dense=lambda encoded: _dense_index(encoded, settings, seed), seed=seed,
    )  # fmt: skip


KINDS: dict[str, Kind] = {
    "dense": Kind(
        DENSE, write_vector_part, VectorParts.open, VectorParts.of, VectorParts.take,
        lambda vectors, place: vectors[place : place + 1], _dense_index, DenseIndex.load,
    ),
    "sparse": Kind(
        SPARSE, write_sparse_part, SparseParts.open, SparseParts.of, SparseParts.take,
        lambda vectors, place: vectors[[place]],
        _sparse_index, _saved_sparse_index,
    ),
    "late_interaction": Kind(
        TOKENS, write_token_part, TokenParts.open, TokenParts.of, TokenParts.take,
        lambda vectors, place: cut(vectors, place, place + 1), _multi_vector_index, MultiVectorIndex.load,
    ),
}  # fmt: skip
