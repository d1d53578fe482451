"""Rows: what every format comes down to, named values with the place that an error can name.

Files are opened here so that a broken one is named; what their rows look like is not known here.
"""

import difflib
import gzip
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# The column names that are understood: the first that holds a value wins. A file may have any others beside them.
QUERY_ID = ("id", "_id", "qid", "query_id", "query-id")
PASSAGE_ID = ("id", "_id", "docid", "doc_id", "pid", "passage_id", "corpus_id", "corpus-id")
QUESTION = ("question", "query", "text")
ANSWERS = ("answers", "answer")
TARGET = ("target",)  # FiD and Atlas: what a reader is trained to say; the only answer where there are no others
TEXT = ("text", "contents", "passage")
TITLE = ("title",)
CANDIDATES = ("ctxs", "passages")  # FiD and DPR; Atlas
PARAGRAPH = ("context",)  # SQuAD
FLAG = ("has_answer", "hasanswer")  # DPR; FiD
SCORE = ("score",)
RANK = ("rank",)
GRADE = ("score", "grade", "relevance", "label")
SPLITS = {"validation": "dev", "valid": "dev", "val": "dev"}  # other words for one of our splits
COLUMNS = frozenset(QUERY_ID + PASSAGE_ID + QUESTION + ANSWERS + TARGET + TEXT + TITLE + PARAGRAPH + GRADE)


Value = Any  # whatever JSON or Arrow holds; `Row.string` and its like check it


@dataclass(frozen=True, slots=True)
class Row:
    """One record of any format: its values by column, and where it stands (file:line, or the nearest there is)."""

    values: Mapping[str, Value]
    where: str

    @classmethod
    def of(cls, value: Value, where: str) -> "Row":
        """The row that a value spells. ValueError where it is no object with named values."""
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {value!r:.60}, expected an object with named values: correct it")
        return cls(value, where)

    def get(self, names: Sequence[str]) -> Value:
        """The first value among the columns `names`; None where there is none."""
        for name in names:
            value = self.values.get(name)
            if value is not None:
                return value
        return None

    def need(self, names: Sequence[str]) -> Value:
        """The first value among the columns `names`. ValueError where there is none, with the columns there are.

        >>> Row({"_id": 7, "txt": "Snow"}, "data:1").need(("text", "contents"))
        Traceback (most recent call last):
        ValueError: data:1: no column 'text' or 'contents', found '_id', 'txt' (did you mean 'txt'?): rename it or fill it
        """
        value = self.get(names)
        if value is not None:
            return value
        if empty := [repr(name) for name in names if name in self.values]:
            raise ValueError(f"{self.where}: {' and '.join(empty)} is there but empty (null), expected a value: fill it")
        near = [column for column in self.values if difflib.get_close_matches(column, names, 1)]
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        found = ", ".join(map(repr, self.values)) or "nothing"
        raise ValueError(
            f"{self.where}: no column {' or '.join(map(repr, names))}, found {found}{hint}: rename it or fill it"
        )

    def string(self, names: Sequence[str]) -> str:
        """The needed value as a string; a number becomes one. ValueError where it is empty or anything else."""
        value = self.need(names)
        if isinstance(value, str):
            if not value.strip():
                raise ValueError(f"{self.where}: empty {names[0]}, expected a text: drop the record or fill it")
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise ValueError(f"{self.where}: {names[0]} is {value!r:.60}, expected a string or a number: correct it")

    def number(self, names: Sequence[str]) -> float:
        """The needed value as a number, from a string too (FiD writes scores so). ValueError where it is not finite."""
        text = self.string(names)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{self.where}: {names[0]} is {text!r:.60}, expected a finite number: correct it")
        return value

    def candidates(self) -> list["Row"]:
        """The passages listed in this row, in their order. ValueError where they are not a list of objects."""
        return self.objects(CANDIDATES, "candidate")

    def objects(self, names: Sequence[str], kind: str) -> list["Row"]:
        """The objects in the needed list, each placed by `kind` and number. ValueError where it is no list of objects."""
        listed = self.need(names)
        if not isinstance(listed, list):
            raise ValueError(f"{self.where}: {kind}s are {listed!r:.60}, expected a list of objects: correct it")
        return [Row.of(value, f"{self.where}, {kind} {number}") for number, value in enumerate(listed, start=1)]


@contextmanager
def open_bytes(path: Path) -> Iterator[BufferedIOBase]:
    """The bytes of a file, unpacked where it is gzip, whatever its name. ValueError where a gzip file breaks off."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: {error}, expected a whole gzip file: fetch it again") from error


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A parquet file. ValueError where it, or what is read of it meanwhile, is not whole."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"{path}: {said}; expected a whole parquet file: fetch or write it again") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line with its end, without byte order mark; lines end at a newline only.

    ValueError names the line that is not UTF-8.
    """
    number = 0
    with open_bytes(path) as file:
        try:
            for number, raw in enumerate(file, start=1):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}:{number}: {error.reason}, expected UTF-8: convert the file to UTF-8") from error
