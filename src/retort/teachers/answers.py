"""The simplest teacher: whether a passage holds an answer of its question. Distant supervision."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from retort.records import Group
from retort.text import AnswerMatcher


@dataclass(frozen=True)
class AnswersTeacher:
    """1 for a passage whose text holds an answer (DPR's rule), else 0: to be fused with a ranking.

    Alone it orders nothing among the passages that hold one, and is blind where answers are free text; beside BM25 or a
    reader it says which of the likely passages can be right.

    >>> from retort.records import Passage, Query
    >>> group = Group(Query("q", "what falls", ("snow",)), (Passage("a", "", "rain"), Passage("b", "", "snow falls")))
    >>> AnswersTeacher().score([group])[0].tolist()
    [0.0, 1.0]
    """

    def score(self, groups: Sequence[Group]) -> list[Float32[np.ndarray, "K"]]:
        """1 or 0 for each passage of each group; all 0 for a question without answers."""
        found = []
        for group in groups:
            matches = AnswerMatcher(group.query.answers).matches if group.query.answers else lambda text: False
            found.append(np.array([matches(passage.text) for passage in group.passages], np.float32))
        return found
