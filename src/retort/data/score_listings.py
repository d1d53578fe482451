"""Teachers' scores as the files of other libraries hold them, each form recognised by its content.

What comes out is the same for all: a query, its passages, their scores. Ids and texts are looked up in scores.py.
"""

import ast
import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from retort.data.formats import check_source, read_rows, split_rows
from retort.data.pickled_scores import OPENING, pickled_scores
from retort.data.rows import CANDIDATES, PASSAGE_ID, QUERY_ID, QUESTION, SCORE, Row, Value, open_bytes, read_lines

NUMBER = r"[-+]?(?:\d|\.\d|nan|inf)\S*"
COLBERT = re.compile(r'\[\s*("(?:[^"\\]|\\.)*"|-?\d+)\s*,')  # a list that begins with an id, not with an object
TRIPLE = re.compile(rf"(?i){NUMBER}\t{NUMBER}\t[^\t\s]+\t[^\t\s]+\t[^\t\s]+\s*")
TRIPLE_COLUMNS = ("positive score", "negative score", "query id", "positive id", "negative id")
Id = str | int


@dataclass(frozen=True, slots=True)
class Listing:
    """Scores of one query's passages. The query and the passages are named by their ids, or by their texts.

    The first `positives` passages are known to be relevant and the others not; None where the file does not say. `name` is
    what the file calls the teacher.
    ValueError: another number of scores than passages, or a score that is not finite.
    """

    query: Id
    passages: Sequence[Id]
    scores: Sequence[Value]
    where: str
    positives: int | None = None
    query_is_text: bool = False
    passages_are_texts: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.passages) != len(self.scores):
            raise ValueError(
                f"{self.where}: query {self.query!r:.60} has {len(self.passages)} passages and {len(self.scores)} scores, "
                "expected one score for each: score them all"
            )
        bad = [] if set(map(type, self.scores)) <= {int, float} and all(map(math.isfinite, self.scores)) else self.scores
        for passage, score in zip(self.passages, bad, strict=False):
            if type(score) not in (int, float) or not math.isfinite(score):
                raise ValueError(
                    f"{self.where}: query {self.query!r:.60} gives passage {passage!r:.60} the score {score!r}, expected a "
                    "finite number: look at what scored it (overflow in half precision is usual)"
                )


def listings(source: str) -> Iterator[Listing]:
    """What `source` scores, in its order: a file (gzip or not), a folder, or hf:name. ValueError where it has no scores."""
    path = Path(source)
    if not source.startswith("hf:"):
        check_source(source)
    if path.is_dir() and (pickles := [file for file in sorted(path.iterdir()) if _opening(file)[:1] == OPENING]):
        return _hard_negatives(path, pickles)
    opening = _opening(path) if path.is_file() else b""
    if opening[:1] == OPENING:
        return _pickled(path)
    first = opening.decode("utf-8", "replace").lstrip("\ufeff")
    if COLBERT.match(first):
        return _colbert(path)
    if TRIPLE.fullmatch(first):
        return map(_triple, split_rows(path, TRIPLE_COLUMNS, "\t"))
    return _of_rows(read_rows(source, "scores"))


def _of_rows(rows: Iterator[Row]) -> Iterator[Listing]:
    """Rows with names, by the columns that the first of them has; lists of candidates and TREC runs else."""
    first = next(rows, None)
    if first is None:
        return iter(())
    for columns, listing in FORMS:
        if all(column in first.values for column in columns):
            return map(listing, chain([first], rows))
    return map(_candidates, chain([first], rows))


def _candidates(row: Row) -> Listing:
    """FiD's or DPR's candidates of a question (DPR writes no id of it), or one line of a TREC run."""
    if "iteration" in row.values:
        raise ValueError(f"{row.where}: a grade of TREC qrels, expected a teacher's score: name it under prepare.qrels")
    listed = [row] if row.get(CANDIDATES) is None else row.candidates()
    ids, scores = [each.string(PASSAGE_ID) for each in listed], [each.number(SCORE) for each in listed]
    by_text = row.get(QUERY_ID) is None and row.get(CANDIDATES) is not None
    query = row.string(QUESTION if by_text else QUERY_ID)
    return Listing(query, ids, scores, row.where, query_is_text=by_text, name=str(row.get(("name",)) or ""))


def _by_ids(row: Row) -> Listing:
    """sentence-transformers and PyLate: query_id, document_ids, scores; lists may be written as strings."""
    return Listing(
        row.string(("query_id",)), _ids(_list(row, "document_ids"), row), _list(row, "scores"), row.where
    )  # fmt: skip


def _by_texts(row: Row) -> Listing:
    """FlagEmbedding: query, pos, neg are texts, with pos_scores and neg_scores."""
    positive, negative = _list(row, "pos"), _list(row, "neg")
    texts, scores = positive + negative, _list(row, "pos_scores") + _list(row, "neg_scores")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{row.where}: pos and neg hold {texts!r:.60}, expected texts: correct it")
    query = row.string(("query",))
    return Listing(query, texts, scores, row.where, positives=len(positive), query_is_text=True, passages_are_texts=True)


def _two_sides(positives: str, negatives: str) -> Callable[[Row], Listing]:
    """SimLM ({doc_id: [...], score: [...]}) and Tevatron ([{docid, score, ...}, ...]): two sides with ids and scores."""

    def listing(row: Row) -> Listing:
        (first, first_scores), (rest, rest_scores) = _side(row, positives), _side(row, negatives)
        ids, scores = first + rest, first_scores + rest_scores
        return Listing(row.string(("query_id",)), ids, scores, row.where, positives=len(first))

    return listing


def _side(row: Row, name: str) -> tuple[list[Id], list[Value]]:
    """Ids and scores of one side."""
    side = row.need((name,))
    if isinstance(side, dict):
        columns = Row(side, f"{row.where}, {name}")
        ids = _list(columns, "doc_id", "docid")
        return _ids(ids, columns), _list(columns, *SCORE) if ids else []
    listed = row.objects((name,), name.removesuffix("s"))
    return _ids([each.need(("docid", "doc_id")) for each in listed], row), [each.need(SCORE) for each in listed]


def _unscored(row: Row) -> Listing:
    raise ValueError(
        f"{row.where}: hard negatives without scores, expected scores: put the file into one folder with its scores (such "
        "as cross-encoder-ms-marco-MiniLM-L-6-v2-scores.pkl.gz) and give the folder"
    )


FORMS: tuple[tuple[tuple[str, ...], Callable[[Row], Listing]], ...] = (
    (("query_id", "document_ids"), _by_ids),
    (("query", "pos", "neg"), _by_texts),
    (("query_id", "positives", "negatives"), _two_sides("positives", "negatives")),
    (("query_id", "positive_passages", "negative_passages"), _two_sides("positive_passages", "negative_passages")),
    (("qid", "pos", "neg"), _unscored),
)


def _colbert(path: Path) -> Iterator[Listing]:
    """ColBERTv2's lines [query, [passage, score], ...]; its first passage is the teacher's best or a positive: not said."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            query, *pairs = json.loads(line)
            if not all(isinstance(pair, list) for pair in pairs):  # a string of two would unpack as well
                raise TypeError("no pairs")
            ids, scores = [passage for passage, _ in pairs], [score for _, score in pairs]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{where}: {line.strip()!r:.80}, expected [query, [passage, score], ...]: triples of ids hold no scores"
            ) from error
        yield Listing(_ids([query], Row({}, where))[0], _ids(ids, Row({}, where)), scores, where)


def _triple(row: Row) -> Listing:
    """neural-ranking-kd's line: the scores of a positive and a negative, the query, and the two passages."""
    columns = [(name,) for name in TRIPLE_COLUMNS]
    scores, (query, *ids) = [row.number(c) for c in columns[:2]], [row.string(c) for c in columns[2:]]
    return Listing(query, ids, scores, row.where, positives=1)


def _pickled(path: Path) -> Iterator[Listing]:
    for query, scores in pickled_scores(path):
        yield Listing(query, list(scores), list(scores.values()), f"{path}, query {query!r}")


def _hard_negatives(folder: Path, pickles: list[Path]) -> Iterator[Listing]:
    """Every scored pair of the pickle, those first that a hard-negatives file beside it calls positive."""
    others = [path for path in sorted(folder.iterdir()) if _opening(path)[:1] == b"{"]
    if len(pickles) != 1:
        names = ", ".join(path.name for path in pickles)
        raise ValueError(f"{folder} holds the pickles {names}, expected one: name the file, or move the others away")
    positives: dict[str, set[str]] = {}
    for path in others:
        for row in read_rows(str(path), "scores"):
            known = positives.setdefault(row.string(("qid",)), set())
            known |= set(map(str, _list(row, "pos")))
    for listing in _pickled(pickles[0]):
        known = positives.get(str(listing.query))
        if known is None:
            yield listing
            continue
        scored = dict(zip(map(str, listing.passages), listing.scores, strict=True))
        first = [passage for passage in scored if passage in known]
        ids = first + [passage for passage in scored if passage not in known]
        yield Listing(listing.query, ids, [scored[i] for i in ids], listing.where, positives=len(first))


def _opening(path: Path) -> bytes:
    """The first line of a file, or what there is of it in 64 KB; nothing of a folder."""
    if path.is_dir():
        return b""
    with open_bytes(path) as file:
        return file.readline(1 << 16)


def _list(row: Row, *names: str) -> list[Value]:
    """The needed list, also where it is written as a string, as in some published sets."""
    value = row.need(names)
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{row.where}: {names[0]} is {value!r:.60}, expected a list: correct it")
    return list(value)


def _ids(values: Sequence[Value], row: Row) -> list[Id]:
    """Ids as they are. ValueError where one is neither a string nor a whole number."""
    for value in values:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise ValueError(f"{row.where}: {value!r:.60} as an id, expected a string or a whole number: correct it")
    return list(values)
