import sys
import types

import pytest

from retort.data.docstring_objects import NAMESPACES, documented

LONG = "A docstring of several words that nobody else has: {}."


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A package `walked` with a submodule, a private module, tests, and a module that cannot be imported."""
    sources = {
        "__init__.py": "from walked._inner import shown\n",
        "_inner.py": f"def shown(): '''{LONG.format('shown')}'''\n",
        "outer.py": (
            "from walked._inner import shown\nfrom json import dumps\n"
            f"class Kept:\n    '''{LONG.format('Kept')}'''\n"
            f"    def method(self, a, *, b=object(), c=None): '''{LONG.format('method')}'''\n"
            f"    def _hidden(self): '''{LONG.format('hidden')}'''\n"
            "class Child(Kept):\n    pass\n"
            "print('noise')\nimport warnings\nwarnings.warn('more noise')\n"
        ),
        "broken.py": "raise RuntimeError('not on this machine')\n",
        "tests.py": f"def test(): '''{LONG.format('test')}'''\n",
    }
    folder = tmp_path / "walked"
    folder.mkdir()
    for name, source in sources.items():
        (folder / name).write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "walked"
    for name in [name for name in sys.modules if name.partition(".")[0] == "walked"]:
        del sys.modules[name]


def test_public_objects_are_found_once_under_their_shortest_names(package):
    assert [one.name for one in documented([package])] == ["walked.outer.Kept", "walked.outer.Kept.method", "walked.shown"]


def test_imported_modules_cannot_print(package, capsys):
    documented([package])
    assert capsys.readouterr() == ("", "")


def test_signatures_show_plain_defaults_only_and_no_self(package):
    signatures = {one.name: one.signature for one in documented([package])}
    assert signatures["walked.outer.Kept.method"] == "(a, *, b=..., c=None)"
    assert signatures["walked.shown"] == "()"


def test_methods_that_another_package_patched_in_are_left_out(package, monkeypatch):
    documented([package])
    patched = types.FunctionType((lambda self: None).__code__, {"__name__": "elsewhere"})
    patched.__doc__ = LONG.format("patched")
    monkeypatch.setattr(sys.modules["walked.outer"].Kept, "patched", patched, raising=False)
    assert "walked.outer.Kept.patched" not in [one.name for one in documented([package])]


def test_built_in_names_have_no_module():
    names = {one.name for one in documented(["stdlib"], words=20)}
    assert {"str.split", "os.path.join", "collections.Counter", "shutil.copytree"} <= names
    assert not {"statistics.Counter", "posixpath.join", "builtins.str.split"} & names


def test_only_docstrings_longer_than_asked_are_given():
    assert min(len(one.document.split()) for one in documented(["json"], words=20)) > 20
    assert len(documented(["json"])) > len(documented(["json"], words=20))


def test_namespaces_are_listed_in_order_and_once():
    for names in map(str.split, NAMESPACES.values()):
        assert names == sorted(set(names))


def test_a_class_is_described_by_its_constructor():
    decoder = next(one for one in documented(["json"]) if one.name == "json.JSONDecoder")
    assert decoder.signature.startswith("(*, object_hook=None, parse_float=None")
    assert decoder.document.startswith("Simple JSON <https://json.org> decoder")
