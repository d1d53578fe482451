"""The law of the house: floors, sizes, names, headers and annotations of src/retort, read from its syntax trees.

Every law is a function that yields a sentence for each breach. The laws are tested first on small bad trees: a law that
cannot fail is none.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = ("records", "text", "config", "store", "tensors", "compute", "costs", "cores")  # each may import those before it
FAMILIES = ("data", "teachers", "students", "losses", "distil", "indexes", "evaluation")  # none imports another
BRIDGES = {"integrations": ("losses",)}  # parts for the tools of others, with the families that each may import
# each may import those before it
STORY = (
    "plan", "prepared", "job", "candidates", "making", "labelling", "searching", "refreshing", "auditing", "evidence",
    "model_checks", "checks", "spending", "gathering", "pipeline", "suite", "importing", "asking", "speeds", "probing",
    "footprint", "estimates", "bill", "budget", "console", "cli",
)  # fmt: skip
FILE_LINES, STORY_LINES, FUNCTION_LINES = 300, 380, 60  # pipeline.py alone tells the whole story
NO_SUBJECT = {"utils", "common", "manager", "base"}
WITHOUT_TORCH = "records"  # corpora and Runs are read on machines that have no torch
HEAVY = {"torch", "accelerate", "transformers", "sentence_transformers", "safetensors"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name below the package ("losses.kl", "" for the package itself) and its syntax tree."""

    name: str
    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def place(self) -> str:
        return self.name.partition(".")[0]

    def functions(self) -> Iterator[Function]:
        yield from (node for node in ast.walk(self.tree) if isinstance(node, Function))

    def imported(self, package: str) -> Iterator[tuple[ast.stmt, str]]:
        """Every import statement with the whole dotted name of each thing that it names."""
        here = f"{package}.{self.name}".rstrip(".")
        parent = here if self.path.name == "__init__.py" else here.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                source = resolve_name("." * node.level + (node.module or ""), parent)
                yield from ((node, f"{source}.{alias.name}") for alias in node.names)


@dataclass(frozen=True)
class House:
    """All modules of a package by name, and the packages that only its extras install."""

    package: str
    modules: dict[str, Module]
    optional: frozenset[str] = frozenset()

    def own(self, module: Module) -> Iterator[str]:
        """The names of the package's modules that a module imports."""
        for _, name in module.imported(self.package):
            if name == self.package or name.startswith(f"{self.package}."):
                inner = name.removeprefix(self.package).lstrip(".")
                yield inner if inner in self.modules else inner.rpartition(".")[0]


def read_house(root: Path, optional: frozenset[str] = frozenset()) -> House:
    modules = {}
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        modules[name] = Module(name, path, path.read_text())
    return House(root.name, modules, optional)


def floors(house: House) -> Iterator[str]:
    for module in house.modules.values():
        for place in sorted({name.partition(".")[0] for name in house.own(module)} - {"", module.place}):
            if place not in _below(module.place):
                yield f"{module.name or house.package} imports {place}"


def _below(place: str) -> set[str]:
    """The places that a module in `place` may import, beside its own."""
    if place in GROUND:
        return set(GROUND[: GROUND.index(place)])
    if place in FAMILIES:
        return set(GROUND)
    if place in BRIDGES:
        return {*GROUND, *BRIDGES[place]}
    return {*GROUND, *FAMILIES, *STORY[: STORY.index(place)]} if place in STORY else set()


def known_places(house: House) -> Iterator[str]:
    for place in sorted({module.place for module in house.modules.values()} - {"", *GROUND, *FAMILIES, *BRIDGES, *STORY}):
        yield f"{place} has no floor"


def no_circles(house: House) -> Iterator[str]:
    graph = {name: set(house.own(module)) - {name} for name, module in house.modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield "a circle of " + ", ".join(sorted(set(error.args[1])))


def no_deferred_imports(house: House) -> Iterator[str]:
    """Inside a function only an optional package is imported."""
    for module in house.modules.values():
        inside = {id(node) for function in module.functions() for node in ast.walk(function)}
        for node, name in module.imported(house.package):
            if id(node) in inside and name.partition(".")[0] not in house.optional:
                yield f"{module.name} imports {name} inside a function"


def no_hidden_annotations(house: House) -> Iterator[str]:
    """Shapes are checked at run time, so annotations must exist there."""
    for module in house.modules.values():
        names = {name for _, name in module.imported(house.package)}
        names |= {node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}
        for name in sorted(names & {"typing.TYPE_CHECKING", "TYPE_CHECKING", "__future__.annotations"}):
            yield f"{module.name} uses {name}"


def records_without_torch(house: House) -> Iterator[str]:
    module = house.modules[WITHOUT_TORCH]
    for heavy in sorted({name.partition(".")[0] for _, name in module.imported(house.package)} & HEAVY):
        yield f"{WITHOUT_TORCH} imports {heavy}"


def short_files(house: House) -> Iterator[str]:
    for module in house.modules.values():
        lines, most = module.text.count("\n"), STORY_LINES if module.name == "pipeline" else FILE_LINES
        if lines > most:
            yield f"{module.name} has {lines} lines, {most} at most"


def short_functions(house: House) -> Iterator[str]:
    for module in house.modules.values():
        for function in module.functions():
            body = function.body[1:] if ast.get_docstring(function) else function.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > FUNCTION_LINES:
                yield f"{module.name}.{function.name} has {lines} lines, {FUNCTION_LINES} at most"


def headers(house: House) -> Iterator[str]:
    for module in house.modules.values():
        if not ast.get_docstring(module.tree):
            yield f"{module.name or house.package} has no header docstring"


def subjects(house: House) -> Iterator[str]:
    for module in house.modules.values():
        for word in sorted({word for part in module.name.split(".") for word in part.split("_")} & NO_SUBJECT):
            yield f"{module.name} is named {word}, which is no subject"


def annotated(house: House) -> Iterator[str]:
    for name, function in _public(house):
        given = function.args
        arguments = [given.vararg, given.kwarg, *given.posonlyargs, *given.args, *given.kwonlyargs]
        bare = [one.arg for one in arguments if one and one.annotation is None and one.arg not in ("self", "cls")]
        if bare or function.returns is None:
            yield f"{name} lacks annotations of {', '.join(bare) or 'what it returns'}"


def documented(house: House) -> Iterator[str]:
    for name, function in _public(house):
        if not ast.get_docstring(function):
            yield f"{name} has no docstring"


def _public(house: House) -> Iterator[tuple[str, Function]]:
    """Public functions, and the public methods of public classes, with their whole names."""
    for module in house.modules.values():
        classes = [node for node in module.tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
        for prefix, body in [("", module.tree.body), *((f"{node.name}.", node.body) for node in classes)]:
            for node in body:
                if isinstance(node, Function) and node.name[0] != "_":
                    yield f"{module.name}.{prefix}{node.name}", node


LAWS: tuple[Callable[[House], Iterator[str]], ...] = (
    floors, known_places, no_circles, no_deferred_imports, no_hidden_annotations, records_without_torch,
    short_files, short_functions, headers, subjects, annotated, documented,
)  # fmt: skip

LONG = "def long() -> int:\n    'It.'\n" + "    n = 1\n" * 60 + "    return n\n"
BAD: tuple[tuple[Callable[[House], Iterator[str]], dict[str, str], list[str]], ...] = (
    (floors, {"losses/kl.py": "from house.students import dense"}, ["losses.kl imports students"]),
    (floors, {"losses/kl.py": "from ..students.dense import Dense"}, ["losses.kl imports students"]),
    (floors, {"data/rows.py": "import house.pipeline", "pipeline.py": ""}, ["data.rows imports pipeline"]),
    (floors, {"pipeline.py": "from house import cli", "cli.py": ""}, ["pipeline imports cli"]),
    (floors, {"integrations/st.py": "from house.students import dense"}, ["integrations.st imports students"]),
    (floors, {"pipeline.py": "from house.integrations import st"}, ["pipeline imports integrations"]),
    (floors, {"records.py": "from house.tensors import Batch"}, ["records imports tensors"]),
    (floors, {"store.py": "from house.data.rows import Row"}, ["store imports data"]),
    (floors, {"__init__.py": "from house.records import Run"}, ["house imports records"]),
    (floors, {"data/rows.py": "def f():\n    from house.students import dense"}, ["data.rows imports students"]),
    (known_places, {"helpers.py": "", "data/rows.py": "", "cli.py": ""}, ["helpers has no floor"]),
    (no_circles, {"data/a.py": "from house.data import b", "data/b.py": "from house.data.a import A"},
     ["a circle of data.a, data.b"]),
    (no_deferred_imports, {"store.py": "def f():\n    import json"}, ["store imports json inside a function"]),
    (no_deferred_imports, {"data/a.py": "class A:\n    def f(self):\n        from house import text"},
     ["data.a imports house.text inside a function"]),
    (no_hidden_annotations, {"text.py": "from typing import TYPE_CHECKING"}, ["text uses typing.TYPE_CHECKING"]),
    (no_hidden_annotations, {"text.py": "import typing\nif typing.TYPE_CHECKING:\n    pass"}, ["text uses TYPE_CHECKING"]),
    (no_hidden_annotations, {"text.py": "from __future__ import annotations"}, ["text uses __future__.annotations"]),
    (records_without_torch, {"records.py": "from torch.nn import Module"}, ["records imports torch"]),
    (short_files, {"text.py": "\n" * 301, "pipeline.py": "\n" * 380}, ["text has 301 lines, 300 at most"]),
    (short_files, {"pipeline.py": "\n" * 381}, ["pipeline has 381 lines, 380 at most"]),
    (short_functions, {"text.py": LONG}, ["text.long has 61 lines, 60 at most"]),
    (headers, {"text.py": '"""Words."""', "data/rows.py": "ROWS = 1"}, ["data.rows has no header docstring"]),
    (subjects, {"data/row_utils.py": "", "data/based.py": ""}, ["data.row_utils is named utils, which is no subject"]),
    (annotated, {"text.py": "def f(a, *, b: int) -> int: ...\ndef g(): ...\ndef _h(a): ..."},
     ["text.f lacks annotations of a", "text.g lacks annotations of what it returns"]),
    (documented, {"text.py": "class A:\n    def f(self): ...\nclass _B:\n    def g(self): ..."},
     ["text.A.f has no docstring"]),
)  # fmt: skip
GOOD = {
    "__init__.py": "",
    "records.py": "import numpy",
    "store.py": "from house import records\ndef f():\n    import ray",
    "losses/__init__.py": "from house.losses.kl import KL",
    "losses/kl.py": "from house.records import Run\nfrom house import __version__\nKL = Run",
    "integrations/st.py": "from house.losses.kl import KL\nfrom house.records import Run",
    "pipeline.py": "from house.losses import KL\nfrom house.store import f",
    "cli.py": "import house.pipeline",
}


def built(root: Path, files: dict[str, str]) -> House:
    for name, text in files.items():
        path = root / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_house(root / "house", frozenset({"ray"}))


@lru_cache(maxsize=1)
def retort() -> House:
    """The house that this law is made for. A package is imported by its name with underscores, or its extra's."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [line.split("[")[0].split(">")[0].split("=")[0] for lines in extras.values() for line in lines]
    return read_house(ROOT / "src" / "retort", frozenset(name.replace("-", "_") for name in [*names, *extras]))


@pytest.mark.parametrize(("law", "files", "breaches"), BAD, ids=lambda value: getattr(value, "__name__", None))
def test_a_law_names_what_breaks_it(law, files, breaches, tmp_path):
    assert list(law(built(tmp_path, files))) == breaches


@pytest.mark.parametrize("law", LAWS[:6], ids=lambda law: law.__name__)
def test_imports_that_go_down_break_no_law(law, tmp_path):
    assert list(law(built(tmp_path, GOOD))) == []


def test_every_law_is_tried_on_a_bad_tree():
    assert {law for law, _, _ in BAD} == set(LAWS)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_retort_keeps_the_law(law):
    breaches = list(law(retort()))
    assert not breaches, "\n".join(breaches)


def test_records_load_without_torch():
    code = "import sys, retort.records; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
