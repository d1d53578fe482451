"""The formats that are understood, each recognised by its content, and how its rows are read one by one.

What the rows mean (a passage, a query, a grade) is decided by their columns, in `passages.py` and others beside it.
"""

import csv
import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

import retort.data.docstrings as docstrings
from retort.data.ms_marco import NUMBERS, RANKING_COLUMNS, TOP, TOP_COLUMNS, counts_up, triple_rows
from retort.data.prose import ENDINGS, section_rows
from retort.data.rows import COLUMNS, PARAGRAPH, SPLITS, Row, Value, open_bytes, open_parquet, read_lines

BUILDERS = {"docstrings": docstrings}  # sets that code makes: the source is the word, or word:specification
HEAD_BYTES = 1 << 16  # what a format is recognised by
FIELD_CHARACTERS = 1 << 26  # of a CSV field: Python's own 131,072 is less than a long text, and more is a lost quote
DATA_ENDINGS = (".parquet", ".arrow", ".jsonl", ".jsonl.gz")
NAME = re.compile(r"[A-Za-z_][\w-]*")
RUN = r"(?i)\S+\s+\S+\s+\S+\s+\d+\s+[-+]?(\d|\.\d|nan|inf)\S*\s+\S+\s*"
RUN_COLUMNS = ("query-id", "q0", "corpus-id", "rank", "score", "name")
QRELS_COLUMNS = ("query-id", "iteration", "corpus-id", "score")


@dataclass(frozen=True)
class Opening:
    """The beginning of a file: its first bytes and whole lines, or the names in a folder."""

    head: bytes
    lines: tuple[str, ...]
    names: frozenset[str]


@dataclass(frozen=True)
class Format:
    """How a format looks to a person, how its opening is told from others, and its rows."""

    looks: str
    matches: Callable[[Opening], bool]
    rows: Callable[[Path], Iterator[Row]]


def read_rows(source: str, part: str) -> Iterator[Row]:
    """The rows of `source`: a file, a folder or `hf:name[:configuration][:split]`; `part` of it if it is a BEIR folder.

    What `source` is shows before the first row. FileNotFoundError; ValueError: empty, unrecognisable, malformed rows.
    """
    if source.startswith("hf:"):
        return hub_rows(source)
    check_source(source)
    path = Path(source)
    if is_beir(path):
        path = beir_file(path, part)
    return FORMATS[sniff(path)].rows(path)


def check_source(source: str) -> None:
    """FileNotFoundError, with the nearest name beside it, where `source` is a path and nothing is there; nothing is read."""
    path = Path(source)
    if source.partition(":")[0] in {"hf", *BUILDERS} or path.exists():
        return
    beside = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise FileNotFoundError(f"{source} does not exist, expected a file or folder{hint}: correct the path")


def is_beir(path: Path) -> bool:
    """Whether `path` is a folder in BEIR layout."""
    return any((path / f"{part}.jsonl{end}").exists() for part in ("corpus", "queries") for end in ("", ".gz"))


def beir_file(folder: Path, part: str) -> Path:
    """The file of a BEIR folder that holds `part` (corpus or queries), packed or not."""
    found = [p for p in (folder / f"{part}.jsonl", folder / f"{part}.jsonl.gz") if p.exists()]
    if not found:
        raise ValueError(f"{folder} has no {part}.jsonl, expected one in a BEIR folder: add it or name another source")
    return found[0]


def qrels_files(folder: Path, split: str | None) -> list[Path]:
    """The grades in a BEIR folder, of one split or of all."""
    found = sorted((folder / "qrels").glob("*.tsv"))
    wanted = {split, SPLITS.get(split or "", split)}
    chosen = [path for path in found if split is None or path.stem in wanted]
    if not chosen:
        names = ", ".join(path.stem for path in found) or "none"
        raise ValueError(f"{folder} has qrels of {names}, expected {split or 'at least one'}: name one that is there")
    return chosen


def sniff(path: Path) -> str:
    """The name in FORMATS of what `path` holds. ValueError: empty, or none of them, with the list of them."""
    if path.is_dir():
        opening = Opening(b"", (), frozenset(p.name for p in path.rglob("*")))
    else:
        with open_bytes(path) as file:
            head = file.read(HEAD_BYTES).removeprefix(b"\xef\xbb\xbf")
        lines = head.decode("utf-8", "replace").split("\n")
        whole = lines[:-1] if len(lines) > 1 and len(head) == HEAD_BYTES else lines
        shown = [line.rstrip("\r") for line in whole if line.strip()]
        opening = Opening(head.lstrip(), tuple(shown[:3]), frozenset())
        if not opening.head:
            raise ValueError(f"{path} is empty, expected records: look at what wrote it")
    for name, candidate in FORMATS.items():
        if candidate.matches(opening) and (name == "parquet" or b"\0" not in opening.head):
            return name
    shown = f"begins with {opening.lines[0]!r:.80}" if opening.lines else "is a folder without any of these"
    understood = "\n  ".join(["a folder in BEIR layout", *(f.looks for f in FORMATS.values()), "hf:name (the hub)"])
    raise ValueError(f"{path} {shown}, expected one of\n  {understood}\n: convert it to one of them")


def json_rows(path: Path) -> Iterator[Row]:
    """JSON lines, streamed."""
    for number, line in read_lines(path):
        if line.strip():
            yield Row.of(_json(line.strip(), path, number), f"{path}:{number}")


def list_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON list one by one. The text is read whole: JSON lines are the format for a large file."""
    text = "".join(line for _, line in read_lines(path))
    space = re.compile(r"[\s,]*")
    at = text.index("[") + 1
    number = 1 + text.count("\n", 0, at)
    while True:
        start = space.match(text, at).end()  # type: ignore[union-attr]
        number += text.count("\n", at, start)
        if text[start : start + 1] == "]":
            return
        try:
            value, at = json.JSONDecoder().raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise _malformed(path, error.lineno, error) from error
        yield Row.of(value, f"{path}:{number}")
        number += text.count("\n", start, at)


def squad_rows(path: Path) -> Iterator[Row]:
    """One row for each question of a SQuAD file, in the columns that its Hugging Face twin has."""
    whole = _json("".join(line for _, line in read_lines(path)), path, 1)
    for article in Row.of(whole, str(path)).objects(("data",), "article"):
        for paragraph in article.objects(("paragraphs",), "paragraph"):
            shared = {"title": article.get(("title",)), "context": paragraph.need(PARAGRAPH)}
            questions = [] if paragraph.get(("qas",)) is None else paragraph.objects(("qas",), "question")
            for question in questions or [Row({}, paragraph.where)]:  # without questions it is a passage all the same
                answers = [] if question.get(("answers",)) is None else question.objects(("answers",), "answer")
                texts = [answer.need(("text",)) for answer in answers]
                yield Row({**shared, **question.values, "answers": {"text": texts}}, question.where)


def table_rows(path: Path, delimiter: str, names: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a table quoted as CSV (psgs_w100.tsv needs it), streamed; without `names` the first is the header."""
    csv.field_size_limit(FIELD_CHARACTERS)
    reader = csv.reader((line for _, line in read_lines(path)), delimiter=delimiter, strict=True)
    start = 1
    try:
        for fields in reader:
            if names and fields:
                if len(fields) != len(names):
                    wanted = f"{len(names)} ({', '.join(names)})"
                    raise ValueError(f"{path}:{start}: {len(fields)} fields, expected {wanted}: quote or correct the line")
                yield Row(dict(zip(names, fields, strict=True)), f"{path}:{start}")
            names = names or [field.strip().lower() for field in fields]
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f'{path}:{start}: {error}, expected fields in pairs of quotes: write a " inside a quoted field as ""'
        ) from error


def split_rows(path: Path, columns: tuple[str, ...], separator: str | None) -> Iterator[Row]:
    """The rows of a file without header and quoting, streamed; `separator` None is any white space (TREC)."""
    for number, line in read_lines(path):
        fields = line.rstrip("\r\n").split(separator)
        if len(fields) == len(columns):
            yield Row(dict(zip(columns, fields, strict=True)), f"{path}:{number}")
        elif line.strip():
            wanted = f"{len(columns)} ({', '.join(columns)})"
            raise ValueError(f"{path}:{number}: {len(fields)} fields, expected {wanted}: correct the line")


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a parquet file, one batch in memory at a time."""
    with open_parquet(path) as file:
        batches = file.iter_batches(batch_size=1_000)
        for number, values in enumerate((values for batch in batches for values in batch.to_pylist()), start=1):
            yield Row(values, f"{path}, row {number}")


def dataset_rows(path: Path) -> Iterator[Row]:
    """The rows of a folder that `datasets.save_to_disk` wrote."""
    return _rows_of(datasets.load_from_disk(str(path)), str(path))


def hub_rows(source: str) -> Iterator[Row]:
    """The rows of `hf:name`, `hf:name:split` or `hf:name:configuration:split`; a name is anything that datasets loads."""
    name, *rest = source.removeprefix("hf:").split(":")
    configuration = rest[0] if len(rest) == 2 else None
    try:
        loaded = datasets.load_dataset(name, configuration, split=rest[-1] if rest else None)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source}: {error}; expected a dataset that this machine holds or can fetch: correct the name, or load it "
            "where there is a network, save_to_disk, and give that folder"
        ) from error
    return _rows_of(loaded, source)


def _rows_of(loaded: Value, source: str) -> Iterator[Row]:
    """Rows of a Dataset, or of every split of a DatasetDict with the split's name in a column."""
    for split, rows in loaded.items() if isinstance(loaded, datasets.DatasetDict) else [("", loaded)]:
        where = f"{source}, {split} row" if split else f"{source}, row"
        for number, values in enumerate(rows, start=1):
            yield Row({"split": str(split)} | dict(values), f"{where} {number}")


def _table(delimiter: str) -> Callable[[Opening], bool]:
    """Whether the first line is a header: names only, and one of them (nearly) a column that is understood."""

    def matches(opening: Opening) -> bool:
        names = [name.strip().lower() for name in next(csv.reader(opening.lines[:1], delimiter=delimiter), [])]
        known = any(difflib.get_close_matches(name, COLUMNS, 1, cutoff=0.8) for name in names)
        return len(names) > 1 and all(map(NAME.fullmatch, names)) and known

    return matches


def _fits(pattern: str) -> Callable[[Opening], bool]:
    """Whether each of the first lines is one `pattern`."""
    return lambda opening: bool(opening.lines) and all(re.fullmatch(pattern, line) for line in opening.lines)


def _split(looks: str, pattern: str, columns: tuple[str, ...], separator: str | None = None) -> Format:
    """A format without header and quoting, whose first lines fit `pattern`."""
    return Format(looks, _fits(pattern), lambda path: split_rows(path, columns, separator))


# Asked in this order: the first that matches is it.
FORMATS = {
    "dataset": Format(
        "a folder that datasets.save_to_disk wrote",
        lambda o: o.names >= {"dataset_info.json", "state.json"} or "dataset_dict.json" in o.names,
        dataset_rows,
    ),
    "prose": Format(
        "a folder of .txt and .md files",  # a README.md beside data is not the data
        lambda o: any(n.lower().endswith(ENDINGS) for n in o.names) and not any(n.endswith(DATA_ENDINGS) for n in o.names),
        section_rows,
    ),
    "parquet": Format("a parquet file", lambda o: o.head.startswith(b"PAR1"), parquet_rows),
    "squad": Format(
        'SQuAD JSON {"data": [{"title", "paragraphs": [...]}]}',
        lambda o: o.head.startswith(b"{") and all(re.search(k, o.head) for k in (rb'"data"\s*:\s*\[', b'"paragraphs"')),
        squad_rows,
    ),
    "json": Format("a JSON list of objects (FiD, DPR)", lambda o: o.head.startswith(b"["), list_rows),
    "jsonl": Format("JSON lines (BEIR, FiD, NQ-open, Atlas)", lambda o: o.head.startswith(b"{"), json_rows),
    "run": _split("a TREC run: query Q0 passage rank score name", RUN, RUN_COLUMNS),
    "qrels": _split("TREC qrels: query 0 passage grade", r"\S+\s+(Q0|\d+)\s+\S+\s+-?\d+\s*", QRELS_COLUMNS),
    "ranking": Format(
        "query<TAB>passage<TAB>rank, all numbers (MS MARCO)",
        lambda o: _fits(NUMBERS)(o) and counts_up(o.lines),
        lambda path: split_rows(path, RANKING_COLUMNS, "\t"),
    ),
    "triples": Format("query<TAB>positive<TAB>negative, all ids (MS MARCO's qidpidtriples)", _fits(NUMBERS), triple_rows),
    "top": _split("query<TAB>passage<TAB>the texts of both (MS MARCO's top1000)", TOP, TOP_COLUMNS, "\t"),
    "tsv": Format("tab-separated values with a header (DPR, BEIR)", _table("\t"), lambda p: table_rows(p, "\t")),
    "csv": Format("comma-separated values with a header", _table(","), lambda p: table_rows(p, ",")),
    "answers": Format(
        "question<TAB>[answers] without a header (DPR)",
        _fits(r"[^\t]+\t\"?\[.*\]\"?"),
        lambda path: table_rows(path, "\t", ("question", "answers")),
    ),
    "pairs": _split("id<TAB>text without a header (MS MARCO)", r"\S+\t[^\t]*", ("id", "text"), "\t"),
}


def _json(text: str, path: Path, number: int) -> Value:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _malformed(path, number + error.lineno - 1, error) from error


def _malformed(path: Path, number: int, error: json.JSONDecodeError) -> ValueError:
    return ValueError(f"{path}:{number}: {error.msg} (column {error.colno}), expected whole JSON: correct the line")
