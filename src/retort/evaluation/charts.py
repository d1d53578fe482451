"""The report's line charts: curves grouped into plotly figures that read on a light and on a dark page.

Text and grid colours are left to the page's style sheet, which knows the reader's colour scheme. No file is written here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import plotly.graph_objects as go

from retort.evaluation.markup import Number, measured

COLOURS = ("#3987e5", "#d95926", "#199e70", "#8f7ae0", "#d55181", "#b07d00")  # each > 3:1 on white and on #15181c
DASHES = ("solid", "dash", "dot", "dashdot")  # a curve is never told by its colour alone
LEVEL_DASHES = ("dash", "dot", "dashdot", "longdash")
LEVEL_COLOUR = "#7d8590"
MOST_POINTS = 200  # of a drawn curve: longer logs are averaged in blocks, since noise hides the trend
HEIGHT_PIXELS = 300


@dataclass(frozen=True)
class Curve:
    """One line of a chart; curves of the same `group` share a chart, whose title the group is.

    `low` and `high` are the ends of an interval around each point. A `level` is a reference line (a baseline) in grey.
    ValueError where the lengths of `x`, `y`, `low` and `high` differ.
    """

    name: str
    _: KW_ONLY
    x: Sequence[Number]
    y: Sequence[Number]
    x_label: str
    y_label: str
    group: str
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()
    level: bool = False

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (self.x, self.y, self.low or self.x, self.high or self.x)}
        if len(lengths) > 1:
            raise ValueError(
                f"curve {self.name!r} of {self.group!r} has {len(self.x)} x, {len(self.y)} y, {len(self.low)} low and "
                f"{len(self.high)} high values: give one of each per point"
            )


def figures(curves: Sequence[Curve]) -> dict[str, go.Figure]:
    """One figure for each group, in the order of first appearance; a curve's name has one colour in all of them.

    >>> one = Curve("round 1", x=[0, 1], y=[2.0, 1.5], x_label="step", y_label="loss", group="Reader: loss")
    >>> {title: len(figure.data) for title, figure in figures([one]).items()}
    {'Reader: loss': 1}
    """
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    colours = _numbered(curve.name for curve in curves if not curve.level)
    levels = _numbered(curve.name for curve in curves if curve.level)
    return {
        group: go.Figure([_trace(curve, levels if curve.level else colours) for curve in members], _layout(members[0]))
        for group, members in groups.items()
    }


def thinned(values: Sequence[Number], most: int = MOST_POINTS) -> list[float | None]:
    """`values` averaged in equal blocks so that at most `most` remain; unmeasured values are left out of a block's mean.

    >>> thinned([1.0, 3.0, 5.0, math.nan, 9.0], most=3)
    [2.0, 5.0, 9.0]
    """
    block = max(1, math.ceil(len(values) / most))
    return [_mean(values[start : start + block]) for start in range(0, len(values), block)]


def _mean(values: Sequence[Number]) -> float | None:
    found = [value for value in values if measured(value)]
    return sum(found) / len(found) if found else None


def _numbered(names: Iterable[str]) -> Mapping[str, int]:
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _trace(curve: Curve, numbers: Mapping[str, int]) -> go.Scatter:
    number = numbers[curve.name]
    x, y = thinned(curve.x), thinned(curve.y)
    few = len(x) <= 30  # above it, markers merge into a thick line
    colour = LEVEL_COLOUR if curve.level else COLOURS[number % len(COLOURS)]
    dashes = LEVEL_DASHES if curve.level else DASHES
    turn = number if curve.level else number // len(COLOURS)
    return go.Scatter(
        name=curve.name,
        x=x,
        y=y,
        mode="lines+markers" if few and not curve.level else "lines",
        line={"color": colour, "width": 1.5 if curve.level else 2, "dash": dashes[turn % len(dashes)]},
        marker={"size": 8, "symbol": number},
        error_y=_whiskers(curve, y, colour),
        hovertemplate="%{y:.4~g}",
    )


def _whiskers(curve: Curve, y: Sequence[float | None], colour: str) -> dict[str, object] | None:
    if not (curve.low and curve.high):
        return None
    low, high = thinned(curve.low), thinned(curve.high)
    return {
        "type": "data",
        "symmetric": False,
        "array": [_gap(top, middle) for middle, top in zip(y, high, strict=True)],
        "arrayminus": [_gap(middle, bottom) for middle, bottom in zip(y, low, strict=True)],
        "thickness": 1.2,
        "width": 4,
        "color": colour,
    }


def _gap(above: float | None, below: float | None) -> float:
    return 0.0 if above is None or below is None else max(0.0, above - below)


def _layout(curve: Curve) -> go.Layout:
    font = {"size": 12.5, "family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"}
    y_label = curve.y_label if curve.y_label != curve.group else ""  # the chart's title says it
    x_axis = {"title": {"text": curve.x_label, "standoff": 8, "font": font}, "showgrid": False, "zeroline": False}
    y_axis = {"title": {"text": y_label, "standoff": 10, "font": font}, "zeroline": False, "automargin": True, "nticks": 6}
    steps = {"dtick": 1} if curve.x_label == "round" else {}
    return go.Layout(
        template="none",
        height=HEIGHT_PIXELS,
        margin={"l": 48, "r": 12, "t": 8, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font=font,
        xaxis=x_axis | steps | {"showline": True, "ticks": "outside", "ticklen": 4, "fixedrange": True},
        yaxis=y_axis | {"fixedrange": True},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        showlegend=True,
        hovermode="x unified",
    )
