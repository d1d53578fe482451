"""The documentation tells the truth: its code runs, its configs load, its links lead somewhere, its errors exist."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from retort.config import parse

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def code(page: Path) -> str:
    """The page's python with empty lines for all the rest, so that a traceback gives the line of the page."""
    kept, language = [], ""
    for line in page.read_text().splitlines():
        fence = line.startswith("```")
        kept.append(line if language == "python" and not fence else "")
        language = (line[3:] or "other" if not language else "") if fence else language
    return "\n".join(kept)


def targets(page: Path) -> list[str]:
    """What the page links to in this repository, without anchors."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [target.partition("#")[0] for target in found if "://" not in target and not target.startswith("#")]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code(page), str(page), "exec"), {"__name__": page.stem})


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.name)
def test_the_configs_of_a_page_are_whole(page):
    for block in blocks(page, "yaml"):
        assert parse(yaml.safe_load(block)).prepare.corpus


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page):
    assert [target for target in targets(page) if not (page.parent / target).exists()] == []


def test_the_page_of_settings_is_what_the_sources_say():
    made = runpy.run_path(str(ROOT / "docs" / "settings.py"))["page"]()
    assert made == (ROOT / "docs" / "settings.md").read_text(), "run `python docs/settings.py`"


def test_the_readme_fits_on_three_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("error", re.findall(r"^## `(.+)`$", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE))
def test_an_explained_error_is_still_raised(error):
    """Each part of the heading between its ellipses stands in a string of the sources."""
    sources = "\n".join(path.read_text() for path in [*(ROOT / "src").rglob("*.py"), ROOT / "Makefile"])
    assert [part.strip() for part in error.split("...") if part.strip() and part.strip() not in sources] == []
