"""Atlas's JSON lines, written: passages, and questions with theirs. `read_corpus` and its kin read both back the same."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retort.data.writers import answers_of
from retort.records import Corpus, Passage, Query, Run

NONE = (np.empty(0, np.int32), np.empty(0, np.float32))


def write_atlas_passages(corpus: Iterable[Passage], path: Path) -> None:
    """Lines {id, title, text}. Reading has made a `section` a part of the title, as Atlas's own reader does."""
    _write(path, (_passage(passage) for passage in corpus))


def write_atlas_data(
    queries: Sequence[Query], path: Path, *, candidates: Run | None = None, corpus: Corpus | None = None
) -> None:
    """Lines {id, question, answers, target?}, and with `candidates` of `corpus` passages {id, title, text, score}.

    The passages stand best first, and a question that the Run does not hold has none.
    ValueError: candidates without their corpus.
    """
    if candidates is not None and corpus is None:
        raise ValueError(f"candidates {candidates.name!r} come without a corpus, expected the one whose rows they name")
    _write(path, (_record(query, candidates, corpus) for query in queries))


def _record(query: Query, candidates: Run | None, corpus: Corpus | None) -> dict[str, Any]:
    record = {"id": query.id, "question": query.text, **answers_of(query)}
    if candidates is None or corpus is None:
        return record
    rows, scores = candidates.of(query.id) if query.id in candidates else NONE
    # a float32 prints as the shortest decimal that reads back the same
    listed = [_passage(corpus[row]) | {"score": float(str(score))} for row, score in zip(rows.tolist(), scores, strict=True)]
    return record | {"passages": listed}


def _passage(passage: Passage) -> dict[str, Any]:
    return {"id": passage.id, "title": passage.title, "text": passage.text}


def _write(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
