"""The settings of a run: read from YAML, checked, and explained where they are wrong.

The stages' sections are in sections.py; those of teachers, students and training in files of their own.
Unknown keys and wrong types are refused with what was found, what was expected, and the nearest name.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from retort.config.budget import Budget
from retort.config.fields import Optimiser, Section
from retort.config.language import Judge, LanguageModel, ServerSettings
from retort.config.sections import (
    Bm25,
    Compute,
    Config,
    Encode,
    Evaluate,
    Index,
    Prepare,
    Reporting,
    Retrieve,
    Split,
    merged,
)
from retort.config.students import StudentModel
from retort.config.teachers import AttentionSettings, Label, Part, Phase, Prompts, Read, Signal, TeacherSettings
from retort.config.training import Distil, Negatives, ObjectiveSettings

__all__ = [
    "AttentionSettings",
    "Bm25",
    "Budget",
    "Compute",
    "Config",
    "Distil",
    "Encode",
    "Evaluate",
    "Index",
    "Judge",
    "Label",
    "LanguageModel",
    "Negatives",
    "ObjectiveSettings",
    "Optimiser",
    "Part",
    "Phase",
    "Prepare",
    "Prompts",
    "Read",
    "Reporting",
    "Retrieve",
    "Section",
    "ServerSettings",
    "Signal",
    "Split",
    "StudentModel",
    "TeacherSettings",
    "load",
    "merged",
    "parse",
]


class _Yaml(yaml.SafeLoader):
    """YAML as people write it: 1e-4 is a number (YAML 1.1 wants 1.0e-4 and reads a string).

    A key that stands twice is refused, as the standard asks; PyYAML alone would take the last and drop the others.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 (types-PyYAML has it wrong)
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(
                    f"key `{key.value}` stands in line {lines[key.value]} and again in line {line}, expected each key once: "
                    "join the two"
                )
            lines[key.value] = line
        return node


_Yaml.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def load(path: Path, changes: Sequence[str] = ()) -> Config:
    """The config in a YAML file with `changes` such as "distil.steps=100" applied. ValueError names the file and the key."""
    if not path.is_file():
        raise ValueError(f"no config at {path}: expected a YAML file; `recipes/` holds complete ones to start from")
    try:
        values = yaml.load(path.read_text(), _Yaml)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}, expected a mapping with at least the section `prepare`")
    for change in changes:
        values = merged(values, _change(change))
    try:
        return parse(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse(values: Mapping[str, Any]) -> Config:
    """A checked config. ValueError lists every wrong key with what was found, what was expected and the nearest name."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ValueError("\n".join(_explained(detail) for detail in error.errors())) from None
    for since in sorted(config.overrides):
        try:
            config.of_round(since)
        except ValidationError as error:
            lines = "\n".join(_explained(detail) for detail in error.errors())
            raise ValueError(f"with the overrides of round {since}: {lines}") from None
    return config


def _change(text: str) -> dict[Any, Any]:
    """The nested mapping that "a.b=c" means; the value is read as YAML."""
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise ValueError(f"--set {text!r}: expected section.key=value, for example distil.steps=100")
    try:
        result: Any = yaml.load(value, _Yaml)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {text!r}: {value!r} is not YAML: {error}") from None
    for name in reversed(path.split(".")):
        result = {int(name) if name.isdigit() else name: result}  # rounds of `overrides` are numbers
    return result


def _explained(detail: Any) -> str:  # noqa: ANN401 (pydantic's own record)
    """One line for one wrong value: where, what was found, what was expected, what to write instead."""
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        names = _fields_at(detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names)}"
        return f"unknown key `{place}`; {hint}"
    if detail["type"] == "missing":
        return f"`{place}` is missing: the config must give it"
    message = f"`{place}` is {detail['input']!r}; {detail['msg'][0].lower()}{detail['msg'][1:]}"
    if detail["type"] == "literal_error":
        near = difflib.get_close_matches(str(detail["input"]), detail["ctx"]["expected"].replace("'", "").split(), n=1)
        message += f"; did you mean {near[0].rstrip(',')!r}?" if near else ""
    return message


def _fields_at(place: Sequence[str | int]) -> list[str]:
    """The names that a section holds."""
    section: type[BaseModel] = Config
    for part in place:
        found = section.model_fields[part].annotation if isinstance(part, str) and part in section.model_fields else None
        inner = getattr(found, "__args__", (found,))[0] if found is not None else section
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            section = inner
    return list(section.model_fields)
