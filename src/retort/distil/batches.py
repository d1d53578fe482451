"""From labels to batches: which queries can be trained on, and the Batch of a step as a pure function of (seed, step)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from retort.compute import batch_rows
from retort.distil.curation import Curation
from retort.distil.sampling import Labelled, Sampler, with_both
from retort.distil.topics import Place, Topics, clustered
from retort.records import Corpus, Query, Run
from retort.tensors import Batch


@dataclass(frozen=True)
class Examples:
    """The labelled queries that can be trained on, how many were dropped for which reason, and how many candidates."""

    kept: tuple[Labelled, ...]
    dropped: Mapping[str, int]
    removed: Mapping[str, int]
    ranked_at: int | None = None  # the step at which the candidates' ranks were renewed
    topics: Topics | None = None  # of the queries; None: any of them share a batch

    def __len__(self) -> int:
        return len(self.kept)

    def rows(self, batch: int, step: int, seed: int) -> list[int]:
        """The queries of optimiser step `step`."""
        drawn = batch_rows(len(self), batch, step, seed) if self.topics is None else self.topics.rows(batch, step, seed)
        return drawn.tolist()

    def topics_of(self, place: Place, count: int, seed: int) -> Int64[np.ndarray, "n"]:
        """One of `count` topics for each query: that of the passage labelled best, which stands where `place` says."""
        best = np.array([one.passages[int(one.scores.argmax())] for one in self.kept], np.int32)
        return clustered(place(best), count, seed)


def examples(labels: Run, queries: Sequence[Query], corpus: Corpus, curation: Curation | None = None) -> Examples:
    """The queries of `labels` that can teach a ranking, as `curation` leaves them: 2 candidates or more, not all equal.

    ValueError: no query is left, a labelled query is not among `queries`, or a label's passage row is not in the corpus.
    """
    known = {query.id: query for query in queries}
    if len(labels.passages) and int(labels.passages.max()) >= len(corpus):
        raise ValueError(
            f"labels {labels.name!r} hold passage row {int(labels.passages.max())}, the corpus has {len(corpus)} passages: "
            "give the corpus that was labelled"
        )
    curate = curation or Curation()
    kept, dropped, removed = [], Counter[str](), Counter[str]()
    for query_id, passages, scores in labels:
        if query_id not in known:
            raise ValueError(
                f"labels {labels.name!r} hold query {query_id!r}, which is not among the {len(known)} queries given: give "
                "the queries that were labelled"
            )
        curated, out = curate(Labelled(known[query_id], passages, scores, np.zeros(len(passages), bool)))
        removed += out
        if isinstance(curated, str):
            dropped[curated] += 1
        else:
            kept.append(curated)
    if not kept:
        raise ValueError(
            f"labels {labels.name!r}: none of {len(labels)} queries can be trained on ({dict(dropped)}, after leaving out "
            f"{dict(removed)}): expected at least one with 2 candidates whose scores differ, and where an objective reads "
            "positives one of each kind; look at the teacher, at the depth of its candidates, at what marks positives, and "
            "at distil.negatives"
        )
    return Examples(tuple(kept), dict(dropped), dict(removed))


def sampled(data: Examples, rows: Sequence[int], sampler: Sampler, count: int, *, seed: int, step: int) -> list[Labelled]:
    """The queries of a step, each with the candidates that `sampler` draws for its place: by (seed, step, place) alone."""
    drawn = []
    for place, row in enumerate(rows):
        labelled = data.kept[row]
        rng = np.random.default_rng([seed, step, place])
        drawn.append(labelled.take(with_both(labelled, sampler(labelled, count, rng), rng)))
    return drawn


def make_batch(drawn: Sequence[Labelled], corpus: Corpus, step: int = 0) -> Batch:
    """The batch of these queries and all their candidates; each distinct passage stands once, in corpus order."""
    width = max(len(labelled) for labelled in drawn)
    mask = np.array([np.arange(width) < len(labelled) for labelled in drawn])

    def padded(parts: Sequence[np.ndarray], kind: type[np.generic]) -> np.ndarray:
        table = np.zeros(mask.shape, kind)
        table[mask] = np.concatenate(parts)
        return table

    rows = padded([labelled.passages for labelled in drawn], np.int64)
    ranks = [labelled.ranks for labelled in drawn if labelled.ranks is not None]
    distinct = np.unique(rows[mask])
    return Batch(
        queries=tuple(labelled.query for labelled in drawn),
        passages=tuple(corpus[int(row)] for row in distinct),
        candidates=torch.from_numpy(np.where(mask, np.searchsorted(distinct, rows), 0)),
        mask=torch.from_numpy(mask),
        positive=torch.from_numpy(padded([labelled.positive for labelled in drawn], np.bool_)),
        undrawn=torch.from_numpy(np.array([np.isin(distinct, labelled.others) for labelled in drawn])),
        labels=torch.from_numpy(padded([labelled.scores for labelled in drawn], np.float32)),
        ranks=torch.from_numpy(np.where(mask, padded(ranks, np.int64), 1)) if len(ranks) == len(drawn) else None,
        step=step,
    )
