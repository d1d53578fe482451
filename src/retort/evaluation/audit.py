"""Whether to train on a teacher's labels, and why, told without any relevance grade.

The facts come from audit_shape.py (the scores as targets) and audit_order.py (what their order is worth), the thresholds and
sentences from audit_reasons.py; here they become one verdict, the lines of the command and the tables of the report.

Measured on the synthetic world of tests/evaluation/test_audit.py, 200 draws for each of 50 x 20, 200 x 20, 200 x 6 and
100 x 100 queries x candidates, judged by answers and BM25, and by BM25 alone: no false alarm in 3,200 audits of a good
teacher (correlated 0.9 or 0.45 with relevance). Sign-flipped and length-only ones were refused in all 1,600 audits each. Of
1,600 of a shuffled one 16 passed (1%), 770 were refused, and 814 were left "order unknown", nearly all of the small sizes.
The queries are taken as independent: many that share passages make the intervals narrower than they should be.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64

from retort.evaluation.audit_order import (
    LONGEST,
    Agreement,
    Answers,
    LengthBias,
    agreement_with,
    answer_flags,
    answers,
    length_bias,
    passage_lengths,
    scores_in,
)
from retort.evaluation.audit_reasons import Reason, order_reasons, shape_reasons
from retort.evaluation.audit_shape import Scale, Shapes, advised_temperature, scale, shapes, usual_aim
from retort.evaluation.markup import number, percent, plain
from retort.evaluation.ranks import Estimate
from retort.evaluation.report import Table
from retort.records import Corpus, Query, Run

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
VERDICTS: dict[str, Literal["train", "train with care", "do not train"]] = {
    "note": "train", "care": "train with care", "stop": "do not train"
}  # fmt: skip  # the gravest reason decides, the last here


@dataclass(frozen=True)
class Audit:
    """A verdict on the labels `name` with its reasons, the gravest first, and the facts that they rest on.

    `shapes` has one value for each query, `quantiles` the QUANTILES of each over the queries that have candidates; `shares`
    are of the queries, or of the candidates where named so. `advised` is the temperature at which the median effective
    number of candidates is `aim`, None where there is none. `lengths` holds the teacher's bias first. What was not given
    (answers, other Runs, lengths) is None or empty.
    """

    name: str
    verdict: Literal["train", "train with care", "do not train"]
    reasons: tuple[Reason, ...]
    shapes: Shapes
    quantiles: Mapping[str, tuple[float, ...]]
    shares: Mapping[str, float]
    scale: Scale
    aim: float
    advised: float | None
    answers: Answers | None
    agreements: tuple[Agreement, ...]
    lengths: tuple[LengthBias, ...]

    def plain(self, *, per_query: bool = True) -> dict[str, Any]:
        """Everything as JSON values, NaN as None; `shapes` as one record for each query, or left out.

        >>> found = audit(Run.build("teacher", ["q"], [[0, 1]], [[2.0, 0.0]]))
        >>> found.plain()["shapes"][0]["verdict"], found.plain(per_query=False)["verdict"]
        ('few candidates', 'train with care')
        """
        queries = {"query": self.shapes.query_ids, "verdict": self.shapes.verdicts(), "reason": self.shapes.reasons()}
        columns = {name: values for name, values in vars(self.shapes).items() if isinstance(values, np.ndarray)}
        queries |= {name: values.tolist() for name, values in columns.items()}
        values = {**vars(self), "temperature": self.shapes.temperature}
        del values["shapes"]
        if per_query:
            values["shapes"] = [dict(zip(queries, row, strict=True)) for row in zip(*queries.values(), strict=True)]
        nested = {name: getattr(self, name) for name in ("reasons", "agreements", "lengths")}
        values |= {name: [asdict(one) for one in found] for name, found in nested.items()}
        values |= {"scale": asdict(self.scale), "answers": asdict(self.answers) if self.answers else None}
        return plain(values)


def audit(
    labels: Run,
    *,
    flags: Mapping[str, Bool[np.ndarray, "n"]] | None = None,
    lengths: Int64[np.ndarray, "N"] | None = None,
    others: Sequence[Run] = (),
    temperature: float = 1.0,
    aim: float | None = None,
) -> Audit:
    """The verdict on labels, from the facts at hand: the more of them, the more can be told.

    `flags`: which candidates of a query hold one of its answers, in the order of the Run (`answer_flags`); queries without
    answers are left out. `lengths`: of each candidate's passage, flat (`passage_lengths`). `others`: BM25, other teachers,
    the untouched student; a query or candidate may be missing there. `temperature`: what the training divides the labels by.
    `aim`: the effective number of candidates that a temperature is advised for, by default `usual_aim`.
    Queries without an order to teach count in the shares, and are left out of what is said about the order.
    ValueError: no query, lengths or flags that do not fit the Run, two Runs of one name, a temperature or an aim that is
    not above 0.

    >>> found = audit(Run.build("teacher", ["q1", "q2"], [[0, 1], [0, 1]], [[1.0, 1.0], [3.0, 3.0]]))
    >>> found.verdict, [reason.name for reason in found.reasons]
    ('do not train', ['constant', 'few queries'])
    """
    _check(labels, lengths, others)
    found = shapes(labels, temperature=temperature)
    values, aim = scale(labels), usual_aim(found) if aim is None else aim
    advised = advised_temperature(labels, aim)
    reasons = list(shape_reasons(found, values, aim, advised))
    said, agreements, biases = None, (), ()
    if found.ordered.any():
        kept = np.repeat(found.ordered, found.candidates)
        ordered = labels if found.ordered.all() else labels.select(np.array(labels.query_ids)[found.ordered].tolist())
        lengths = None if lengths is None else lengths[kept]
        said = answers(
            ordered, {q: held for q, held in (flags or {}).items() if q in ordered}, lengths=lengths, others=others
        )
        agreements = tuple(agreement_with(other, ordered) for other in others)
        biases = () if lengths is None else _biases(ordered, lengths, others)
        reasons += order_reasons(said, agreements, biases)
    gravity = max((reason.gravity for reason in reasons), key=list(VERDICTS).index, default="note")
    reasons.sort(key=lambda reason: -list(VERDICTS).index(reason.gravity))
    return Audit(
        name=labels.name,
        verdict=VERDICTS[gravity],
        reasons=tuple(reasons),
        shapes=found,
        quantiles=_quantiles(found),
        shares=_shares(found),
        scale=values,
        aim=aim,
        advised=advised,
        answers=said,
        agreements=agreements,
        lengths=biases,
    )


def audit_labels(
    labels: Run,
    corpus: Corpus,
    *,
    queries: Sequence[Query],
    others: Sequence[Run] = (),
    temperature: float = 1.0,
    aim: float | None = None,
) -> Audit:
    """`audit` with all that a corpus and its queries tell: the lengths of the passages, and which of them hold an answer.

    `queries` may be more than those of the labels, and need no answers.
    """
    flags = answer_flags(labels, corpus, queries=queries)
    lengths = passage_lengths(labels, corpus)
    return audit(labels, flags=flags, lengths=lengths, others=others, temperature=temperature, aim=aim)


def lines(found: Audit) -> list[str]:
    """The audit for a terminal: the verdict, a line for each reason, and the main numbers.

    >>> for line in lines(audit(Run.build("teacher", ["q"], [[0, 1]], [[1.0, 1.0]])))[:3]:
    ...     print(line[:90])
    teacher: do not train
      stop  constant: 100.0% (at most 5.0% expected) of the queries give all candidates one sc
      care  few queries: 1 queries are too few to tell a teacher by (at least 30 expected): la
    """
    numbers = [f"{name}: {' '.join(map(number, values))}" for name, values in found.quantiles.items()]
    numbers.insert(0, f"quantiles: {' '.join(f'{100 * share:.0f}%' for share in QUANTILES)}")
    numbers += [f"{name}: {percent(share)}%" for name, share in found.shares.items()]
    if found.advised:
        numbers.append(f"temperature for {number(found.aim)} effective candidates: {number(found.advised)}")
    reasons = [f"  {reason.gravity}  {reason.name}: {reason.text}" for reason in found.reasons]
    return [f"{found.name}: {found.verdict}", *reasons, *(f"        {line}" for line in numbers)]


def tables(found: Audit) -> list[Table]:
    """The audit for the report: the reasons of the verdict, the labels as targets, and what their order is worth."""
    reasons = [(reason.name, reason.gravity, reason.text) for reason in found.reasons]
    headings = ["of a query", *(f"{percent(share)}% below" for share in QUANTILES)]
    rows = [(name, *values) for name, values in found.quantiles.items()]
    note = ", ".join(f"{name}: {percent(share)}%" for name, share in found.shares.items())
    if found.advised:
        note += f". Temperature for {number(found.aim)} effective candidates: {number(found.advised)}"
    result = [
        Table(f"Audit of {found.name}: {found.verdict}", ["finding", "gravity", "reason"], reasons),
        Table(f"Targets of {found.name} at temperature {number(found.shapes.temperature)}", headings, rows, note=f"{note}."),
    ]
    if found.answers or found.agreements or found.lengths:
        result.append(_order_table(found))
    return result


def _check(labels: Run, lengths: Int64[np.ndarray, "N"] | None, others: Sequence[Run]) -> None:
    names = [labels.name, LONGEST, *(other.name for other in others)]
    if len(set(names)) < len(names):
        raise ValueError(f"found the orders {names}, expected different names: give each Run a name of its own")
    if lengths is not None and len(lengths) != len(labels.passages):
        raise ValueError(
            f"found {len(lengths)} lengths, expected one for each of the {len(labels.passages)} candidates of"
            f" {labels.name!r}: make them from that Run, by passage_lengths"
        )


def _order_table(found: Audit) -> Table:
    """One row for each order of the same candidates: the teacher's, longest first, those of other Runs."""
    orders = {order.name: order for order in found.answers.orders} if found.answers else {}
    taus = {one.name: one.tau for one in found.agreements}
    biases = {one.name: one.rho for one in found.lengths}
    columns = ["order", "answer above other", "first holds answer", "last holds answer", "Kendall tau", "length (Spearman)"]
    rows = []
    for name in dict.fromkeys([found.name, *orders, *taus, *biases]):
        order = orders.get(name)
        ends = (percent(order.top), percent(order.last)) if order else (None, None)
        rows.append((name, _shown(order and order.above), *ends, _shown(taus.get(name)), _shown(biases.get(name))))
    note = "Means over queries with their 99% intervals; tau with the teacher, over the candidates that both hold."
    if found.answers:
        note += (
            f" Answers: {found.answers.mixed} of {found.answers.queries} queries have candidates with and without one; by"
            f" chance 0.5 above other, and the first holds one in {percent(found.answers.chance)}%."
        )
    return Table(f"Order of {found.name}", columns, rows, note=note)


def _shown(found: Estimate | None) -> str | None:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]" if found and found.queries else None


def _biases(labels: Run, lengths: Int64[np.ndarray, "N"], others: Sequence[Run]) -> tuple[LengthBias, ...]:
    scores = {labels.name: labels.scores} | {other.name: scores_in(other, labels) for other in others}
    return tuple(length_bias(name, values.astype(np.float64), lengths, labels.starts) for name, values in scores.items())


def _quantiles(found: Shapes) -> dict[str, tuple[float, ...]]:
    some = found.candidates > 0
    columns = {
        "candidates": found.candidates,
        "entropy": found.entropy,
        "effective candidates": found.effective,
        "spread": found.spread,
        "standard deviation": found.deviation,
        "tied candidates": found.tied,
    }
    return {
        name: tuple(np.quantile(values[some], QUANTILES).tolist()) if some.any() else (math.nan,) * len(QUANTILES)
        for name, values in columns.items()
    }


def _shares(found: Shapes) -> dict[str, float]:
    verdicts = found.verdicts()
    total = max(1, int(found.candidates.sum()))
    shares = {f"{name} queries": verdicts.count(name) / len(verdicts) for name in dict.fromkeys(sorted(verdicts))}
    counts = {"tied": found.tied, "negligible": found.negligible, "underflowing": found.underflowing}
    return shares | {f"{name} candidates": float(count.sum() / total) for name, count in counts.items()}
