"""What every section of the config stands on: its base, the format strings, the optimiser."""

from collections.abc import Mapping, Sequence
from string import Formatter

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt


class Section(BaseModel):
    """A part of the config: frozen, and strict about names and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Optimiser(Section):
    """AdamW with a linear schedule: warm-up from 0, then down to 0 (FiD's released recipes)."""

    learning_rate: PositiveFloat = 1e-4
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: NonNegativeInt = 1000  # until the rate is full; with fewer steps in all it never is
    decay_steps: PositiveInt | None = (
        None  # when the rate would be 0; None: at the last step (FiD: 30,000, and 20,000 trained)
    )
    clip: PositiveFloat = 1.0  # the most that the gradient's norm may be


def unread(section: Section, kind: str, read_by: Mapping[str, Sequence[str]]) -> str | None:
    """The first setting away from its default that a section of this kind does not read; `read_by` has the kinds that do."""
    changed = (name for name in read_by if getattr(section, name) != type(section).model_fields[name].default)
    return next((name for name in changed if kind not in read_by[name]), None)


def with_fields(value: str, *, needed: set[str], optional: set[str]) -> str:
    """`value`, a format string with all `needed` fields and no others than the `optional` ones."""
    names = {name for _, name, _, _ in Formatter().parse(value) if name is not None}
    if not needed <= names <= needed | optional:
        raise ValueError(
            f"expected the fields {sorted(needed)} and, where wanted, {sorted(optional)}; found {sorted(names)}"
        )
    return value
