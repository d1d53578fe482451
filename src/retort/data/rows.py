"""Rows: what every format comes down to, named values with the place that an error can name. No format is known here."""

import difflib
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

# The column names that are understood, the first that holds a value wins. A file's own columns may be more.
QUERY_ID = ("id", "_id", "qid", "query_id", "query-id")
PASSAGE_ID = ("id", "_id", "docid", "doc_id", "pid", "passage_id", "corpus-id")
QUESTION = ("question", "query", "text")
ANSWERS = ("answers", "answer", "target")
TEXT = ("text", "contents", "passage")
TITLE = ("title",)
CANDIDATES = ("ctxs", "passages")  # FiD and DPR; Atlas
PARAGRAPH = ("context",)  # SQuAD
FLAG = ("has_answer", "hasanswer")  # DPR; FiD
PAIR_QUERY = ("query-id", "query_id", "qid")
PAIR_PASSAGE = ("corpus-id", "corpus_id", "docid", "pid", "passage_id")
GRADE = ("score", "grade", "relevance", "label")
COLUMNS = frozenset(
    QUERY_ID + PASSAGE_ID + QUESTION + ANSWERS + TEXT + TITLE + PARAGRAPH + PAIR_QUERY + PAIR_PASSAGE + GRADE
)


@dataclass(frozen=True, slots=True)
class Row:
    """One record of any format: its values by column, and where it stands (file:line, or the nearest there is)."""

    values: Mapping[str, Any]
    where: str

    def get(self, names: Sequence[str]) -> Any:
        """The first value among the columns `names`; None where there is none."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def need(self, names: Sequence[str]) -> Any:
        """The first value among the columns `names`. ValueError where there is none, with the columns there are.

        >>> Row({"_id": 7, "txt": "Snow"}, "corpus.jsonl:1").need(("text", "contents"))
        Traceback (most recent call last):
        ValueError: corpus.jsonl:1: no column 'text' or 'contents', found '_id', 'txt' (did you mean 'txt'?): rename it
        """
        value = self.get(names)
        if value is None:
            near = [column for column in self.values if difflib.get_close_matches(column, names, 1)]
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            found = ", ".join(map(repr, self.values)) or "nothing"
            raise ValueError(f"{self.where}: no column {' or '.join(map(repr, names))}, found {found}{hint}: rename it")
        return value

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


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked where it is gzip, whatever its name."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line with its end, without byte order mark; lines end at a newline only.

    ValueError names the line that is not UTF-8, or where a gzip file breaks off.
    """
    number = 0
    with open_bytes(path) as file:
        try:
            for number, raw in enumerate(file, start=1):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}:{number}: {error.reason}, expected UTF-8: convert the file to UTF-8") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: the gzip file breaks after line {number}: fetch it again ({error})") from error
