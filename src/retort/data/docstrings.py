"""A real retrieval set without a download: the docstrings of the libraries that are installed anyway.

Passages are docstrings of public functions, classes and methods, cut to about 100 words. Train and dev questions are
the summary lines, taken out of their passages; the test questions were written by hand (`docstring_questions.tsv`).
The bytes depend on the versions of Python and of the documented packages, and on nothing else. What is documented is
found in `docstring_objects.py`, how a docstring becomes prose stands in `docstring_prose.py`.

Every passage begins with the qualified name of its object (the first one with the parameters too), because
`has_answer@k` looks into texts, never into titles, and the answer to a question is a name. A bare name that is also an
everyday word ("copy", "get") would be found nearly everywhere; it is no answer, only its qualified name is.
"""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from retort.data.docstring_objects import Documented, documented
from retort.data.docstring_prose import pieces, prose, short_signature, split_summary, without_signature
from retort.records import Passage, Qrels, Query
from retort.text import has_answer

QUESTIONS = Path(__file__).with_name("docstring_questions.tsv")  # question, tab, qualified names with spaces between
SPLITS = ("train", "dev", "test")
DEFAULT = "stdlib,numpy,scipy,torch,transformers"
WORDS = 100  # of a passage without its name and parameters, as DPR cuts Wikipedia
PASSAGES = 2  # of one object: what it does comes first, and 3,000 words on one class would drown the others
DOCUMENT_WORDS = 20  # a docstring needs more, examples and lists of related functions not counted
QUESTION_WORDS = (4, 30)  # of a summary that is a question
BODY_WORDS = 15  # what has to be left of a docstring without its summary
DEV_SHARE = 0.1
COMMON_SHARE = 0.01  # a bare name that more docstrings than this (and than COMMON_OBJECTS) hold is an everyday word
COMMON_OBJECTS = 10

_BOILERPLATE = re.compile(
    r"(deprecated|alias|see |same as|like |identical|equivalent|inherited|overrid|implement|helper|internal|wrapper|"
    r"base class|abstract|this (is|class|function|method)|initiali[sz]e self|note|warning|return self)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A documented object; `summary` is its question, or "" where it makes none and stands first in `lines`."""

    name: str
    signature: str
    summary: str
    lines: tuple[str, ...]

    @property
    def bare(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class _Spec:
    packages: tuple[str, ...]
    limit: int
    words: int


def passages(spec: str = "") -> Iterator[Passage]:
    """The docstrings as passages of about 100 words: title = qualified name, id = qualified name, "#" and a number.

    `spec` names packages ("stdlib" is the standard library, empty is the demo's choice) and may go on with ";limit=N"
    and ";words=N". The limit counts objects: those that a test question accepts (all of them, even beyond N), then
    those with a question of their own, then others, each in the order of a hash of the name. Left out are examples,
    references, lists of related functions, and what follows the second passage of an object.
    ValueError: a package that is not installed, an option that is unknown or no positive number.

    >>> next(passages("textwrap")).text[:46]
    'textwrap.TextWrapper(width=70, initial_indent='
    """
    options = _parse(spec)
    for entry in _selected(options):
        for number, text in enumerate(_texts(entry, options.words)):
            yield Passage(f"{entry.name}#{number}", entry.name, text)


def questions(spec: str = "", split: str | None = None) -> list[Query]:
    """The questions of one split (train, dev or test; all of them where None), each with the names that answer it.

    train and dev: summary lines without their dot, id = qualified name. A summary that gives the name away, stands
    twice, says nothing or has fewer than 4 words stays in its passage instead. dev: a tenth by hash, and every object
    that a test question accepts, so that no object of the test is trained on. test: the questions written by hand,
    id = "how-" and a number; a question is left out where the corpus holds none of its objects.
    """
    return [query for query, _ in _asked(_parse(spec), split)]


def qrels(spec: str = "", split: str | None = None) -> Qrels:
    """Grade 1 for every passage of every object that answers a question of the split. For evaluation only."""
    options = _parse(spec)
    ids = {e.name: [f"{e.name}#{i}" for i in range(len(_texts(e, options.words)))] for e in _selected(options)}
    return Qrels({q.id: {passage: 1 for name in names for passage in ids[name]} for q, names in _asked(options, split)})


def _asked(options: _Spec, split: str | None) -> Iterator[tuple[Query, list[str]]]:
    """The questions of a split in the order of `SPLITS`, with the names of the objects that answer them."""
    if split not in (None, *SPLITS):
        raise ValueError(f"split {split!r} is unknown: expected one of {', '.join(SPLITS)}, or None for all")
    entries = {entry.name: entry for entry in _selected(options)}
    accepted = _accepted()
    for part in SPLITS[:2]:
        for entry in entries.values():
            dev = entry.name in accepted or _hash(entry.name) < DEV_SHARE
            if entry.summary and part == ("dev" if dev else "train") and split in (None, part):
                yield Query(entry.name, entry.summary, (entry.bare, entry.name)), [entry.name]
    common = _documented(options.packages)[1]
    for query in _written() if split in (None, "test") else ():
        names = [name for name in query.answers if name in entries]
        bare = [entries[name].bare for name in names if entries[name].bare.lower() not in common]
        if names:
            yield replace(query, answers=tuple(dict.fromkeys(bare + names))), names


@lru_cache(maxsize=1)
def _written() -> tuple[Query, ...]:
    """The questions written by hand as the table has them: answers = qualified names, whether installed or not."""
    rows = [line.split("\t") for line in QUESTIONS.read_text(encoding="utf-8").splitlines()[1:]]
    return tuple(Query(f"how-{i:03}", text, tuple(names.split())) for i, (text, names) in enumerate(rows, start=1))


def _accepted() -> frozenset[str]:
    return frozenset(name for query in _written() for name in query.answers)


def _parse(spec: str) -> _Spec:
    names, *options = (part.strip() for part in spec.split(";"))
    numbers = {"limit": sys.maxsize, "words": WORDS}
    for option in options:
        key, _, value = option.partition("=")
        if key not in numbers or not value.isdecimal() or int(value) < 1:
            raise ValueError(f"docstrings option {option!r}: expected limit=N or words=N, where N is 1 or more")
        numbers[key] = int(value)
    packages = tuple(sorted({name.strip() for name in (names or DEFAULT).split(",")}))
    for package in packages:
        if package != "stdlib" and not (package.isidentifier() and find_spec(package)):
            raise ValueError(
                f"docstrings package {package!r} is not installed: expected installed top-level packages or 'stdlib', "
                f"with commas between them; install it or leave it out"
            )
    return _Spec(packages, **numbers)


def _selected(options: _Spec) -> list[_Entry]:
    """The entries within the limit, by name; a small corpus keeps as many questions as it can."""
    accepted = _accepted()
    entries = _documented(options.packages)[0]
    always = sum(entry.name in accepted for entry in entries)
    drawn = sorted(entries, key=lambda entry: (entry.name not in accepted, not entry.summary, _hash(entry.name)))
    return sorted(drawn[: max(always, options.limit)], key=lambda entry: entry.name)


def _hash(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int(hashlib.sha1(name.encode()).hexdigest()[:12], 16) / 16**12


def _texts(entry: _Entry, words: int) -> list[str]:
    """The passages of one object; each begins with its qualified name."""
    first, *others = pieces(entry.lines, words)[:PASSAGES]
    return [f"{entry.name}{entry.signature}: {first}", *(f"{entry.name}: {text}" for text in others)]


@lru_cache(maxsize=4)
def _documented(packages: tuple[str, ...]) -> tuple[tuple[_Entry, ...], frozenset[str]]:
    """The entries of `packages` by name, and the bare names that are everyday words in their docstrings."""
    entries = [_entry(one) for one in documented(packages, words=DOCUMENT_WORDS)]
    entries = [entry for entry in entries if len(_prose(entry).split()) > DOCUMENT_WORDS]
    times = Counter(entry.summary.lower() for entry in entries)
    holders = Counter(word for entry in entries for word in _words(_prose(entry)))
    least = max(COMMON_OBJECTS, COMMON_SHARE * len(entries))
    common = frozenset(entry.bare.lower() for entry in entries if holders[entry.bare.lower()] > least)
    return tuple(e if times[e.summary.lower()] == 1 and _asks(e, common) else _whole(e) for e in entries), common


def _entry(one: Documented) -> _Entry:
    signature, lines = without_signature(prose(one.document), one.name.rpartition(".")[2])
    summary, rest = split_summary(lines)
    return _Entry(one.name, short_signature(one.signature) or signature, summary, tuple(rest))


def _prose(entry: _Entry) -> str:
    return " ".join([entry.summary, *entry.lines])


def _words(text: str) -> set[str]:
    """Identifiers and their parts in lower case: "nan_max" is also "nan" and "max", as has_answer would find them."""
    return {*re.findall(r"\w+", text.lower()), *re.findall(r"[^\W_]+", text.lower())}


def _whole(entry: _Entry) -> _Entry:
    """The entry with its summary back in its lines."""
    dot = "" if entry.summary.endswith(("?", "!")) else "."
    return replace(entry, summary="", lines=(entry.summary + dot, *entry.lines))


def _asks(entry: _Entry, common: frozenset[str]) -> bool:
    """Whether the summary is a question that only this object answers, and the lines can answer it."""
    return (
        QUESTION_WORDS[0] <= len(entry.summary.split()) <= QUESTION_WORDS[1]
        and len(" ".join(entry.lines).split()) >= BODY_WORDS
        and entry.bare.lower() not in common
        and not has_answer([entry.bare], entry.summary)
        and not _BOILERPLATE.match(entry.summary)
    )
