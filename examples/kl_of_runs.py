"""FiD-KD's loss between two Runs over the same pairs: what a student pays for ranking otherwise than its teacher."""

import numpy as np
import torch

from retort.losses.listwise import kl
from retort.records import Run

QUERIES = ["q1", "q2"]
CANDIDATES = [[4, 0, 7], [2, 9, 1]]  # rows of a corpus
LABELS = Run.build("teacher", QUERIES, CANDIDATES, [[2.0, 1.0, -1.0], [0.5, 3.0, 0.0]])
STUDENT = Run.build("student", QUERIES, CANDIDATES, [[1.9, 1.1, -1.0], [3.0, 0.0, 0.5]])


def main() -> None:
    teacher, student = _scores(LABELS), _scores(STUDENT).requires_grad_()
    losses = kl(student, teacher)  # one for each query, never reduced
    losses.mean().backward()
    for query, loss, gradient in zip(QUERIES, losses.tolist(), student.grad, strict=True):
        print(f"{query}: KL {loss:.4f}, gradient {[round(value, 3) for value in gradient.tolist()]}")


def _scores(run: Run) -> torch.Tensor:
    """The scores of each query's candidates in the order of CANDIDATES: a Run keeps its own order, best first."""
    lists = [dict(zip(rows.tolist(), scores.tolist(), strict=True)) for _, rows, scores in run]
    return torch.tensor(np.array([[of[row] for row in rows] for of, rows in zip(lists, CANDIDATES, strict=True)]))


if __name__ == "__main__":
    main()
