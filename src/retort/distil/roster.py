"""Which model states exist and how they move: models by name, each with a rule that acts after every step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch.nn import Parameter

from retort.tensors import Student


@runtime_checkable
class Rule(Protocol):
    """How one model moves."""

    @property
    def trained(self) -> bool:
        """Whether the optimiser moves it."""
        ...

    def after_step(self, name: str, models: Mapping[str, Student], step: int) -> None:
        """What else happens to model `name` after optimiser step `step`."""
        ...


@dataclass(frozen=True)
class Train:
    """The optimiser moves the model, and nothing else does."""

    trained: bool = True

    def after_step(self, name: str, models: Mapping[str, Student], step: int) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Roster:
    """The models of a run by name, and their rules; "student" is the one that is evaluated and saved."""

    models: Mapping[str, Student]
    rules: Mapping[str, Rule]

    @classmethod
    def of(cls, student: Student) -> "Roster":
        """A roster of the one student in training."""
        return cls({"student": student}, {"student": Train()})

    @property
    def student(self) -> Student:
        """The model that is evaluated and saved."""
        return self.models["student"]

    def parameters(self) -> list[Parameter]:
        """What the optimiser moves."""
        return [p for name, model in self.models.items() if self.rules[name].trained for p in model.module.parameters()]

    def after_step(self, step: int) -> None:
        """Every rule acts, in the order of the models."""
        for name, rule in self.rules.items():
            rule.after_step(name, self.models, step)
