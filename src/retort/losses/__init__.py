"""What the gap between a student and its teacher costs: every objective by name. A loss never sees a model."""

from collections.abc import Callable, Sequence
from dataclasses import fields

from retort.config import ObjectiveSettings
from retort.losses import objectives
from retort.tensors import Objective, Term

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "kl": objectives.KL,
    "reverse_kl": objectives.ReverseKL,
    "jensen_shannon": objectives.JensenShannon,
    "emdr2": objectives.EMDR2,
    "ckl": objectives.CKL,
    "bkl": objectives.BKL,
    "cross_entropy": objectives.CrossEntropy,
    "list_mle": objectives.ListMLE,
    "lambda_loss": objectives.LambdaLoss,
    "approx_ndcg": objectives.ApproxNDCG,
    "cl_drd": objectives.CLDRD,
    "ranknet": objectives.RankNet,
    "margin_mse": objectives.MarginMSE,
    "mse": objectives.MSE,
    "max_margin": objectives.MaxMargin,
    "info_nce": objectives.InfoNCE,
    "candidate_mass": objectives.CandidateMass,
    "flops": objectives.Flops,
    "l1": objectives.L1,
}


def build(settings: Sequence[ObjectiveSettings]) -> dict[str, Term]:
    """The terms of a loss by name ("flops_query" where a side is set).

    ValueError: a name twice, a setting that the objective does not have, all objectives with a warm-up.

    >>> from retort.config import ObjectiveSettings
    >>> build([ObjectiveSettings(name="kl", teacher_temperature=0.5)])["kl"].objective
    KL(student_temperature=1.0, teacher_temperature=0.5)
    """
    chosen: dict[str, Term] = {}
    for section in settings:
        name = f"{section.name}_{section.side}" if section.side else section.name
        if name in chosen:
            raise ValueError(f"objective {name!r} is listed twice: list it once, with the sum of the coefficients")
        chosen[name] = Term(_objective(section), section.coefficient, section.warmup_steps or 0)
    if all(term.warmup_steps for term in chosen.values()):
        raise ValueError(
            f"every objective of {list(chosen)} has warmup_steps, so that the first step has no loss: leave them out of "
            "one, for which the learning rate's own warm-up is enough"
        )
    return chosen


def _objective(section: ObjectiveSettings) -> Objective:
    """The objective with the settings that were given. One that it does not have is refused, as it would be ignored."""
    kind = OBJECTIVES[section.name]
    own = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    given = section.model_dump(exclude={"name", "coefficient", "warmup_steps"}, exclude_none=True)
    if unknown := sorted(set(given) - own):
        raise ValueError(
            f"objective {section.name!r} has no setting {unknown[0]!r} (found {given[unknown[0]]}): it knows "
            f"{', '.join(sorted(own)) or 'none'}; remove {unknown[0]!r} or choose another objective"
        )
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
