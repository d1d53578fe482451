"""The report: plain values in, one self-contained HTML page and the same values as JSON out.

`Report` is the whole input; no measure is computed here. The page is `report.html.j2` with `report.css`; `charts.py`
draws the curves, `verdict.py` words the answer and `markup.py` says how values look.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from retort.evaluation import markup
from retort.evaluation.charts import Curve, figures
from retort.evaluation.markup import Number, measured
from retort.evaluation.significance import Comparison
from retort.evaluation.verdict import ALPHA, RunRow, answer

PAGE, DATA = "index.html", "report.json"
MOST_EXAMPLES = 20  # wins, and losses, that the page shows
SYSTEMS = ("baseline", "student", "round")  # roles that compete for the best value; a teacher or a floor does not


@dataclass(frozen=True)
class Remote:
    """What a teacher behind a server was asked in all attempts at a stage; `money` in the currency of its prices."""

    model: str
    _: KW_ONLY
    requests: Number
    retries: Number = None
    cache_hits: Number = None
    malformed: Number = None
    prompt_tokens: Number = None
    completion_tokens: Number = None
    seconds: Number = None
    money: Number = None


@dataclass(frozen=True)
class Compared:
    """What a stage took of something, unit in its name, beside what was planned."""

    what: str
    _: KW_ONLY
    planned: Number
    spent: Number


@dataclass(frozen=True)
class Cost:
    """What one stage took: `items` of `unit` in `seconds`, the peak memory of its processes in MB, and what was planned."""

    stage: str
    _: KW_ONLY
    seconds: Number
    items: Number = None
    unit: str = ""
    peak_mb: Number = None
    planned_seconds: Number = None
    compared: Sequence[Compared] = ()
    remote: Sequence[Remote] = ()


@dataclass(frozen=True)
class Shown:
    """A passage as an example shows it."""

    title: str
    _: KW_ONLY
    text: str
    score: Number = None
    relevant: bool = False


@dataclass(frozen=True)
class Example:
    """A query whose first relevant passage moved: its rank in both Runs (None: not found) and their first passages."""

    query: str
    _: KW_ONLY
    answers: Sequence[str] = ()
    before_rank: int | None
    after_rank: int | None
    before: Sequence[Shown] = ()
    after: Sequence[Shown] = ()


@dataclass(frozen=True)
class Examples:
    """The clearest wins and losses of the Run `after` over the Run `before`, the clearest first."""

    before: str
    after: str
    _: KW_ONLY
    wins: Sequence[Example] = ()
    losses: Sequence[Example] = ()


@dataclass(frozen=True)
class Looked:
    """A passage as the reader saw it: one weight for each token, in any unit, and the passage's score.

    `tokens` joined as they stand read as the passage: a space belongs to the token it precedes. ValueError where the
    lengths of `tokens` and `weights` differ.
    """

    title: str
    _: KW_ONLY
    score: Number
    tokens: Sequence[str]
    weights: Sequence[Number]
    relevant: bool = False

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.weights):
            raise ValueError(
                f"passage {self.title!r} has {len(self.tokens)} tokens but {len(self.weights)} weights: give one each"
            )


@dataclass(frozen=True)
class AttentionMap:
    """Where the reader looked for one question, passage by passage in the order given; weights share one scale."""

    query: str
    passages: Sequence[Looked]
    _: KW_ONLY
    answers: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table of its own, for what the main one has no place for (the reader's EM and F1, inversions): cells as given."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Number]]
    _: KW_ONLY
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything the page says, in plain Python values. An empty part is left out of the page with a sentence.

    `measure` is the one that the answer is given in, `chosen_here` whether its questions chose the best round. `rows` come
    in the order of the table. `curves` are the training curves; those per round are drawn from `rows`.
    ValueError: means, intervals or differences that are not of shares in 0..1 (inversions belong in `tables`), a round
    without its number, two rows of one name or both best.
    """

    title: str
    _: KW_ONLY
    measure: str
    subtitle: str = ""
    chosen_here: bool = False
    rows: Sequence[RunRow] = ()
    comparisons: Sequence[Comparison] = ()
    curves: Sequence[Curve] = ()
    tables: Sequence[Table] = ()
    costs: Sequence[Cost] = ()
    examples: Examples | None = None
    attention: Sequence[AttentionMap] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            _check_row(row)
        for comparison in self.comparisons:
            _check_share(f"{comparison.measure} of {comparison.system!r}, its difference", abs(comparison.difference))
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names) or sum(row.best for row in self.rows) > 1:
            best = [row.name for row in self.rows if row.best]
            raise ValueError(f"rows are named {names} and {best} are best: give each a name of its own and mark one")


def write_report(report: Report, folder: Path) -> Path:
    """The path of `index.html`, which needs no other file and loads none; `report.json` lies beside it.

    The JSON holds every field of `report` and its `answer`; a number that is not finite is null there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = markup.plain(answer(report.rows, report.comparisons, report.measure, chosen_here=report.chosen_here))
    values = {"answer": found, **markup.plain(report)}
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / DATA).write_text(text + "\n", encoding="utf-8")
    page = folder / PAGE
    page.write_text(_page(report, values), encoding="utf-8")
    return page


def _page(report: Report, values: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for show in (markup.percent, markup.signed, markup.p_value, markup.duration, markup.number, markup.highlight):
        environment.filters[show.__name__] = show
    round_charts, training_charts = _charts(_round_curves(report.rows)), _charts(report.curves)
    return environment.get_template("report.html.j2").render(
        values,
        measures=_measures(report.rows),
        best=_best(report.rows),
        round_charts=round_charts,
        training_charts=training_charts,
        plotly=get_plotlyjs() if round_charts or training_charts else "",
        shades=[markup.shades([passage.weights for passage in one.passages]) for one in report.attention],
        config_text=json.dumps(values["config"], indent=2, ensure_ascii=False),
        most_examples=MOST_EXAMPLES,
        alpha=ALPHA,
    )


def _charts(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    return [{"title": title, "figure": markup.plain(figure.to_plotly_json())} for title, figure in figures(curves).items()]


def _measures(rows: Sequence[RunRow]) -> list[str]:
    return list(dict.fromkeys(measure for row in rows for measure in row.means))


def _best(rows: Sequence[RunRow]) -> dict[str, float]:
    """The greatest mean of each measure among the Runs that could be put to use."""
    values = {m: [row.means.get(m) for row in rows if row.role in SYSTEMS] for m in _measures(rows)}
    return {measure: max(filter(measured, means), default=-1.0) for measure, means in values.items()}


def _round_curves(rows: Sequence[RunRow]) -> list[Curve]:
    """The student and the teacher's labels over the rounds, and level lines for the baselines, for each measure.

    Empty where fewer than two Runs stand on the axis: one point is no curve.
    """
    placed = [row for row in rows if row.round is not None]
    ends = sorted({row.round for row in placed if row.round is not None})
    if len(ends) < 2:
        return []
    curves = []
    for measure in _measures(rows):
        for name, roles in (("student", ("student", "round")), ("teacher's labels", ("teacher",))):
            points = [row for row in placed if row.role in roles and measure in row.means]
            curves += [_over_rounds(name, points, measure)] if points else []
        for row in rows:
            if row.round is None and row.role != "floor" and measured(row.means.get(measure)):
                curves.append(_level(row, measure, (ends[0], ends[-1])))
    return curves


def _over_rounds(name: str, rows: Sequence[RunRow], measure: str) -> Curve:
    intervals = [row.intervals.get(measure, (None, None)) for row in rows]
    return Curve(
        name,
        x=[row.round for row in rows],
        y=[_points(row.means[measure]) for row in rows],
        low=[_points(low) for low, _ in intervals],
        high=[_points(high) for _, high in intervals],
        x_label="round",
        y_label=measure,
        group=measure,
    )


def _level(row: RunRow, measure: str, ends: tuple[int, int]) -> Curve:
    y = [_points(row.means[measure])] * 2
    return Curve(row.name, x=ends, y=y, x_label="round", y_label=measure, group=measure, level=True)


def _points(share: Number) -> Number:
    return 100 * share if measured(share) else None


def _check_row(row: RunRow) -> None:
    if row.role == "round" and row.round is None:
        raise ValueError(f"run {row.name!r} has the role 'round' but no round: give its number, 1 for the first")
    for measure, mean in row.means.items():
        for share in (mean, *row.intervals.get(measure, ())):
            _check_share(f"{measure} of run {row.name!r}", share)


def _check_share(what: str, share: Number) -> None:
    if measured(share) and not -1e-6 <= share <= 1 + 1e-6:  # room for rounding
        raise ValueError(f"{what} is {share}, expected a share in 0..1: give it as measured, not times 100")
