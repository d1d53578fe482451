"""How well a student agrees with labels it was not trained on: one dev value that needs neither grades nor an index."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator

from retort.compute import sum_over_processes
from retort.distil.batches import examples, make_batch
from retort.distil.caching import encode_batch
from retort.distil.method import Method
from retort.distil.roster import Roster
from retort.records import Corpus, Query, Run
from retort.tensors import Student

QUERIES_AT_ONCE = 16  # bounds the candidates whose vectors are held together; the value does not depend on it


def label_agreement(
    student: Student,
    labels: Run,
    corpus: Corpus,
    queries: Sequence[Query],
    *,
    method: Method,
    chunk_tokens: int,
    accelerator: Accelerator,
) -> float:
    """Minus the mean loss of `method` over the labelled dev queries with all their candidates: higher is better, 0 at best.

    Queries whose labels teach no order are left out; ValueError where none is left. Processes share the queries.
    """
    kept = examples(labels, queries, corpus).kept
    mine = kept[accelerator.process_index :: accelerator.num_processes]
    roster = Roster.of(student)
    student.module.to(accelerator.device).eval()
    total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    with torch.no_grad():
        for start in range(0, len(mine), QUERIES_AT_ONCE):
            batch = make_batch(mine[start : start + QUERIES_AT_ONCE], corpus).to(accelerator.device)
            with accelerator.autocast():
                encoded = encode_batch(student, batch, chunk_tokens)
            total += method.row_losses(batch, roster, *encoded).total.sum()
    return -sum_over_processes(total, accelerator) / len(kept)
