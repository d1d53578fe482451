"""The candidates' ranks by the student as it is now, renewed every so many steps (CKL's dynamic ranks).

At a refresh the current student scores all labelled candidates of the queries that come until the next one; each candidate
gets its rank among those of its query. Ranks stand in a file of the stage until the next refresh, because the weights that
gave them are gone when a killed training goes on between two refreshes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from jaxtyping import Int32

from retort.config import Distil
from retort.distil.agreement import scored
from retort.distil.batches import Examples
from retort.records import Corpus
from retort.store import write_atomic
from retort.tensors import Student


@dataclass(frozen=True)
class Renewal:
    """Ranks that are renewed every `settings.ranks_every` steps, kept in `folder`."""

    settings: Distil
    folder: Path
    seed: int
    accelerator: Accelerator

    @property
    def every(self) -> int:
        """The steps from one refresh to the next."""
        assert self.settings.ranks_every is not None
        return self.settings.ranks_every

    def due(self, step: int) -> bool:
        """Whether ranks are renewed before this step, so that a checkpoint has to stand here too."""
        return step % self.every == 0

    def __call__(self, student: Student, data: Examples, corpus: Corpus, step: int) -> Examples:
        """The examples with the ranks of the last refresh up to `step`; a refresh that is due is made."""
        since = step - step % self.every
        if data.ranked_at == since:
            return data
        path = self.folder / f"ranks-{since}.npy"
        there = path.exists()
        self.accelerator.wait_for_everyone()  # until here all look
        if not there:
            self._write(path, student, data, corpus, since)
        self.accelerator.wait_for_everyone()
        return _with_ranks(data, np.load(path), since)

    def _write(self, path: Path, student: Student, data: Examples, corpus: Corpus, since: int) -> None:
        """The ranks of all queries, new for those that come; what an earlier refresh left is removed.

        All processes score, the main one writes.
        """
        steps = range(since, min(since + self.every, self.settings.steps))
        rows = sorted({row for step in steps for row in data.rows(self.settings.batch, step, self.seed)})
        lists = [data.kept[row] for row in rows]
        ranks = [_known(labelled.ranks, len(labelled)) for labelled in data.kept]
        tokens = self.settings.chunk_tokens
        scores = scored(student, lists, corpus, chunk_tokens=tokens, accelerator=self.accelerator)
        for row, found in zip(rows, scores, strict=True):
            ranks[row] = 1 + np.argsort(np.argsort(-found, kind="stable")).astype(np.int32)
        if not self.accelerator.is_main_process:
            return
        earlier = list(self.folder.glob("ranks-*.npy"))
        with write_atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(ranks))
        for old in earlier:
            old.unlink()


def _known(ranks: Int32[np.ndarray, "n"] | None, count: int) -> Int32[np.ndarray, "n"]:
    """The ranks, or the order of the labels where none are known yet."""
    return np.arange(1, count + 1, dtype=np.int32) if ranks is None else ranks


def _with_ranks(data: Examples, flat: Int32[np.ndarray, "n"], since: int) -> Examples:
    parts = np.split(flat, np.cumsum([len(labelled) for labelled in data.kept])[:-1])
    kept = tuple(replace(one, ranks=ranks) for one, ranks in zip(data.kept, parts, strict=True))
    return replace(data, kept=kept, ranked_at=since)
