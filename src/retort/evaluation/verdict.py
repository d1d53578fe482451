"""The Runs of a report, and the sentence that answers its question from their comparisons.

Means, intervals and p-values come in finished: they are computed in metrics and significance, not here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

from retort.evaluation.markup import MINUS, Number, p_value, percent, signed
from retort.evaluation.significance import Comparison

ALPHA = 0.05  # an adjusted p above it counts as chance

Role = Literal["baseline", "student", "teacher", "round", "floor"]


@dataclass(frozen=True)
class RunRow:
    """One Run of the main table: its mean for each measure (shares in 0..1, higher is better) and their 95% intervals.

    `role`: a baseline (BM25), the untouched student, the teacher's labels (the ceiling), a round's student, or a floor
    of has_answer (shuffled answers, random passages). A measure that a Run lacks is left out of `means`.
    `round` is the place on the axis of rounds: 0 for the untouched student, the round of a student or of a teacher's
    labels; a Run without one is drawn as a level line. `best` marks the round that was kept.
    """

    name: str
    _: KW_ONLY
    role: Role
    means: Mapping[str, Number]
    intervals: Mapping[str, tuple[Number, Number]] = field(default_factory=dict)
    round: int | None = None
    best: bool = False


@dataclass(frozen=True)
class Answer:
    """The report's question and its answer: `verdict` in a word or two, `text` in one or two sentences."""

    question: str
    kind: Literal["yes", "partly", "no", "untested"]
    verdict: str
    text: str
    comparisons: tuple[Comparison, ...]  # those that the text cites


def answer(rows: Sequence[RunRow], comparisons: Sequence[Comparison], measure: str, *, chosen_here: bool = False) -> Answer:
    """Whether the kept round is better than the untouched student and each baseline, worded from the numbers.

    `chosen_here`: the questions are those that chose the round, and the answer says so.
    Yes: significantly better than all of them. In part: than some. No: than none. Without the comparisons it is not
    tested. The system is the round marked best, or the last round where no round is.
    """
    rivals = [row for row in rows if row.role == "student"] + [row for row in rows if row.role == "baseline"]
    rounds = [row for row in rows if row.role == "round"]
    system = next((row for row in rounds if row.best), rounds[-1] if rounds else None)
    question = f"Is {system.name if system else 'the distilled student'} better than {_joined(rivals)}?"
    if system is None:
        return Answer(question, "untested", "Not yet.", "No round has been distilled: the report holds no student.", ())
    cited = tuple(
        comparison
        for rival in rivals
        for comparison in comparisons
        if (comparison.measure, comparison.system, comparison.baseline) == (measure, system.name, rival.name)
    )
    mean = f"{measure} of {system.name} is {percent(system.means.get(measure))}"
    if not cited:
        others = ", ".join(f"{_named(rival)} {percent(rival.means.get(measure))}" for rival in rivals)
        text = f"{mean} ({others or 'nothing to compare it with'}); no significance test was given."
        return Answer(question, "untested", "Not tested.", text, ())
    better = [not _chance(c) and c.difference > 0 for c in cited]
    kind = "yes" if all(better) and len(cited) == len(rivals) else "partly" if any(better) else "no"
    of = {rival.name: rival for rival in rivals}
    text = f"{mean}: {' and '.join(_clause(c, of[c.baseline]) for c in cited)}."
    if kept := [_named(row) for row in rivals if row.best]:
        text += f" Kept was {kept[0]}, not a round."
    if chosen_here:
        text += " These questions also chose the round, which flatters it: only test questions tell how sure this is."
    return Answer(question, kind, {"yes": "Yes.", "partly": "In part.", "no": "No."}[kind], text, cited)


def _clause(comparison: Comparison, rival: RunRow) -> str:
    """One difference in words: how far above or below, of what, how sure."""
    points = signed(comparison.difference).lstrip("+" + MINUS)
    side = f"{points} points {'above' if comparison.difference > 0 else 'below'}" if points != "0.0" else "level with"
    p = p_value(comparison.adjusted_p)
    sure = ("p " if p.startswith("<") else "p = ") + p + (", which chance may explain" if _chance(comparison) else "")
    interval = f"95% interval {signed(comparison.low)} to {signed(comparison.high)}"
    return f"{side} {_named(rival)} ({percent(comparison.baseline_mean)}; {interval}; {sure})"


def _chance(comparison: Comparison) -> bool:
    return not comparison.adjusted_p <= ALPHA  # so that an unknown p, NaN, is chance


def _named(row: RunRow) -> str:
    return "the untouched student" if row.role == "student" else row.name


def _joined(rows: Sequence[RunRow]) -> str:
    names = [_named(row) for row in rows]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "its start"
