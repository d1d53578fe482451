"""What the order of a teacher's labels is worth without grades: against answers, other Runs, and passage lengths.

Each query gives one value; a mean comes with its interval over the queries. Nothing is judged here (audit_reasons.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import binomtest

from retort.evaluation.ranks import (
    Estimate,
    blocks,
    centred_ranks,
    estimate,
    kendall_tau,
    padded,
    poisson_binomial,
    share_above,
    spearman,
)
from retort.records import Corpus, Query, Run
from retort.text import AnswerMatcher

MOST_ASKED = 2_000  # queries whose candidates are searched for answers: a mean over so many is sure to about 0.02
AGREEMENT_DEPTH = 100  # candidates of a query that are compared pair by pair, the teacher's best first
ROUNDING = 1e-9  # ranks left after a line is taken out: closer ones are equal
LONGEST = "longest first"  # the name of the order by length


@dataclass(frozen=True)
class AnswerOrder:
    """How one order of the candidates finds answers, over the queries where some candidates hold one and others do not.

    `above`: the share of pairs of a holding and another candidate in which the holding one stands higher (0.5 by chance, a
    tie counts half; the area under the ROC curve). `top` and `last`: the share of queries whose first, and whose last,
    candidate holds an answer (of tied ones, the share that does).
    """

    name: str
    above: Estimate
    top: float
    last: float


@dataclass(frozen=True)
class Answers:
    """What answers say about the teacher's order: `orders` holds the teacher's first, then longest first, then other Runs'.

    `queries` were looked at, `mixed` of them can tell (see AnswerOrder); `chance` is the share of them whose first
    candidate holds an answer in a random order. `p`: two-sided, of the teacher's `top` against that chance (exact, from the
    Poisson-binomial distribution). `reversed_p`: one-sided, of the worst-first order finding more answers than the order
    given (sign test). Both leave out queries whose end is tied.
    `beyond_length`: `above` of what is left of the teacher's ranks when a line in the ranks of lengths is taken out.
    """

    queries: int
    mixed: int
    chance: float
    p: float
    reversed_p: float
    orders: tuple[AnswerOrder, ...]
    beyond_length: Estimate | None


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b with another Run, over the candidates that both hold (`shared`: their share of the teacher's).

    `first`: the share of the teacher's candidates that stand as high in the other Run as there are candidates of the query;
    1 where that Run chose them. Where they are fused from several Runs, each Run seems to disagree with any good teacher:
    the candidates that others brought stand low in it (Berkson 1946).
    """

    name: str
    tau: Estimate
    shared: float
    first: float


@dataclass(frozen=True)
class LengthBias:
    """Spearman's correlation of a Run's scores with the length of the passages in characters."""

    name: str
    rho: Estimate


def answer_flags(
    labels: Run, corpus: Corpus, *, queries: Sequence[Query], most: int = MOST_ASKED
) -> dict[str, Bool[np.ndarray, "n"]]:
    """Which candidates of a query hold one of its answers, in the order of the Run, for queries that have answers.

    Only the text is searched, as has_answer@k does. At most `most` queries, evenly taken, since a new text costs 0.1 ms.
    """
    asked = [query for query in queries if query.answers and query.id in labels]
    asked = [asked[i] for i in np.linspace(0, len(asked) - 1, min(most, len(asked))).astype(int)]
    flags = {}
    for query in asked:
        matcher = AnswerMatcher(query.answers)
        rows = labels.of(query.id)[0].tolist()
        flags[query.id] = np.array([matcher.matches(corpus[row].text) for row in rows], bool)
    return flags


def passage_lengths(labels: Run, corpus: Corpus) -> Int64[np.ndarray, "N"]:
    """The characters in the text of each candidate of the Run, in its flat order."""
    rows, places = np.unique(labels.passages, return_inverse=True)
    texts = corpus.table.column("text").take(pa.array(rows.astype(np.int64)))
    return pc.call_function("utf8_length", [texts]).to_numpy().astype(np.int64)[places]


def scores_in(other: Run, labels: Run) -> Float64[np.ndarray, "N"]:
    """The score that `other` gives to each candidate of `labels`, in its flat order; NaN where it has none.

    >>> labels, other = Run.build("a", ["q"], [[1, 2]], [[5.0, 4.0]]), Run.build("b", ["q"], [[2, 3]], [[0.5, 0.1]])
    >>> scores_in(other, labels).tolist()
    [nan, 0.5]
    """
    places = _places(other, labels)
    found = np.full(len(places), np.nan)
    found[places >= 0] = other.scores[places[places >= 0]]
    return found


def answers(
    labels: Run,
    flags: Mapping[str, Bool[np.ndarray, "n"]],
    *,
    lengths: Int64[np.ndarray, "N"] | None = None,
    others: Sequence[Run] = (),
) -> Answers | None:
    """What answers say about the order of `labels`, where `flags` tell which candidates hold one; None without flags.

    An other Run is judged on the same candidates; those that it lacks stand tied at its end.
    ValueError: flags that do not fit the candidates of their query.
    """
    if not flags:
        return None
    for query_id, held in flags.items():
        if query_id not in labels or len(labels.of(query_id)[0]) != len(held):
            raise ValueError(
                f"query {query_id!r} has {len(held)} answer flags, expected one for each of its candidates in run "
                f"{labels.name!r}: make them from that Run, by answer_flags"
            )
    kept = np.array([query_id in flags for query_id in labels.query_ids])
    rows = np.repeat(kept, np.diff(labels.starts))
    asked = labels.select([query_id for query_id in labels.query_ids if query_id in flags])
    holds = np.concatenate([flags[query_id] for query_id in asked.query_ids])
    orders = {labels.name: asked.scores.astype(np.float64)}
    if lengths is not None:
        orders[LONGEST] = lengths[rows].astype(np.float64)
    orders |= {other.name: np.nan_to_num(scores_in(other, asked), nan=-np.inf) for other in others}
    judged = [_answer_order(name, scores, holds, asked.starts) for name, scores in orders.items()]
    beyond = None if lengths is None else _beyond(orders[labels.name], orders[LONGEST], holds, asked.starts)
    chance, p, reversed_p = _end_tests(asked, holds)
    return Answers(len(asked), judged[0].above.queries, chance, p, reversed_p, tuple(judged), beyond)


def agreement_with(other: Run, labels: Run) -> Agreement:
    """Kendall's tau-b of `labels` with `other`, the mean over the queries of which they share two candidates or more."""
    places, lengths = _places(other, labels), np.diff(labels.starts)
    firsts = np.append(
        np.repeat(other.starts[:-1], np.diff(other.starts)), 0
    )  # of each row of `other`; place -1 reads the 0
    chosen = (places >= 0) & (places - firsts[places] < np.repeat(lengths, lengths))
    shared, first = (float(found.sum() / max(1, len(found))) for found in (places >= 0, chosen))
    if lengths.max(initial=0) > AGREEMENT_DEPTH:
        labels = labels.top(AGREEMENT_DEPTH)
    theirs = scores_in(other, labels)
    taus = [
        kendall_tau(padded(labels.scores[rows], mask), padded(theirs[rows], mask))
        for rows, mask in blocks(labels.starts, pairs=True)
    ]
    return Agreement(other.name, estimate(np.concatenate(taus)), shared, first)


def length_bias(
    name: str, scores: Float[np.ndarray, "N"], lengths: Int64[np.ndarray, "N"], starts: Int64[np.ndarray, "S"]
) -> LengthBias:
    """Spearman's correlation of flat scores (NaN: unknown) with lengths, the mean over the queries that have one."""
    rhos = [spearman(padded(scores[rows], mask), padded(lengths[rows], mask)) for rows, mask in blocks(starts)]
    return LengthBias(name, estimate(np.concatenate(rhos)))


def _places(other: Run, labels: Run) -> Int64[np.ndarray, "N"]:
    """Where each candidate of `labels` stands in the flat arrays of `other`; -1 where it does not."""
    numbers = {query_id: i for i, query_id in enumerate(labels.query_ids)}
    owner = np.array([numbers.get(query_id, -1) for query_id in other.query_ids], np.int64)
    theirs = np.repeat(owner, np.diff(other.starts)) << 32 | other.passages
    known = np.flatnonzero(theirs >= 0)
    known = known[np.argsort(theirs[known])]
    ours = np.repeat(np.arange(len(labels)), np.diff(labels.starts)) << 32 | labels.passages
    if not len(known):
        return np.full(len(ours), -1)
    near = known[np.minimum(np.searchsorted(theirs[known], ours), len(known) - 1)]
    return np.where(theirs[near] == ours, near, -1)


def _answer_order(
    name: str, scores: Float[np.ndarray, "N"], holds: Bool[np.ndarray, "N"], starts: Int64[np.ndarray, "S"]
) -> AnswerOrder:
    above, top, last = [], [], []
    for rows, mask in blocks(starts):
        values, held = padded(scores[rows], mask), padded(holds[rows], mask, 0.0) > 0
        above.append(share_above(values, held))
        for ends, worst in ((top, 1.0), (last, -1.0)):
            signed = np.where(mask, worst * values, -np.inf)
            first = mask & (signed == signed.max(1, keepdims=True))
            ends.append((first & held).sum(1) / np.maximum(first.sum(1), 1))
    shares = np.concatenate(above)
    mixed = ~np.isnan(shares)
    ends = (float(np.concatenate(values)[mixed].mean()) if mixed.any() else np.nan for values in (top, last))
    return AnswerOrder(name, estimate(shares), *ends)


def _beyond(
    scores: Float[np.ndarray, "N"],
    lengths: Float[np.ndarray, "N"],
    holds: Bool[np.ndarray, "N"],
    starts: Int64[np.ndarray, "S"],
) -> Estimate:
    shares = []
    for rows, mask in blocks(starts):
        y, x = (centred_ranks(padded(values[rows], mask, 0.0), mask) for values in (scores, lengths))
        slope = (x * y).sum(1, keepdims=True) / np.maximum((x * x).sum(1, keepdims=True), 1.0)
        left = np.round((y - slope * x) / ROUNDING) * ROUNDING
        shares.append(share_above(np.where(mask, left, np.nan), padded(holds[rows], mask, 0.0) > 0))
    return estimate(np.concatenate(shares))


def _end_tests(asked: Run, holds: Bool[np.ndarray, "N"]) -> tuple[float, float, float]:
    """The chance of a first candidate with an answer over the mixed queries, and `p` and `reversed_p` of Answers."""
    lists = [(holds[a:b], asked.scores[a:b]) for a, b in zip(asked.starts, asked.starts[1:], strict=False)]
    lists = [(held, scores) for held, scores in lists if held.any() and not held.all()]
    if not lists:
        return np.nan, np.nan, np.nan
    chances = np.array([held.mean() for held, _ in lists])
    best = np.array([scores[0] > scores[1] for _, scores in lists])
    worst = np.array([scores[-2] > scores[-1] for _, scores in lists])
    first, last = (np.array([held[end] for held, _ in lists]) for end in (0, -1))
    mass, hits = poisson_binomial(chances[best]), int(first[best].sum())
    p = min(1.0, 2 * float(min(mass[: hits + 1].sum(), mass[hits:].sum())))
    for_, against = int((best & worst & first & ~last).sum()), int((best & worst & last & ~first).sum())
    reversed_p = float(binomtest(against, for_ + against, alternative="greater").pvalue) if for_ + against else 1.0
    return float(chances.mean()), p, reversed_p
