"""What the stages of a run take besides time: memory at their peak, and bytes on disk, by what a probe found.

Estimates. Memory is that of the process, or of the GPU for what models hold there. It leaves out the pages of mapped files,
which the system drops where memory is short: a search that reads vectors from disk shows more where there is room.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from retort.config import Index
from retort.indexes.inverted import BLOCK_ROWS
from retort.plan import Step, refresh_of
from retort.speeds import Speeds, StudentTried, Weights, in_hand, in_step

BLOCK_BYTES = 64_000_000  # a block of vectors and a tile of scores in a search (indexes/exact.py, multi_vector.py)
# measured on 1,000 to 20,000 sparse vectors: the files of Seismic are 240 bytes for each entry of the vocabulary and 12 to
# 20 a nonzero; faiss adds 16 a vector to the links of HNSW
SEISMIC_ENTRY, SEISMIC_NONZERO, HNSW_VECTOR = 240, 20, 16
BUILT = 2  # the vectors that Seismic is given are in memory beside the index that it makes of them


@dataclass(frozen=True)
class Work:
    """A step with what it works on: the questions of each split, the passages of the corpus, the label depth."""

    step: Step
    questions: Mapping[str, int]
    passages: int
    depth: int
    speeds: Speeds

    @property
    def asked(self) -> int:
        """The questions of all splits."""
        return sum(self.questions.values())


def index_bytes(settings: Index, kind: str, passages: int, student: StudentTried) -> int:
    """The files of an index beyond the encoded passages that it is over; `kind` is the student's."""
    if kind == "sparse" and settings.kind == "flat":
        return round(6 * passages * student.vectors) + 8 * (student.dimension + 1) * -(-passages // BLOCK_ROWS)
    if kind == "sparse":
        return round(SEISMIC_NONZERO * passages * student.vectors) + SEISMIC_ENTRY * student.dimension
    if kind == "dense":
        return _dense_bytes(settings, passages, student.dimension)
    if passages <= settings.exact_up_to:
        return 0
    encoding = encoded_dimensions(settings, student)
    return 2 * passages * encoding + _dense_bytes(settings, passages, encoding)


def encoded_dimensions(settings: Index, student: StudentTried) -> int:
    """The length of a late-interaction passage's encoding by MUVERA."""
    return settings.encoding_repetitions * 2**settings.encoding_planes * (settings.encoding_projected or student.dimension)


def checkpoints(weights: Weights) -> int:
    """What a training needs on disk while it goes on, and removes: a checkpoint, and the one that is to replace it.

    Each holds the model and two moments of what is trained (Adam).
    """
    return 2 * (weights.held + 2 * weights.trained)


def memory(work: Work) -> int:
    """Bytes that a step holds at its peak."""
    return round(work.speeds.process_bytes + PEAKS[work.step.stage](work))


def _dense_bytes(settings: Index, vectors: int, dimension: int) -> int:
    if settings.kind == "hnsw":
        return vectors * (2 * dimension + 8 * settings.hnsw_links + HNSW_VECTOR)
    if settings.kind == "ivf":
        lists = min(vectors, settings.ivf_lists or round(4 * vectors**0.5))
        return vectors * (2 * dimension + 8) + 4 * lists * dimension
    return 0


def _training(weights: Weights) -> int:
    """Weights, gradients, and Adam's two moments."""
    return weights.held + 3 * weights.trained


def _encoding(work: Work) -> float | int:
    """The student, a batch, and the encodings of a part, which are rounded to half of their bytes."""
    config, student = work.step.config, work.speeds.student
    if refresh_of(config, work.step.round) == "keep":
        return 0.0
    batch = in_hand(work.passages, student.passage_tokens, config.encode.batch_tokens, work.speeds.device)
    part = min(work.passages, config.encode.passages_per_part)
    return student.weights.held + batch * student.encoded.bytes_each + 3 * part * student.vector_bytes


def _indexing(work: Work) -> float | int:
    """A block of what is read, what is built, and the student whose questions then measure an approximate index."""
    config, student, size = work.step.config, work.speeds.student, _own_index(work)
    if config.distil.student.kind == "sparse" and config.index.kind == "flat":
        return 16 * min(work.passages, BLOCK_ROWS) * student.vectors  # postings are written block by block
    if not size:
        return BLOCK_BYTES
    return BLOCK_BYTES + student.weights.held + size * (BUILT if config.distil.student.kind == "sparse" else 1)


def _retrieving(work: Work) -> float | int:
    """The student, the encoded questions, a block of the passages, and an index that a search walks about in."""
    config, student = work.step.config, work.speeds.student
    questions = work.asked * QUESTION_FLOATS[config.distil.student.kind](student)
    walked = _own_index(work) if config.index.kind != "flat" else 0
    return student.weights.held + 4 * questions + BLOCK_BYTES + walked


def _reading(work: Work) -> float | int:
    """The reader in training, and the passages of the largest batch that is computed at once."""
    reader, read = work.speeds.reader, work.step.config.read
    assert reader is not None
    most = max((phase.microbatch or phase.batch) * phase.passages for phase in read.phases)
    return _training(reader.weights) + most * reader.read.bytes_each


def _labelling(work: Work) -> float | int:
    """The reader, which stays, with a batch of its own or another teacher beside it."""
    reader, batch = work.speeds.reader, min(work.asked, work.step.config.label.batch) * work.depth
    others = max((teacher.held for teacher in work.speeds.teachers), default=0.0)
    return others if reader is None else reader.weights.held + max(others, batch * reader.labelled.bytes_each)


def _distilling(work: Work) -> float | int:
    """The student in training, activations, and the encodings of all passages of a step with their gradients."""
    distil, student = work.step.config.distil, work.speeds.student
    passages = min(work.passages, distil.batch * min(distil.candidates, work.depth))
    encodings = 8 * passages * PASSAGE_FLOATS[distil.student.kind](student)
    texts = (distil.batch, student.query_tokens) if distil.student.query_side else (passages, student.passage_tokens)
    held = in_step(*texts, distil, work.speeds.device)
    return _training(student.weights) + held * student.distilled.bytes_each + encodings


def _own_index(work: Work) -> int:
    config = work.step.config
    return index_bytes(config.index, config.distil.student.kind, work.passages, work.speeds.student)


PEAKS: Mapping[str, Callable[[Work], float | int]] = {
    "encode": _encoding,
    "index": _indexing,
    "retrieve": _retrieving,
    "read": _reading,
    "label": _labelling,
    "distil": _distilling,
}
# numbers of an encoded text in memory, by the kind of student: a batch in training holds every entry of the vocabulary
PASSAGE_FLOATS: Mapping[str, Callable[[StudentTried], float | int]] = {
    "dense": lambda student: student.dimension,
    "sparse": lambda student: student.dimension,
    "late_interaction": lambda student: student.vectors * student.dimension,
}
QUESTION_FLOATS: Mapping[str, Callable[[StudentTried], float | int]] = {
    "dense": lambda student: student.dimension,
    "sparse": lambda student: 2 * student.vectors,  # weights and columns; no more of them than a passage has
    "late_interaction": lambda student: student.query_tokens * student.dimension,
}
