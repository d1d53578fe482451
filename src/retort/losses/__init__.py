"""What the gap between a student and its teacher costs: every objective by name. A loss never sees a model."""

from collections.abc import Callable, Sequence
from dataclasses import fields

from retort.config import ObjectiveSettings
from retort.losses.objectives import KL, MSE, CandidateMass, MaxMargin
from retort.tensors import Objective

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "kl": KL,
    "mse": MSE,
    "max_margin": MaxMargin,
    "candidate_mass": CandidateMass,
}


def build(settings: Sequence[ObjectiveSettings]) -> dict[str, tuple[float, Objective]]:
    """The coefficient and the objective of each name. ValueError: a name twice, or a setting its objective does not have.

    >>> from retort.config import ObjectiveSettings
    >>> build([ObjectiveSettings(name="kl", teacher_temperature=0.5)])
    {'kl': (1.0, KL(student_temperature=1.0, teacher_temperature=0.5))}
    """
    chosen: dict[str, tuple[float, Objective]] = {}
    for section in settings:
        if section.name in chosen:
            raise ValueError(f"objective {section.name!r} is listed twice: list it once, with the sum of the coefficients")
        chosen[section.name] = (section.coefficient, _objective(section))
    return chosen


def _objective(section: ObjectiveSettings) -> Objective:
    """The objective with those settings that it has; one that it lacks must stand at its default, or it would be ignored."""
    kind = OBJECTIVES[section.name]
    own = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    given = section.model_dump(exclude={"name", "coefficient"})
    for name, value in given.items():
        if name not in own and value != ObjectiveSettings.model_fields[name].default:
            raise ValueError(
                f"objective {section.name!r} has no setting {name!r} (found {value}): it knows "
                f"{', '.join(sorted(own)) or 'none'}; remove {name!r} or choose another objective"
            )
    return kind(**{name: value for name, value in given.items() if name in own})
