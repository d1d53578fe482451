"""How well a student agrees with labels it was not trained on: one dev value that needs neither grades nor an index."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float32

from retort.distil.batches import examples, make_batch
from retort.distil.caching import encode_batch
from retort.distil.curation import Curation
from retort.distil.method import Method
from retort.distil.roster import Roster
from retort.distil.sampling import Labelled
from retort.records import Corpus, Query, Run
from retort.tensors import Batch, Encoded, Student

# bounds the candidates whose vectors are held together; only losses over the whole batch (info_nce, candidate_mass) depend
# on it
QUERIES_AT_ONCE = 16


def label_agreement(
    student: Student,
    labels: Run,
    corpus: Corpus,
    queries: Sequence[Query],
    *,
    method: Method,
    chunk_tokens: int,
    accelerator: Accelerator,
    curation: Curation | None = None,
) -> float:
    """Minus the mean loss of `method` over the labelled dev queries with all their candidates: higher is better.

    Objectives are taken as they are at step 0, so that values of different steps compare. Queries whose labels teach no
    order are left out; ValueError where none is left. Processes share the texts, and all of them get the value.
    """
    kept = examples(labels, queries, corpus, curation).kept
    roster, total = Roster.of(student), torch.zeros((), dtype=torch.float64, device=accelerator.device)
    with torch.no_grad():
        for batch, encoded in _encoded(student, kept, corpus, chunk_tokens, accelerator):
            total += method.row_losses(batch, roster, *encoded).total.sum()
    return -float(total) / len(kept)


def scored(
    student: Student, lists: Sequence[Labelled], corpus: Corpus, *, chunk_tokens: int, accelerator: Accelerator
) -> list[Float32[np.ndarray, "n"]]:
    """The student's scores of all candidates of each list, without dropout. Processes share the texts."""
    found: list[np.ndarray] = []
    with torch.no_grad():
        for batch, encoded in _encoded(student, lists, corpus, chunk_tokens, accelerator):
            scores = student.score(*encoded, batch, frozenset({"scores"})).scores
            assert scores is not None
            found += [row[real].float().cpu().numpy() for row, real in zip(scores, batch.mask, strict=True)]
    return found


def _encoded(
    student: Student, lists: Sequence[Labelled], corpus: Corpus, chunk_tokens: int, accelerator: Accelerator
) -> Iterator[tuple[Batch, tuple[Encoded, Encoded]]]:
    """The lists in batches, each with the encodings of its queries and passages."""
    student.module.to(accelerator.device).eval()
    for start in range(0, len(lists), QUERIES_AT_ONCE):
        batch = make_batch(lists[start : start + QUERIES_AT_ONCE], corpus).to(accelerator.device)
        with accelerator.autocast():
            encoded = encode_batch(student, batch, chunk_tokens, accelerator=accelerator)
        yield batch, encoded
