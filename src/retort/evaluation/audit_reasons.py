"""What the facts of an audit mean for the training: reasons, each with its number, its threshold and what to do.

Every threshold is here, with why. What cannot be told from the data is said to be so, and never guessed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from retort.evaluation.audit_order import Agreement, Answers, LengthBias
from retort.evaluation.audit_shape import FEW_CANDIDATES, FLAT, NEGLIGIBLE, ONE_HOT, QUERY_VERDICTS, Scale, Shapes
from retort.evaluation.markup import p_value, percent
from retort.evaluation.ranks import Estimate

ENOUGH_QUERIES = 30  # fewer give intervals that rest on the values being Gaussian
MOST = 0.5  # a share of queries or candidates above it: the run is so, not some of its queries
SOME = 0.05  # a share of queries without an order: training loses them, and what lost them may harm others
TOP_TIES = 0.2  # a share of queries with no single best candidate: scores were rounded, or a sigmoid saturated
PILED = 0.25  # a share of scores at 0 and 1: logits of deviation 2.5 around 0 put 6% there, a cosine none
LOGIT_SPREAD = 2.0  # nats, the best weighs 7 times the worst; measured medians: readers 4.4 and 6.3, TAS-B 8.5
CHANCE_MARGIN = 0.05  # around 0.5: on FairytaleQA readers have 0.78 to 0.83, BM25 0.84, longest first 0.51 to 0.59
TAU_MARGIN = 0.05  # around 0: TREC DL 2019-20's six systems agree by 0.18 to 0.60, fused candidates of FairytaleQA by 0.04
CHOSEN = 0.9  # of the candidates: fewer that one Run chose are fused with another's, and that Run alone proves nothing
LENGTH_ONLY = 0.9  # Spearman: nothing but noise is left of the order
LENGTH_HEAVY = 0.5  # Spearman: BM25, readers and dense retrievers were measured at -0.17 to 0.15

OVERSHADOWED = {
    "underflow": ("one-hot",), "flat": ("squashed", "softmaxed"), "ties": ("constant",)
}  # fmt: skip  # findings that only repeat another

Gravity = Literal["stop", "care", "note"]
Direction = Literal["up", "barely", "none", "down", "unknown"]


@dataclass(frozen=True)
class Reason:
    """One sentence of the verdict: `name` is the finding, `gravity` what it asks for ("note": nothing)."""

    name: str
    gravity: Gravity
    text: str


def direction(found: Estimate | None, neutral: float, margin: float) -> Direction:
    """Where an interval lies: within `margin` of neutral ("none", or "barely" where it excludes it), "up" or "down".

    "unknown" where it is too wide to say, and below ENOUGH_QUERIES.

    >>> direction(Estimate(0.5, 0.48, 0.52, 900), 0.5, 0.05), direction(Estimate(0.5, 0.4, 0.6, 40), 0.5, 0.05)
    ('none', 'unknown')
    """
    if found is None or found.queries < ENOUGH_QUERIES:
        return "unknown"
    if neutral - margin < found.low and found.high < neutral + margin:
        return "barely" if found.low > neutral else "none"
    return "up" if found.low > neutral else "down" if found.high < neutral else "unknown"


def shape_reasons(shapes: Shapes, scale: Scale, aim: float, advised: float | None) -> list[Reason]:
    """What the values of the scores alone say: no order, squashed, too sharp, too flat, tied, too few.

    `aim` and `advised` are the effective number of candidates and the temperature that gives it (None: no temperature does).
    """
    change = "label deeper"
    if advised:
        change = f"set the teacher's temperature to {advised:g} (median effective candidates: {aim:.3g})"
    found = {reason.name: reason for reason in (*_excesses(shapes, change), *_squashed(shapes, scale, change))}
    if len(shapes.query_ids) < ENOUGH_QUERIES:
        text = f"{len(shapes.query_ids)} queries are too few to tell a teacher by (at least {ENOUGH_QUERIES} expected)"
        found["few queries"] = Reason("few queries", "care", f"{text}: label more.")
    hidden = {name for name, graver in OVERSHADOWED.items() if any(other in found for other in graver)}
    return [reason for name, reason in found.items() if name not in hidden]


def order_reasons(
    answers: Answers | None, agreements: Sequence[Agreement], lengths: Sequence[LengthBias]
) -> Iterator[Reason]:
    """What answers, other Runs and lengths say about the order: length-only, sign-flipped, shuffled, or nothing.

    Answers decide where they can tell; other Runs decide where answers cannot, and one alone only about candidates that it
    chose: on the first 5 or 10 of BM25 and TAS-B for TREC DL, SPLADE++ orders against BM25 (tau -0.21 and -0.10).
    """
    by_length = list(_length(answers, lengths))
    yield from by_length
    if any(reason.gravity == "stop" for reason in by_length):
        return  # answers and other Runs would only repeat what is wrong with lengths
    taus = [direction(one.tau, 0.0, TAU_MARGIN) for one in agreements]
    said = ", ".join(f"{one.name} {_interval(one.tau)}" for one in agreements)
    telling = len(agreements) > 1 or any(one.first > CHOSEN for one in agreements)
    found = direction(answers.orders[0].above, 0.5, CHANCE_MARGIN) if answers else "unknown"
    if answers and found != "unknown":
        yield from _by_answers(answers, found, "up" in taus, said)
    elif telling and set(taus) == {"down"}:
        text = f"It orders the candidates against every other Run (Kendall's tau {said}; above 0 expected)"
        yield Reason("sign-flipped", "stop", f"{text}: turn the sign of the scores, or check with answers.")
    elif telling and set(taus) == {"none"}:
        text = f"It agrees with no other Run (Kendall's tau {said}; beyond {TAU_MARGIN} expected): the scores look shuffled"
        yield Reason("shuffled", "stop", f"{text}; check that they belong to their passages, or give answers as proof.")
    elif "up" in taus:
        yield Reason("agreement", "note", f"It agrees with other Runs (Kendall's tau {said}).")
    else:
        alone = "" if telling or not said else ", which alone proves nothing of candidates that it did not choose"
        yield Reason("order unknown", "care", _unknown(answers, said + alone))


def _excesses(shapes: Shapes, change: str) -> Iterator[Reason]:
    """A reason for each share that is above what is expected; of two with one name the later is the graver."""
    verdicts, ordered = shapes.verdicts(), shapes.ordered
    share = {name: verdicts.count(name) / len(verdicts) for name in QUERY_VERDICTS}
    negligible, tied = (count.sum() / max(1, shapes.candidates.sum()) for count in (shapes.negligible, shapes.tied))
    top_tied = (shapes.top_tied[ordered] > 1).sum() / max(1, ordered.sum())
    missing = "no order is taught there; look at what scored them, or label deeper"
    raw = "keep the scores as the teacher gives them, neither rounded nor squashed, or learn from pairs with a margin"
    limits = [
        ("constant", share["constant"], SOME, f"queries give all candidates one score: {missing}"),
        ("too short", share["too short"], SOME, f"queries have fewer than 2 candidates: {missing}"),
        ("few candidates", share["few candidates"], MOST, f"queries have below {FEW_CANDIDATES} candidates: label deeper"),
        ("one-hot", share["one-hot"], MOST, f"queries have below {ONE_HOT} effective candidates, just the best: {change}"),
        ("underflow", negligible, MOST, f"candidates have a probability below {NEGLIGIBLE}, lost in float32: {change}"),
        ("flat", share["flat"], MOST, f"queries weigh {percent(FLAT)}% of their candidates or more as equal: {change}"),
        ("ties", tied, MOST, f"candidates share their score with another: {raw}"),
        ("ties", top_tied, TOP_TIES, f"queries have no single best candidate: {raw}"),
    ]
    for name, found, most, what in limits:
        if found > most:
            gravity = "stop" if name in ("constant", "too short") and ordered.mean() < MOST else "care"
            yield Reason(name, gravity, f"{percent(found)}% (at most {percent(most)}% expected) of the {what}.")


def _squashed(shapes: Shapes, scale: Scale, change: str) -> Iterator[Reason]:
    spread = float(np.median(shapes.spread[shapes.ordered])) if shapes.ordered.any() else 0.0
    if not scale.bounded or not shapes.ordered.any():
        return
    if scale.sums_to_one:
        text = "All scores are in 0..1 and add up to 1 for each query: they are a softmax already"
        yield Reason("softmaxed", "care", f"{text}, and the training takes another; give their logarithm.")
    elif scale.piled > PILED or spread < LOGIT_SPREAD:
        text = (
            f"All scores are in {scale.lowest:.3g}..{scale.highest:.3g}, {percent(scale.piled)}% of them at 0 or 1 (at most"
            f" {percent(PILED)}% expected), and the best is {spread:.3g} above the worst (median; at least {LOGIT_SPREAD}"
            " expected at this temperature): they look like sigmoids or cosines"
        )
        yield Reason("squashed", "care", f"{text}; give raw logits (of a sigmoid: log(p / (1 - p))), or {change}.")


def _length(answers: Answers | None, lengths: Sequence[LengthBias]) -> Iterator[Reason]:
    """The teacher's own bias is the first of `lengths`, the others are those of the other Runs."""
    if not lengths or not abs(lengths[0].rho.mean) > LENGTH_HEAVY or lengths[0].rho.queries < ENOUGH_QUERIES:
        return
    rho, rest = lengths[0].rho, "".join(f"; {one.name} {one.rho.mean:.2f}" for one in lengths[1:])
    text = f"The order follows the length of the passages: Spearman {_interval(rho)} (at most {LENGTH_HEAVY} expected{rest})"
    beyond = answers.beyond_length if answers else None
    if beyond and beyond.queries:
        text += f"; beyond it, an answer stands above another passage in {_interval(beyond)} of pairs (0.5 by chance)"
    gains = {direction(found, 0.5, CHANCE_MARGIN) for found in (beyond, answers and answers.orders[0].above)}
    if abs(rho.mean) > LENGTH_ONLY or (gains & {"none", "down"} and not gains & {"up", "barely"}):
        yield Reason("length-only", "stop", f"{text}: it teaches length; normalise by length or take another teacher.")
    else:
        yield Reason("length-heavy", "care", f"{text}: normalise by length, or compare the student's results by length.")


def _by_answers(answers: Answers, found: Direction, agrees: bool, said: str) -> Iterator[Reason]:
    order = answers.orders[0]
    text = (
        f"An answer stands above another passage in {_interval(order.above)} of pairs (0.5 by chance); the first candidate"
        f" holds one in {percent(order.top)}% of {answers.mixed} queries, by chance in {percent(answers.chance)}%"
        f" (p {p_value(answers.p)}), the last in {percent(order.last)}% (p of being better {p_value(answers.reversed_p)})"
    )
    if found == "down":
        yield Reason("sign-flipped", "stop", f"{text}: the worst-first order is better; turn the sign of the scores.")
    elif found == "none" and not agrees:
        text += f" ({0.5 + CHANCE_MARGIN} expected): no better than chance{said and f', Kendall tau with {said}'}"
        yield Reason("shuffled", "stop", f"{text}; check that the scores belong to their passages.")
    elif found in ("none", "barely"):
        text += f": hardly better than chance ({0.5 + CHANCE_MARGIN} expected){said and f'; Kendall tau with {said}'}"
        yield Reason("barely better", "care", f"{text}; look at whether the answers are names or just any words.")
    else:
        yield Reason("answers", "note", f"{text}.")


def _unknown(answers: Answers | None, said: str) -> str:
    seen = f"answers tell {answers.mixed} queries apart ({_interval(answers.orders[0].above)})" if answers else "no answers"
    return (
        f"Whether the order is right cannot be told: {seen}, {f'Kendall tau with {said}' if said else 'no other Run'};"
        f" give answers or other Runs for more queries (at least {ENOUGH_QUERIES} that tell)."
    )


def _interval(found: Estimate) -> str:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
