"""The names of measures: which exist, how they print, and what is wrong with one that cannot be computed."""

import difflib
import re
from collections.abc import Sequence
from subprocess import SubprocessError

import ir_measures

ANSWER_MEASURE = re.compile(r"has_answer@([1-9][0-9]*)")


def check_measures(names: Sequence[str]) -> list[str]:
    """The names as ir-measures prints them, without repeats: for a check before long work starts.

    ValueError for a name that cannot be read (with the nearest names), for a cut below 1, and for a measure whose
    provider is not installed.

    >>> check_measures(["MRR@10", "has_answer@20"])
    ['RR@10', 'has_answer@20']
    """
    if not names:
        raise ValueError("no measure was asked for: give at least one, such as nDCG@10 or has_answer@20")
    return list(dict.fromkeys(name if ANSWER_MEASURE.fullmatch(name) else str(_parse(name)) for name in names))


def answer_depths(names: Sequence[str]) -> dict[str, int]:
    """The k of each `has_answer@k` among the names.

    >>> answer_depths(["nDCG@10", "has_answer@20"])
    {'has_answer@20': 20}
    """
    return {name: int(match[1]) for name in names if (match := ANSWER_MEASURE.fullmatch(name))}


def _parse(name: str) -> ir_measures.Measure:
    """The measure called `name`. Cuts below 1 are refused here, because pytrec_eval ends the process on them."""
    shown = "expected ir-measures notation such as nDCG@10 or R(rel=2)@100, or has_answer@k with k of 1 or more"
    try:
        measure = ir_measures.parse_measure(name)
    except NameError:
        raise ValueError(f"measure {name!r} is not known{_nearest(name)}; {shown}") from None
    except (ValueError, KeyError) as error:
        raise ValueError(f"measure {name!r} cannot be read ({error}); {shown}") from None
    known = measure.SUPPORTED_PARAMS
    wrong = [p for p, value in measure.params.items() if p not in known or not known[p].validate(value)]
    wrong += [p for p, info in known.items() if info.required and p not in measure.params]
    wrong += [p for p in ("cutoff", "rel") if not _counts(measure.params.get(p, 1))]
    if wrong:
        raise ValueError(f"measure {name!r}: its {wrong[0]} is missing, unknown or out of range; {shown}")
    try:
        list(ir_measures.evaluator([measure], {"0": {"0": 1}}).iter_calc({"0": {"0": 1.0}}))
    except (ValueError, OSError, SubprocessError) as error:
        raise ValueError(f"measure {name!r} cannot be computed on this machine: {error}") from error
    return measure


def _counts(value: object) -> bool:
    return type(value) is int and value >= 1  # True is an int to Python, and not a depth


def _nearest(name: str) -> str:
    stem = re.split(r"[@(]", name)[0]
    names = ["has_answer", *reversed(ir_measures.measures.registry)]  # reversed: nDCG goes before its alias NDCG
    known = {measure.lower(): measure for measure in names}
    close = [known[match] for match in difflib.get_close_matches(stem.lower(), known, cutoff=0.5)]
    return f": did you mean {' or '.join(c + name[len(stem) :] for c in close)}?" if close else ""
