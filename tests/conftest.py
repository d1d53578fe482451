"""Fixtures that several files share: the sources of the tiny run, and the run itself, made once for all."""

import gc
import shutil
from dataclasses import dataclass
from pathlib import Path

# The first imports of a process compile nothing: jaxtyping's hook, under which Retort is imported, hides what is compiled.
import accelerate  # noqa: F401
import beartype.door  # noqa: F401
import ir_measures  # noqa: F401
import pydantic  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import sentence_transformers  # noqa: F401
import torch.distributed.tensor  # noqa: F401

from kills import POINTS, lives
from tiny_run import write_config, write_sources


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes share the tests by file, but for those that look at the finished run, which one process makes once."""
    for item in items:
        asked = getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("finished run" if "runs" in asked else str(item.path)))


def pytest_collection_finish() -> None:
    """What was imported is kept from the garbage collector, which accelerate calls twice a training: half a second each."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Runs:
    """A run that was never stopped, the same one killed at each of `kills.POINTS`, and how each of its lives ended."""

    config: Path
    whole: Path
    killed: Path
    ends: list[str]


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def runs(sources, tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    config = write_config(folder / "tiny.yaml", sources)
    whole, killed = folder / "whole" / "run", folder / "killed" / "run"
    return Runs(config, whole, killed, lives(config, whole, killed, POINTS))


@pytest.fixture(scope="session")
def finished(runs) -> Path:
    """The folder of a finished run of two rounds, to be looked at only."""
    return runs.whole


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A finished run that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "copy" / "run"))
