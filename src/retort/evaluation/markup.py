"""How values look in the report: numbers, p-values, times, highlighted answers, shares of attention.

Pure functions of plain values. Nothing here knows the report's records or its page.
"""

import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, TypeGuard

import regex
from markupsafe import Markup, escape

from retort.text import dpr_tokens

Number = int | float | None  # a value of a report; None or NaN: not measured

MISSING = "\u2013"  # en dash
MINUS = "\u2212"  # as wide as +, unlike the hyphen
_WORD = r"[\p{L}\p{N}\p{M}]"


def plain(record: object) -> dict[str, Any]:
    """A tree of dataclasses or dicts as JSON values: numbers that are not finite become None, tuples become lists.

    >>> plain({"loss": math.nan, "steps": (1, 2)})
    {'loss': None, 'steps': [1, 2]}
    """
    tree = asdict(record) if is_dataclass(record) and not isinstance(record, type) else record
    return json.loads(json.dumps(tree), parse_constant=lambda _: None)


def measured(value: Number) -> TypeGuard[int | float]:
    """Whether `value` is there and finite.

    >>> measured(0.0), measured(None), measured(math.nan)
    (True, False, False)
    """
    return value is not None and math.isfinite(value)


def percent(share: Number) -> str:
    """A share in 0..1 times 100 with one decimal, without a sign for per cent, as the field prints measures.

    >>> percent(0.6213), percent(None) == MISSING
    ('62.1', True)
    """
    return f"{100 * share:.1f}" if measured(share) else MISSING


def signed(share: Number) -> str:
    """A difference of shares in points (times 100) with its sign, a true minus; what rounds to nothing has none.

    >>> signed(0.206), signed(-0.0821).replace(MINUS, "-"), signed(-0.0001)
    ('+20.6', '-8.2', '0.0')
    """
    if not measured(share):
        return MISSING
    points = round(100 * share, 1) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{points:+.1f}".replace("-", MINUS) if points else "0.0"


def p_value(p: Number) -> str:
    """A p-value as it is printed: three decimals, and never zero, since a randomisation test cannot find that.

    >>> p_value(0.0213), p_value(0.0001)
    ('0.021', '< 0.001')
    """
    if not measured(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: Number) -> str:
    """A time in the two largest units that it fills.

    >>> duration(4.26), duration(83), duration(7384)
    ('4.3 s', '1 min 23 s', '2 h 03 min')
    """
    if not measured(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: Number) -> str:
    """A count or a rate: whole with thousands marked, and below 100 three significant digits where it is not whole.

    >>> number(1234567), number(1234.5), number(3.14159)
    ('1,234,567', '1,234', '3.14')
    """
    if not measured(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def highlight(text: str, answers: Sequence[str]) -> Markup:
    """`text` escaped for HTML, with <mark> around every answer that `retort.text.has_answer` finds in it.

    >>> print(highlight("a <b> in the U.S. army", ["u.s."]))
    a &lt;b&gt; in the <mark>U.S.</mark> army
    """
    patterns = [_pattern(tokens) for answer in answers if (tokens := dpr_tokens(answer))]
    if not patterns:
        return escape(text)
    decomposed = unicodedata.normalize("NFD", text)  # as has_answer compares; recomposed below for the eye
    pieces, end = [], 0
    for match in regex.finditer("|".join(sorted(patterns, key=len, reverse=True)), decomposed, regex.IGNORECASE):
        pieces += [_escaped(decomposed[end : match.start()]), Markup("<mark>%s</mark>") % _escaped(match.group())]
        end = match.end()
    return Markup("").join([*pieces, _escaped(decomposed[end:])])


def _pattern(tokens: Sequence[str]) -> str:
    """A pattern of the tokens as whole tokens of DPR, with nothing but separators and control signs between them."""
    whole = (
        rf"(?<!{_WORD}){regex.escape(token)}(?!{_WORD})" if regex.match(_WORD, token) else regex.escape(token)
        for token in tokens
    )
    return r"[\p{Z}\p{C}]*".join(whole)


def _escaped(text: str) -> Markup:
    return escape(unicodedata.normalize("NFC", text))


def shades(weights: Sequence[Sequence[Number]]) -> list[list[float]]:
    """The square root of each weight's place between the least and the greatest of all lists, in 0..1.

    One scale for all passages of a question, so that they compare; the root because a few tokens hold most attention.

    >>> shades([[0.0, 4.0], [1.0]])
    [[0.0, 1.0], [0.5]]
    """
    values = [weight for row in weights for weight in row if measured(weight)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [[_shade(weight, low, high) for weight in row] for row in weights]


def _shade(weight: int | float | None, low: float, high: float) -> float:
    if not measured(weight) or high == low:
        return 0.0
    return round(math.sqrt((weight - low) / (high - low)), 2)
