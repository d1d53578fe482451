"""What is checked of a teacher's scores: that they are finite, and raw.

A sigmoid or softmax in between takes away what tells the best candidates apart.
"""

import numpy as np
from jaxtyping import Float32

from retort.records import Group

NEAR = 0.01  # of 0 or 1, where a sigmoid is flat: a logit of 4.6 and beyond
MOST = 0.5  # share of scores that near; a trained ranker's sigmoid puts nearly all candidates there
FEWEST = 20  # scores that say something about a scale


def check_finite(group: Group, scores: Float32[np.ndarray, "K"], teacher: str) -> None:
    """ValueError that names the pair whose score is not finite."""
    bad = ~np.isfinite(scores)
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(
            f"the {teacher} scores query {group.query.id!r} with passage {group.passages[at].id!r} {scores[at]}, expected a "
            "finite number: label in float32 (compute.precision), and look at the two texts"
        )


def looks_squashed(scores: Float32[np.ndarray, "N"]) -> bool:
    """Whether all scores lie in [0, 1] and at least half of them within 0.01 of its ends, which logits do not.

    Scores that a sigmoid left in its middle are not found, and not harmed: there it is nearly a line. Fewer than 20 scores
    say nothing.

    >>> logits = np.linspace(-12, 8, 40, dtype=np.float32)
    >>> looks_squashed(logits), looks_squashed(1 / (1 + np.exp(-logits))), looks_squashed(logits / 100 + 0.5)
    (False, True, False)
    """
    if len(scores) < FEWEST or scores.min() < 0 or scores.max() > 1:
        return False
    return float(np.mean((scores < NEAR) | (scores > 1 - NEAR))) >= MOST


def check_raw(scores: Float32[np.ndarray, "N"], source: str) -> None:
    """ValueError where the scores of `source` look like probabilities; who wants them so leaves out this check."""
    if looks_squashed(scores):
        near = np.mean((scores < NEAR) | (scores > 1 - NEAR))
        raise ValueError(
            f"{source}: all {len(scores)} scores lie between 0 and 1, {near:.0%} of them within {NEAR} of the ends, as a "
            "sigmoid or softmax leaves them; expected raw logits, which still tell the best candidates apart. Score again "
            "without it (sentence-transformers: predict(pairs, activation_fn=torch.nn.Identity())), or accept them as they "
            "are with squashed: true"
        )
