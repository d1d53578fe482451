"""A real retrieval set without a download: the docstrings of the libraries that are installed anyway.

Passages are docstrings of public functions, classes and methods, cut to about 100 words. Train and dev questions are
the summary lines, taken out of their passages; the test questions were written by hand (`docstring_questions.tsv`).
The bytes depend on the versions of the documented packages and on nothing else.

Every passage begins with the qualified name of its object (the first one with the parameters too), because
`has_answer@k` looks into texts, never into titles, and the answer to a question is a name. A bare name that is also an
everyday word ("copy", "get") would be found nearly everywhere; it is no answer, only its qualified name is.
"""

import contextlib
import csv
import hashlib
import importlib
import inspect
import io
import pkgutil
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np

from retort.data.docstring_prose import pieces, prose, short_signature, split_summary, without_signature
from retort.records import Passage, Qrels, Query
from retort.text import has_answer

QUESTIONS = Path(__file__).with_name("docstring_questions.tsv")
SPLITS = ("train", "dev", "test")
DEFAULT = "stdlib,numpy,scipy,torch,transformers"
WORDS = 100  # of a passage, as DPR cuts Wikipedia
PASSAGES = 4  # of one object: what it does comes first, and 3,000 words on one class would drown the others
DOCUMENT_WORDS = 20  # a docstring needs more
QUESTION_WORDS = (4, 30)
BODY_WORDS = 12  # what has to be left of a docstring without its summary
DEV_SHARE = 0.1
COMMON_SHARE = 0.01  # a bare name that more docstrings than this hold as a word does not tell its object
PLAIN = (type(None), bool, int, float, str)  # defaults that print alike in every process

# The namespaces that the manuals document. A package that is not listed here is walked whole.
NAMESPACES = {
    "stdlib": """abc argparse array ast asyncio base64 bisect builtins bz2 calendar cmath codecs collections
        collections.abc concurrent.futures configparser contextlib copy csv ctypes dataclasses datetime decimal difflib
        dis email.message email.utils enum filecmp fileinput fnmatch fractions ftplib functools gc getpass gettext glob
        graphlib gzip hashlib heapq hmac html html.parser http.client http.cookiejar http.server imaplib importlib
        importlib.metadata importlib.resources inspect io ipaddress itertools json keyword linecache locale logging
        logging.config logging.handlers lzma mailbox math mimetypes mmap multiprocessing multiprocessing.pool
        multiprocessing.shared_memory numbers operator os os.path pathlib pdb pickle pkgutil platform plistlib poplib
        pprint profile pstats queue quopri random re sched secrets select selectors shelve shlex shutil signal site
        smtplib socket socketserver sqlite3 ssl stat statistics string struct subprocess symtable sys sysconfig tarfile
        tempfile textwrap threading time timeit tokenize tomllib trace traceback tracemalloc types typing unicodedata
        unittest unittest.mock urllib.error urllib.parse urllib.request urllib.robotparser uuid venv warnings wave
        weakref webbrowser xml.dom.minidom xml.etree.ElementTree xml.sax.saxutils xmlrpc.client zipapp zipfile zlib
        zoneinfo""",
    "numpy": """numpy numpy.char numpy.ctypeslib numpy.fft numpy.lib.format numpy.lib.scimath numpy.lib.stride_tricks
        numpy.linalg numpy.ma numpy.polynomial numpy.polynomial.polynomial numpy.random numpy.rec numpy.strings
        numpy.testing""",
    "scipy": """scipy.cluster.hierarchy scipy.cluster.vq scipy.constants scipy.differentiate scipy.fft scipy.integrate
        scipy.interpolate scipy.io scipy.io.wavfile scipy.linalg scipy.ndimage scipy.optimize scipy.signal
        scipy.signal.windows scipy.sparse scipy.sparse.csgraph scipy.sparse.linalg scipy.spatial scipy.spatial.distance
        scipy.spatial.transform scipy.special scipy.stats scipy.stats.qmc""",
    "torch": """torch torch.amp torch.autograd torch.autograd.functional torch.cuda torch.distributions torch.fft
        torch.func torch.hub torch.jit torch.linalg torch.nn torch.nn.functional torch.nn.init torch.nn.utils
        torch.nn.utils.parametrizations torch.nn.utils.parametrize torch.nn.utils.prune torch.nn.utils.rnn torch.optim
        torch.optim.lr_scheduler torch.optim.swa_utils torch.profiler torch.random torch.signal.windows torch.sparse
        torch.special torch.utils.benchmark torch.utils.checkpoint torch.utils.data""",
    "transformers": """transformers.cache_utils transformers.configuration_utils transformers.data.data_collator
        transformers.feature_extraction_utils transformers.generation transformers.hf_argparser
        transformers.image_transforms transformers.modeling_utils transformers.optimization transformers.pipelines
        transformers.processing_utils transformers.tokenization_utils_base transformers.trainer
        transformers.trainer_callback transformers.trainer_pt_utils transformers.trainer_utils
        transformers.training_args""",
}
_SKIPPED_MODULE = re.compile(r"(^|\.)(_|tests?\b|testing\b|conftest\b|setup\b|distutils\b)")
_BOILERPLATE = re.compile(
    r"(deprecated|alias|see |same as|like |identical|equivalent|inherited|overrid|implement|helper|internal|wrapper|"
    r"base class|abstract|this (is|class|function|method)|initiali[sz]e self|note|warning|return self)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A documented object; `summary` is "" where it makes no question and is the first of `lines`."""

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
    (so many objects, drawn by a hash of their names; those that the test questions accept are always in) and
    ";words=N". Left out: examples, references, lists of related functions, all after the fourth passage of an object.
    ValueError: a package that is not installed, an option that is unknown or no positive number.

    >>> next(passages("textwrap")).text[:46]
    "textwrap.TextWrapper(width=70, initial_indent="
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
    if split not in (None, *SPLITS):
        raise ValueError(f"split {split!r} is unknown: expected one of {', '.join(SPLITS)}, or None for all")
    return [query for part, query, _ in _asked(_parse(spec)) if split in (None, part)]


def qrels(spec: str = "", split: str | None = None) -> Qrels:
    """Grade 1 for every passage of every object that answers a question. For evaluation only."""
    options = _parse(spec)
    wanted = {query.id for query in questions(spec, split)}
    ids = {e.name: [f"{e.name}#{i}" for i in range(len(_texts(e, options.words)))] for e in _selected(options)}
    return Qrels(
        {
            query.id: {passage: 1 for name in names for passage in ids[name]}
            for _, query, names in _asked(options)
            if query.id in wanted
        }
    )


@lru_cache(maxsize=1)
def written() -> tuple[Query, ...]:
    """The questions written by hand as the table has them: answers = qualified names, whether installed or not."""
    with QUESTIONS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    return tuple(Query(f"how-{i:03}", text, tuple(names.split())) for i, (text, names) in enumerate(rows, start=1))


def _asked(options: _Spec) -> Iterator[tuple[str, Query, list[str]]]:
    """Split, question and names of the objects that answer it."""
    entries = {entry.name: entry for entry in _selected(options)}
    common = _documented(options.packages)[1]
    accepted = {name for query in written() for name in query.answers}
    for entry in entries.values():
        if entry.summary:
            part = "dev" if entry.name in accepted or _hash(entry.name) < DEV_SHARE else "train"
            yield part, Query(entry.name, entry.summary, (entry.bare, entry.name)), [entry.name]
    for query in written():
        found = [entries[name] for name in query.answers if name in entries]
        if found:
            answers = [e.bare for e in found if e.bare.lower() not in common] + [e.name for e in found]
            yield "test", replace(query, answers=tuple(dict.fromkeys(answers))), [e.name for e in found]


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
    """The entries within the limit, by name."""
    entries = _documented(options.packages)[0]
    accepted = {name for query in written() for name in query.answers}
    always = sum(entry.name in accepted for entry in entries)
    drawn = sorted(entries, key=lambda entry: (entry.name not in accepted, _hash(entry.name)))
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
    """Every documented object once, by name, and the bare names that are everyday words in these docstrings."""
    best: dict[str, tuple[tuple, object]] = {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for module in (module for package in packages for module in _modules(package)):
            for rank, value in _objects(module):
                document = inspect.cleandoc(value.__doc__ or "")
                if len(document.split()) > DOCUMENT_WORDS and (document not in best or rank < best[document][0]):
                    best[document] = (rank, value)
        entries = sorted((_entry(rank[-1], *pair) for pair in 0), key=lambda e: e.name)
    return entries
