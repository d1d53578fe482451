"""The public functions, classes and methods of installed packages, each once, with name, signature and docstring.

Names are walked in sorted order and signatures print only plain defaults, so that the list is the same in every process.
"""

import contextlib
import importlib
import inspect
import io
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import numpy as np

PLAIN = (type(None), bool, int, float, str)  # defaults that print alike in every process
DEFAULT_CHARACTERS = 24  # a longer default is text or a path, not a value to compare

# The namespaces that the manuals document. A package that is not listed here is walked whole.
NAMESPACES = {
    "stdlib": """abc argparse array ast asyncio base64 bisect builtins bz2 calendar cmath codecs collections
        collections.abc concurrent.futures configparser contextlib copy csv ctypes dataclasses datetime decimal difflib
        dis email.message email.utils enum filecmp fileinput fnmatch fractions ftplib functools gc getpass gettext glob
        graphlib gzip hashlib heapq hmac html html.parser http.client http.cookiejar http.server imaplib importlib
        importlib.metadata importlib.resources inspect io ipaddress itertools json keyword linecache locale logging
        logging.config logging.handlers lzma mailbox math mimetypes mmap multiprocessing multiprocessing.pool
        multiprocessing.shared_memory numbers operator os os.path pathlib pickle pkgutil platform plistlib poplib
        pprint profile pstats queue quopri random re sched secrets select selectors shelve shlex shutil signal site
        smtplib socket socketserver sqlite3 ssl stat statistics string struct subprocess symtable sys sysconfig tarfile
        tempfile textwrap threading time timeit tokenize tomllib trace traceback tracemalloc types typing unicodedata
        unittest unittest.mock urllib.error urllib.parse urllib.request urllib.robotparser uuid venv warnings wave
        weakref webbrowser xml.dom.minidom xml.etree.ElementTree xml.sax.saxutils xmlrpc.client zipapp zipfile zlib
        zoneinfo""",
    "numpy": """numpy numpy.fft numpy.lib.format numpy.lib.scimath numpy.lib.stride_tricks numpy.linalg
        numpy.polynomial numpy.polynomial.polynomial numpy.random numpy.strings numpy.testing""",
    "scipy": """scipy.cluster.hierarchy scipy.cluster.vq scipy.differentiate scipy.fft scipy.integrate scipy.interpolate
        scipy.io scipy.io.wavfile scipy.linalg scipy.ndimage scipy.optimize scipy.signal scipy.signal.windows
        scipy.sparse scipy.sparse.csgraph scipy.sparse.linalg scipy.spatial scipy.spatial.distance
        scipy.spatial.transform scipy.special scipy.stats scipy.stats.qmc""",
    "torch": """torch torch.autograd torch.autograd.functional torch.cuda torch.distributions torch.fft torch.func
        torch.hub torch.linalg torch.nn torch.nn.functional torch.nn.init torch.nn.utils
        torch.nn.utils.parametrizations torch.nn.utils.parametrize torch.nn.utils.prune torch.nn.utils.rnn torch.optim
        torch.optim.lr_scheduler torch.optim.swa_utils torch.profiler torch.random torch.special torch.utils.benchmark
        torch.utils.checkpoint torch.utils.data""",
    "transformers": """transformers.cache_utils transformers.configuration_utils transformers.data.data_collator
        transformers.feature_extraction_utils transformers.generation transformers.hf_argparser
        transformers.modeling_utils transformers.optimization transformers.pipelines transformers.processing_utils
        transformers.tokenization_utils_base transformers.trainer transformers.trainer_callback
        transformers.trainer_utils transformers.training_args""",
}
_SKIPPED_MODULE = re.compile(r"(^|\.)(_.*|tests?|testing|conftest|setup|distutils)$")
_Rank = tuple[int, bool, int, str]  # smaller is the better name; the last is the qualified name


@dataclass(frozen=True, slots=True)
class Documented:
    """A public object: its qualified name ("str.split" for a built-in), "(a, b=None)" or "", and its docstring."""

    name: str
    signature: str
    document: str


def documented(packages: Sequence[str], *, words: int = 0) -> list[Documented]:
    """The objects of `packages` whose docstrings have more than `words` words, by name.

    Objects with the same docstring are aliases or inherited: one stays, under the name with the fewest dots, then in
    its home module, then the shortest. Warnings and prints of imported modules are silenced; a module that cannot be
    imported is left out. "stdlib" stands for the standard library.

    >>> [(one.name, one.signature) for one in documented(["bisect"], words=50)]
    [('bisect.bisect', '(a, x, lo=0, hi=None, *, key=None)'), ('bisect.bisect_left', '(a, x, lo=0, hi=None, *, key=None)')]
    """
    best: dict[str, tuple[_Rank, object]] = {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        # all imports come first, because one package edits docstrings of another (SciPy those of NumPy)
        modules = [pair for package in packages for pair in _modules(package)]
        for name, module in modules:
            for rank, value in _objects(name, module):
                document = inspect.cleandoc(str(value.__doc__ or ""))
                if len(document.split()) > words and (document not in best or rank < best[document][0]):
                    best[document] = (rank, value)
        found = [Documented(rank[-1], _signature(value), document) for document, (rank, value) in best.items()]
    return sorted(found, key=lambda one: one.name)


def _modules(package: str) -> Iterator[tuple[str, ModuleType]]:
    """The documented namespaces of `package`; all its public modules where it is not listed."""
    listed = NAMESPACES.get(package, "").split()
    for name in listed or [package]:
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit):  # an optional dependency or another platform: the module is not for us
            continue
        yield name, module
        if not listed:
            inner = sorted(f"{name}.{info.name}" for info in pkgutil.iter_modules(getattr(module, "__path__", [])))
            for submodule in inner:
                if not _SKIPPED_MODULE.search(submodule):
                    yield from _modules(submodule)


def _objects(namespace: str, module: ModuleType) -> Iterator[tuple[_Rank, object]]:
    """The public functions and classes of `module` and the methods of these classes, each with a rank for its name."""
    package = namespace.partition(".")[0]
    known = _names(package)
    for name in _public(module):
        value = _get(module, name)
        if not (inspect.isclass(value) or _is_routine(value)):
            continue
        home = package if name in known and _get(sys.modules[package], name) is value else namespace
        owner = name if home == "builtins" else f"{home}.{name}"
        foreign = getattr(value, "__module__", None) != home
        yield _rank(owner, foreign), value
        for method, routine in _methods(value):
            yield _rank(f"{owner}.{method}", foreign), routine


def _public(module: ModuleType) -> list[str]:
    """`__all__`, or what comes from the module, its inside or its private relatives; no name with an underscore."""
    if listed := getattr(module, "__all__", None):
        return sorted(name for name in set(listed) if name[0] != "_")
    return sorted(name for name in dir(module) if name[0] != "_" and _is_own(_get(module, name), module.__name__))


@lru_cache(maxsize=1)  # the lazy `dir(transformers)` takes a second, and its modules are walked one after another
def _names(package: str) -> frozenset[str]:
    return frozenset(dir(sys.modules[package]))


def _is_own(value: object, module: str) -> bool:
    origin = getattr(value, "__module__", None) or module
    relative = _is_private(origin) and _package(value) == module.partition(".")[0]
    return relative or f"{origin}.".startswith(f"{module}.")


def _methods(owner: object) -> Iterator[tuple[str, object]]:
    """The public methods that a class defines itself or takes over from private bases, none that others patched in."""
    bases = owner.__mro__ if inspect.isclass(owner) else ()
    private = [base for base in bases[1:] if _is_private(f"{base.__module__}.{base.__name__}")]
    for name in sorted({name for base in [*bases[:1], *private] for name in vars(base) if name[0] != "_"}):
        value = _get(owner, name)
        if _is_routine(value) and _package(value) in ("", *map(_package, [owner, *private])):
            yield name, value


def _package(value: object) -> str:
    """The top-level package that says it defines `value`, without the underscore of a C module; "" where none does."""
    return (getattr(value, "__module__", None) or "").partition(".")[0].lstrip("_")


def _is_private(name: str) -> bool:
    return name.startswith("_") or "._" in name


def _is_routine(value: object) -> bool:
    return inspect.isroutine(value) or isinstance(value, np.ufunc)


def _get(owner: object, name: str) -> object:
    """The attribute, None where its owner fails to give it: lazy and deprecated names raise whatever they like."""
    try:
        return getattr(owner, name)
    except Exception:
        return None


def _rank(name: str, foreign: bool) -> _Rank:
    return name.count("."), foreign, len(name), name


def _signature(value: object) -> str:
    """The parameters in brackets without `self`, a default that is no short plain value as "..."; "" where unknown."""
    try:
        parameters = list(inspect.signature(value).parameters.values())  # type: ignore[arg-type]
    except Exception:
        return ""
    shown = [parameter for i, parameter in enumerate(parameters) if i or parameter.name not in ("self", "cls")]
    parts: list[str] = []
    for i, parameter in enumerate(shown):
        before = shown[i - 1].kind if i else None
        if parameter.kind == parameter.KEYWORD_ONLY and before not in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL):
            parts.append("*")
        parts.append(_parameter(parameter))
    return "" if parts == ["*args", "**kwargs"] else f"({', '.join(parts)})"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    if parameter.default is parameter.empty:
        return stars + parameter.name
    shown = repr(parameter.default) if type(parameter.default) in PLAIN else "..."
    return f"{parameter.name}={shown if len(shown) <= DEFAULT_CHARACTERS else '...'}"
