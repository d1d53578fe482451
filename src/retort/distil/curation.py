"""What is known of a query's labelled candidates beside their scores, and which of them may be trained on.

Positives (by answer or by grade), ranks in a student's search, and the negatives that are kept. All of it happens once,
before training; what is left out is counted. Not here: which candidates a step draws (sampling.py).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int32

from retort.distil.sampling import Labelled
from retort.records import Corpus, Qrels, Query, Run
from retort.text import AnswerMatcher

Positives = Mapping[str, Int32[np.ndarray, "P"]]  # corpus rows by query
Mark = Callable[[Query, Int32[np.ndarray, "n"]], Bool[np.ndarray, "n"]]

FEW, CONSTANT = "fewer than 2 labelled candidates", "all labels equal"
NO_POSITIVE, NO_NEGATIVE = "no positive candidate", "no negative candidate"
OUTSIDE, ABOVE = "negatives outside the window", "negatives that the teacher puts next to the best positive or above it"


def answer_bearing(corpus: Corpus) -> Mark:
    """Marks the candidates whose text holds an answer of the query (distant supervision; titles do not count)."""

    def mark(query: Query, rows: Int32[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        matches = AnswerMatcher(query.answers).matches
        return np.array([matches(corpus[row].text) for row in rows.tolist()], bool)

    return mark


def positive_rows(qrels: Qrels, corpus: Corpus) -> Positives:
    """The corpus rows of the passages with a grade above 0, by query. ValueError where one is not in the corpus."""
    positive = {query: [p for p, grade in judged.items() if grade > 0] for query, judged in qrels.grades.items()}
    if not positive:
        return {}
    rows = corpus.rows([passage for ids in positive.values() for passage in ids])  # one call: each looks at all ids
    return dict(zip(positive, np.split(rows, np.cumsum([len(ids) for ids in positive.values()])[:-1]), strict=True))


def graded(positives: Positives) -> Mark:
    """Marks the candidates that are among the positives of their query."""
    none = np.zeros(0, np.int32)
    return lambda query, candidates: np.isin(candidates, positives.get(query.id, none))


@dataclass(frozen=True, kw_only=True)
class Curation:
    """How a labelled list becomes one that can be trained on; as it stands, it leaves out only what teaches no order.

    `mark`: what is a positive, for objectives that read positives; then a list needs one, and a negative too. `ranking`: the
    Run whose ranks the candidates get; one that it lacks ranks behind its last. `shortlist`: the Run of which the first
    `window` may be negatives. `teacher_margin`: a negative whose teacher score is above the best positive's less this is
    taken for an unmarked positive and left out (positive-aware mining, arXiv 2407.15831).
    """

    mark: Mark | None = None
    ranking: Run | None = None
    shortlist: Run | None = None
    window: int | None = None
    teacher_margin: float | None = None

    def __call__(self, labelled: Labelled) -> tuple[Labelled | str, Counter[str]]:
        """The list with its positives and ranks and without what may not be a negative, or why it cannot be trained on.

        And how many candidates were left out, by reason.
        """
        if self.mark is not None:
            labelled = replace(labelled, positive=self.mark(labelled.query, labelled.passages))
        if self.ranking is not None:
            labelled = replace(labelled, ranks=ranks_in(self.ranking, labelled))
        removed = self._removed(labelled)
        kept = labelled.take(np.flatnonzero(~np.any(list(removed.values()), axis=0)))
        return self._trouble(kept) or kept, Counter({reason: int(out.sum()) for reason, out in removed.items() if out.any()})

    def _removed(self, labelled: Labelled) -> dict[str, Bool[np.ndarray, "n"]]:
        """The negatives that each rule leaves out."""
        outside, above = (np.zeros(len(labelled), bool) for _ in range(2))
        if self.shortlist is not None and self.window is not None:
            ranks = ranks_in(self.shortlist, labelled, missing=self.window + 1)
            outside = ~labelled.positive & (ranks > self.window)
        if self.teacher_margin is not None and labelled.positive.any():
            best = labelled.scores[labelled.positive].max()
            above = ~labelled.positive & ~outside & (labelled.scores > best - self.teacher_margin)
        return {OUTSIDE: outside, ABOVE: above}

    def _trouble(self, labelled: Labelled) -> str | None:
        """Why the list cannot be trained on, None where it can."""
        if len(labelled) < 2:
            return FEW
        if labelled.scores.min() == labelled.scores.max():
            return CONSTANT
        if self.mark is not None and not labelled.positive.any():
            return NO_POSITIVE
        return NO_NEGATIVE if self.mark is not None and labelled.positive.all() else None


def ranks_in(run: Run, labelled: Labelled, *, missing: int | None = None) -> Int32[np.ndarray, "n"]:
    """Each candidate's rank in the Run, from 1; `missing` where the Run lacks it (None: one more than the Run has)."""
    rows = run.of(labelled.query.id)[0] if labelled.query.id in run else np.zeros(0, np.int32)
    places = {row: place for place, row in enumerate(rows.tolist(), start=1)}
    behind = len(rows) + 1 if missing is None else missing
    return np.array([places.get(row, behind) for row in labelled.passages.tolist()], np.int32)
