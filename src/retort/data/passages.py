"""A corpus out of anything that `formats.py` recognises."""

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from retort.data.formats import BUILDERS, read_rows
from retort.data.prose import cut
from retort.data.rows import CANDIDATES, PARAGRAPH, PASSAGE_ID, TEXT, TITLE, Row
from retort.records import Passage


def read_corpus(source: str, *, words: int = 100) -> Iterator[Passage]:
    """The passages of `source`, streamed in its order; prose is cut into at most `words` words at sentence ends.

    Candidates (FiD, DPR, Atlas) give their distinct passages, SQuAD its distinct paragraphs, called p0, p1, ...
    ValueError: nothing found, a passage without id or text, one id with two texts among candidates; after the last passage,
    an id that stands twice.
    """
    builder, _, specification = source.partition(":")
    if builder in BUILDERS:
        return BUILDERS[builder].passages(specification)
    return _distinct(read_rows(source, "corpus"), source, words)


def paragraph_id(row: Row, known: dict[tuple[str, str], str]) -> str:
    """The id of the paragraph in `row`: p and its place among the distinct ones, which `known` collects."""
    return known.setdefault((str(row.get(TITLE) or ""), row.string(PARAGRAPH)), f"p{len(known)}")


def _distinct(rows: Iterable[Row], source: str, words: int) -> Iterator[Passage]:
    """The passages in `rows`. Of their ids 8 bytes each are held; only where some are equal the source is read again."""
    hashes = array("q")
    for passage, _ in _passages(rows, source, words):
        hashes.append(hash(passage.id))
        yield passage
    ordered = np.sort(hashes)
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    first: dict[str, str] = {}
    for passage, where in _passages(read_rows(source, "corpus"), source, words) if twice else ():
        if passage.id in first:
            raise ValueError(
                f"{where}: passage id {passage.id!r} appears several times in the corpus, first at {first[passage.id]} "
                f"(repeated ids: {len(twice)}): every passage needs an id of its own"
            )
        if hash(passage.id) in twice:
            first[passage.id] = where


def _passages(rows: Iterable[Row], source: str, words: int) -> Iterator[tuple[Passage, str]]:
    """Passages by what a row holds (candidates, prose, a text, or a paragraph with a question), and where each stands."""
    texts: dict[str, int] = {}
    paragraphs: dict[tuple[str, str], str] = {}
    empty = True
    for row in rows:
        if row.get(CANDIDATES) is not None:
            found = [p for c in row.candidates() if _is_new(p := _passage(c), c.where, texts)]
        elif "prose" in row.values:
            pieces = enumerate(cut(row.values["prose"], words))
            found = [Passage(f"{row.values['id']}-{i}", row.values["title"], piece) for i, piece in pieces]
        elif row.get(TEXT) is None and row.get(PARAGRAPH) is not None:
            before = len(paragraphs)
            paragraph = Passage(paragraph_id(row, paragraphs), str(row.get(TITLE) or ""), row.string(PARAGRAPH))
            found = [paragraph] if len(paragraphs) > before else []
        else:
            found = [_passage(row)]
        empty = empty and not found
        yield from ((passage, row.where) for passage in found)
    if empty:
        raise ValueError(f"{source} holds no passages, expected at least one: look at what wrote it")


def _passage(row: Row) -> Passage:
    """The passage of a row; Atlas's section goes into the title, as its reader puts it."""
    titles = (row.get(TITLE), row.get(("section",)))
    return Passage(row.string(PASSAGE_ID), ": ".join(str(t) for t in titles if t), row.string(TEXT))


def _is_new(passage: Passage, where: str, texts: dict[str, int]) -> bool:
    """Whether the id comes for the first time. ValueError where it came with another text."""
    content = hash((passage.title, passage.text))
    new = passage.id not in texts
    if texts.setdefault(passage.id, content) != content:
        raise ValueError(
            f"{where}: passage id {passage.id!r} had another title or text before, expected one passage for an id: "
            "give the other one its own id"
        )
    return new
