"""Models that cannot do what they are asked for are refused before anything is built: by their small files, unloaded.

Each error says where in the config the model stands, what it is, what was expected and what to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from retort import compute
from retort.config import TeacherSettings
from retort.plan import Step
from retort.teachers.fid.loading import check_reader
from retort.teachers.loading import check_stock

STOCK = ("cross_encoder", "retriever")


@contextmanager
def placed_at(place: str) -> Iterator[None]:
    """Inside, a ValueError says at which place of the config it arose."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def check_models(step: Step) -> None:
    """ValueError for the first model that will not do, of those that a step loads and no earlier step of the run made."""
    settings = step.config
    if step.stage == "read":
        with placed_at("read"):
            _check_whole(Path(compute.model_path(settings.read.model)))
            check_reader(settings.read)
    if step.stage == "label":
        for number, teacher in enumerate(settings.label.teachers):
            with placed_at(f"label.teachers.{number}"):
                _check_teacher(teacher)
    if step.stage == "distil" or step.name == "round-0/encode":
        with placed_at("distil.student"):
            _check_whole(Path(compute.model_path(settings.distil.student.model)))
            _check_reachable(settings.distil.student.model)


def _check_teacher(teacher: TeacherSettings) -> None:
    """A teacher whose model is here, not behind a server."""
    if teacher.model is None or teacher.server is not None:
        return
    _check_whole(Path(compute.model_path(teacher.model)))
    if teacher.kind in STOCK:
        check_stock(teacher.model, teacher.sha256, ranker=teacher.kind == "cross_encoder", tokens=teacher.tokens)
    else:
        _check_reachable(teacher.model)


def _check_reachable(model: str) -> None:
    """A hub id answers here, from the local cache or over the network: its config is read, which is small."""
    path = Path(compute.model_path(model))
    if path.exists() and not (path / "config.json").exists():
        return  # a sentence-transformers model that has its encoder in a folder of its own
    try:
        AutoConfig.from_pretrained(str(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model {model!r} cannot be loaded: {str(error).splitlines()[0]} Give a model folder, package:NAME/folder, or "
            "the id of a model that the hub can be reached for (HF_HUB_OFFLINE=1 forbids the network)"
        ) from error


def _check_whole(folder: Path) -> None:
    """The weights in a folder can be opened: a copy that was cut off cannot."""
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, "numpy"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file} is not whole ({error}): fetch or copy the model again") from error
