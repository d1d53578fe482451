"""Passage vectors in the files of FiD, Contriever and DPR, without FAISS and without running a pickle.

FiD and Contriever: PREFIX_00, PREFIX_01, ..., each a pickle of (a list of ids, float16 [n, D]). DPR: PREFIX_0, ..., each a
pickle of a list of (id, vector). Ids are strings of any form, such as DPR's "wiki:123".
"""

import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from retort.data.array_pickles import read_arrays
from retort.records import Corpus
from retort.store import write_atomic

NUMBERED = re.compile(r"_(\d+)(?:\.pkl|\.pickle)?")
EXPECTED = "a pickle of (ids, vectors [n, D]) or of a list of (id, vector)"


def read_shard(path: Path) -> tuple[list[str], Float[np.ndarray, "n D"]]:
    """The ids and vectors of one shard of either layout, in its order and precision.

    ValueError: neither layout, a vector that is not finite.
    """
    value = read_arrays(path)
    if isinstance(value, tuple) and len(value) == 2:
        ids, vectors = value
    elif isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value) and value:
        ids = [pair[0] for pair in value]
        vectors = _stacked([pair[1] for pair in value], path)
    else:
        raise ValueError(f"{path} holds {value!r:.60}, expected {EXPECTED}: give a shard of embeddings")
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise ValueError(f"{path} holds vectors {vectors!r:.60}, expected numbers [n, D]: give a shard of embeddings")
    if not isinstance(ids, list) or len(ids) != len(vectors) or not all(isinstance(one, str | int) for one in ids):
        raise ValueError(
            f"{path} holds ids {ids!r:.60} for {len(vectors)} vectors, expected one string for each: embed again"
        )
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise ValueError(f"{path}: the vector of {str(ids[wrong[0]])!r} is not finite, expected numbers: embed again")
    return [str(one) for one in ids], vectors


def shard_paths(prefix: Path) -> list[Path]:
    """The shards PREFIX_0 or PREFIX_00, PREFIX_01, ... by their number. ValueError: there are none, or one is missing."""
    numbered = {
        int(match[1]): path
        for path in prefix.parent.glob(f"{prefix.name}_*")
        if (match := NUMBERED.fullmatch(path.name.removeprefix(prefix.name)))
    }
    missing = sorted(set(range(max(numbered, default=0) + 1)) - set(numbered))
    if missing:
        raise ValueError(
            f"{prefix}_* are {len(numbered)} shards of embeddings without number {missing[0]}: expected all from 0 on; "
            "copy the others, or correct the prefix"
        )
    return [numbered[number] for number in sorted(numbered)]


def read_vectors(paths: Sequence[Path], corpus: Corpus) -> Float[np.ndarray, "N D"]:
    """The vectors of all shards in the order of the corpus, in the precision of the first; one shard more in memory.

    ValueError: a passage without a vector or with two, an id that the corpus does not hold, shards of different widths.
    """
    vectors, times = np.empty((0, 0)), np.zeros(len(corpus), np.int64)
    for path in paths:
        ids, part = read_shard(path)
        if not vectors.size:
            vectors = np.empty((len(corpus), part.shape[1]), part.dtype)
        if part.shape[1] != vectors.shape[1]:
            raise ValueError(
                f"{path} has vectors of {part.shape[1]} numbers, expected {vectors.shape[1]} as in {paths[0]}: embed again"
            )
        try:
            rows = corpus.rows(ids)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        np.add.at(times, rows, 1)
        vectors[rows] = part
    wrong = np.flatnonzero(times != 1)
    if len(wrong):
        passage = corpus[int(wrong[0])].id
        raise ValueError(
            f"{len(wrong)} of {len(corpus)} passages, for example {passage!r}, have {times[wrong[0]]} vectors in "
            f"{len(paths)} shards, expected one each: give all shards of this corpus, and no others"
        )
    return vectors


def write_shards(
    prefix: Path,
    ids: Sequence[str],
    vectors: Float[np.ndarray, "N D"],
    *,
    shards: int = 1,
    layout: Literal["fid", "dpr"] = "fid",
) -> list[Path]:
    """The files written for FiD and Contriever (float16) or DPR (float32), consecutive passages in each.

    ValueError: other numbers of ids and vectors, fewer than shards, values that are not finite in the layout's precision.
    """
    if not 1 <= shards <= len(ids):
        raise ValueError(f"{len(ids)} vectors in {shards} shards, expected at least one vector in each: set shards lower")
    if len(ids) != len(vectors):
        raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors, expected one each: give the ids of these vectors")
    paths = []
    for number, rows in enumerate(np.array_split(np.arange(len(ids)), shards)):
        part = slice(rows[0], rows[-1] + 1)
        path = prefix.with_name(f"{prefix.name}_{number:02d}" if layout == "fid" else f"{prefix.name}_{number}")
        with np.errstate(over="ignore"):
            values = np.asarray(vectors[part], np.float16 if layout == "fid" else np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"vectors of {path} are not finite in {values.dtype}: scale them, or look at what made them")
        names = list(ids[part])
        value: Any = (names, values) if layout == "fid" else list(zip(names, values, strict=True))
        with write_atomic(path) as temporary, temporary.open("wb") as file:
            pickle.dump(value, file, protocol=4)  # what Python 3.4 and later read
        paths.append(path)
    return paths


def _stacked(vectors: Sequence[Any], path: Path) -> Float[np.ndarray, "n D"]:
    shapes = {getattr(vector, "shape", None) for vector in vectors}
    if len(shapes) != 1 or len(shapes.pop() or ()) != 1:
        raise ValueError(f"{path} holds (id, vector) pairs of different widths, expected {EXPECTED}: embed again")
    return np.stack(vectors)
