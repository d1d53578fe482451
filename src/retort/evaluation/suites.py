"""Several test collections as one table, as BEIR prints it: a row for each system, a column for each dataset, the average.

Means go in; what is measured on one collection is in metrics.py.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean

from retort.evaluation.markup import percent

Means = Mapping[str, float]  # by measure, as `PerQuery.means` gives them
AVERAGE = "average"


@dataclass(frozen=True)
class SuiteTable:
    """One measure of each system on each of `datasets`, and its mean over them; None where something was not measured."""

    measure: str
    datasets: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    averages: Mapping[str, float | None]

    def __str__(self) -> str:
        """The table in Markdown, values times 100 with one decimal."""
        lines = [[self.measure, *self.datasets, AVERAGE]]
        lines += [[name, *map(percent, row), percent(self.averages[name])] for name, row in self.rows.items()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
        aligned = [[cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])] for cells in lines]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in aligned)


def suite_table(
    results: Mapping[str, Mapping[str, Means]], measure: str, *, in_domain: Collection[str] = ("msmarco",)
) -> SuiteTable:
    """`measure` of `results[system][dataset]`, and each system's mean over the datasets, every dataset alike (BEIR).

    A name with a slash is a part: "cqadupstack/english" and the other eleven count as one dataset, by their mean. Datasets
    `in_domain`, on whose questions systems were trained, are shown and left out of the average. A system that lacks a
    dataset, or a part of one, has no value there and no average, since that of other datasets compares with nothing.
    ValueError: no result, or one without the measure.

    >>> bm25 = {"scifact": {"nDCG@10": 0.6}, "cqadupstack/gis": {"nDCG@10": 0.3}, "cqadupstack/tex": {"nDCG@10": 0.1}}
    >>> print(suite_table({"bm25": bm25}, "nDCG@10"))
    | nDCG@10 | scifact | cqadupstack | average |
    | ------- | ------: | ----------: | ------: |
    | bm25    |    60.0 |        20.0 |    40.0 |
    """
    parts: dict[str, dict[str, None]] = {}
    for name in (name for datasets in results.values() for name in datasets):
        parts.setdefault(name.partition("/")[0], {})[name] = None
    if not parts:
        raise ValueError("no results to tabulate: expected at least one system that was evaluated on a dataset")
    rows = {
        system: {name: _mean([_value(datasets, part, measure, system) for part in names]) for name, names in parts.items()}
        for system, datasets in results.items()
    }
    averaged = [name for name in parts if name not in in_domain]
    averages = {system: _mean([row[name] for name in averaged]) for system, row in rows.items()}
    return SuiteTable(measure, tuple(parts), {system: tuple(row.values()) for system, row in rows.items()}, averages)


def _value(datasets: Mapping[str, Means], name: str, measure: str, system: str) -> float | None:
    """The measure on a dataset; None where the system was not run on it."""
    means = datasets.get(name)
    if means is not None and measure not in means:
        raise ValueError(
            f"{system!r} has no {measure} on {name!r}, only {', '.join(means) or 'nothing'}: evaluate it with that measure"
        )
    return None if means is None else means[measure]


def _mean(values: Collection[float | None]) -> float | None:
    """The mean, None where a value is missing or there is none."""
    known = [value for value in values if value is not None]
    return fmean(known) if values and len(known) == len(values) else None
