"""All that a run proves, gathered from its folders into one report: tables, curves, costs, examples, heat-maps."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from retort.auditing import audit_round
from retort.evaluation.audit import tables
from retort.evaluation.charts import Curve
from retort.evaluation.metrics import PerQuery
from retort.evaluation.report import (
    AttentionMap,
    Cost,
    Example,
    Examples,
    Looked,
    Remote,
    Report,
    Shown,
    Table,
    write_report,
)
from retort.evaluation.significance import Comparison, compare
from retort.evaluation.verdict import Role, RunRow
from retort.evidence import AGREEMENT, RESULTS, SUMMARY, Steps, headline, left_by_query_side, round_runs, stage_path
from retort.labelling import LABELS
from retort.plan import Step, refresh_of
from retort.prepared import Prepared
from retort.records import Query, Run
from retort.refreshing import MADE_BY, REFRESH
from retort.spending import compared
from retort.store import BILL, COST, read_json
from retort.text import AnswerMatcher

UNTOUCHED, BM25 = "untouched", "bm25"
ROLES: dict[str, Role] = {BM25: "baseline", UNTOUCHED: "student", "teacher": "teacher", "round": "round"}


def gather_report(steps: Steps, step: Step, prepared: Prepared) -> int:
    """The number of the best round, chosen on dev; index.html and report.json are in the step's folder.

    0 where no round's student is better than the untouched one. What a page can show of one round only, it shows of the
    best, or then of the last.
    """
    deciding, split = headline(step.config, prepared), _last_split(prepared)
    rounds = range(1, step.config.rounds + 1)
    summaries = [read_json(stage_path(steps, number, "evaluate") / SUMMARY) for number in range(step.config.rounds + 1)]
    best = max(range(len(summaries)), key=lambda number: summaries[number]["dev"][student_name(number)]["means"][deciding])
    shown = best or rounds[-1]
    rows = [
        _run_row(name, facts, best) for summary in summaries for name, facts in summary[split].items() if name != "reader"
    ]
    report = Report(
        title=step.path.parent.name,
        measure=deciding,
        subtitle=f"{split} split: {len(prepared.splits[split])} questions, {len(prepared.corpus)} passages",
        chosen_here=split == "dev",
        rows=rows,
        comparisons=_comparisons(steps, step, split, deciding, shown),
        curves=_curves(steps, rounds),
        tables=[
            *_reader_tables(summaries, split),
            _agreement_table(steps, rounds),
            *_audit_tables(steps, shown, prepared),
            *_refresh_tables(steps, rounds),
            *_query_side_tables(steps, rounds, deciding),
        ],
        costs=_costs(steps),
        examples=_examples(steps, step, prepared, split, deciding, shown),
        attention=_maps(steps, prepared, shown)[: step.config.report.maps],
        config=json.loads((step.path.parent / "config.json").read_text()),
        environment=_environment(),
    )
    write_report(report, step.path)
    return best


def student_name(number: int) -> str:
    """What the Run of a round's student is called.

    >>> student_name(0), student_name(2)
    ('untouched', 'round-2')
    """
    return f"round-{number}" if number else UNTOUCHED


def _last_split(prepared: Prepared) -> str:
    return "test" if prepared.splits.get("test") else "dev"


def _run_row(name: str, facts: Mapping[str, Any], best: int) -> RunRow:
    kind, _, number = name.partition("-")
    role = ROLES.get(kind, "floor")
    place = int(number) if number else 0 if name == UNTOUCHED else None
    intervals = {measure: (low, high) for measure, (low, high) in facts["intervals"].items()}
    return RunRow(
        name,
        role=role,
        means=facts["means"],
        intervals=intervals,
        round=place,
        best=name == student_name(best),
    )


def _results(steps: Steps, number: int, split: str, name: str | None = None) -> PerQuery:
    """What was measured of a Run of a round, its student's if no other is named."""
    return PerQuery.read(stage_path(steps, number, "evaluate") / RESULTS / f"{split}.{name or student_name(number)}.parquet")


def _comparisons(steps: Steps, step: Step, split: str, measure: str, shown: int) -> list[Comparison]:
    """The round that is shown against BM25 and the untouched student, and each against the one before; one Holm family."""
    students = [_results(steps, number, split) for number in range(step.config.rounds + 1)]
    system, bm25 = students[shown], _results(steps, 0, split, BM25)
    rivals = dict.fromkeys([(shown, 0), *((number, number - 1) for number in range(1, len(students)))])
    pairs = [(system, bm25), *((students[new], students[old]) for new, old in rivals)]
    more = (name for name in ("R@5", "R@20", "has_answer@20") if name in system.measures)
    settings, rng = step.config.evaluate, np.random.default_rng([step.config.seed, 1])
    return compare(pairs, measures=list(dict.fromkeys([measure, *more])), rng=rng, samples=settings.samples)


def _curves(steps: Steps, rounds: Sequence[int]) -> list[Curve]:
    """Every value that the logs of the readers and students hold, by step."""
    curves = []
    for stage, who in (("read", "Reader"), ("distil", "Student")):
        for number in (number for number in rounds if f"round-{number}/{stage}" in steps):
            lines = [json.loads(line) for line in (stage_path(steps, number, stage) / "log.jsonl").read_text().splitlines()]
            for value in sorted({name for line in lines for name in line} - {"step", "learning_rate", "gradient_norm"}):
                points = [(line["step"], line[value]) for line in lines if line.get(value) is not None]
                x, y = [point[0] for point in points], [point[1] for point in points]
                group = f"{who}: {value}"
                curves.append(Curve(f"round {number}", x=x, y=y, x_label="step", y_label=value, group=group))
    return curves


def _reader_tables(summaries: Sequence[Mapping[str, Any]], split: str) -> list[Table]:
    """How well the readers answer, where there are readers."""
    rows = [[number, *(summary[split]["reader"]["means"][name] for name in ("EM", "F1"))]
            for number, summary in enumerate(summaries) if "reader" in summary[split]]  # fmt: skip
    return [Table("Reader", ["round", "EM", "F1"], rows, note=f"Greedy answers on the {split} questions.")] if rows else []


def _audit_tables(steps: Steps, best: int, prepared: Prepared) -> list[Table]:
    """What the audit says of the labels that the best round was trained on."""
    return tables(audit_round(steps, best, prepared))


def _refresh_tables(steps: Steps, rounds: Sequence[int]) -> list[Table]:
    """How old the vectors are that each round searches, where a round may keep those of another to re-rank."""
    made = [steps[f"round-{number}/encode"] for number in rounds]
    if not {refresh_of(step.config, step.round) for step in made} & {"rerank", "auto"}:
        return []
    found = [step.folder.manifest() for step in made]
    measured = list(dict.fromkeys(name for facts in found for name in facts if name.startswith("overlap@")))
    columns = [REFRESH, MADE_BY, *measured]
    rows = [[number, *map(facts.get, columns)] for number, facts in zip(rounds, found, strict=True)]
    note = (
        "full: the corpus was encoded anew; rerank: what older vectors found was ranked by fresh ones; keep: vectors that "
        "do not change. Overlap: how many of the first passages stay among them by fresh vectors, over dev questions."
    )
    return [Table("Freshness of the search", ["round", *columns], rows, note=note)]


def _query_side_tables(steps: Steps, rounds: Sequence[int], measure: str) -> list[Table]:
    """What rounds that trained the query side alone leave on the table."""
    alone = [number for number in rounds if refresh_of(steps[f"round-{number}/encode"].config, number) == "keep"]
    rows = [left_by_query_side(steps, number, measure) for number in alone]
    if not rows:
        return []
    note = (
        "On dev, with an interval; encoding the corpus anew would change nothing, as the passages' tower has not changed. "
        "Against a run beside this one that trained both sides on the same labels, or, without one, against the labels as a "
        "ranking of their candidates: both sides could add about so much at most by learning them."
    )
    return [Table("What training the query side alone leaves", list(rows[0]), [[*row.values()] for row in rows], note=note)]


def _agreement_table(steps: Steps, rounds: Sequence[int]) -> Table:
    found = {number: read_json(stage_path(steps, number, "evaluate") / AGREEMENT) for number in rounds}
    names = list(dict.fromkeys(name for facts in found.values() for name in facts))
    rows = [[number, *(facts.get(name) for name in names)] for number, facts in found.items()]
    note = "Dev questions, over the candidates that both hold (methods of FiD's retriever evaluation)."
    return Table("Student against its labels", ["round", *names], rows, note=note)


def _costs(steps: Steps) -> list[Cost]:
    found = [(name, read_json(step.path / COST)) for name, step in steps.items() if (step.path / COST).exists()]
    file = steps["prepare"].path.parent / BILL
    planned = read_json(file)["steps"] if file.exists() else {}
    return [
        Cost(
            name, seconds=cost["seconds"], items=cost["items"], unit=cost["unit"], peak_mb=cost["peak_mb"],
            planned_seconds=planned.get(name, {}).get("seconds"),
            compared=compared(steps[name].stage, planned.get(name, {}), cost, steps[name].path),
            remote=[Remote(**one) for one in cost.get("remote", [])],
        )
        for name, cost in found
    ]  # fmt: skip


def _examples(steps: Steps, step: Step, prepared: Prepared, split: str, measure: str, best: int) -> Examples:
    """The questions that the best round gained and lost most on, against the untouched student."""
    before, after = (
        Run.read(stage_path(steps, 0, "retrieve") / "student.parquet"),
        round_runs(steps, steps[f"round-{best}/evaluate"])[1],
    )
    old, new = _results(steps, 0, split), _results(steps, best, split)
    gain = new.measures[measure] - old.measures[measure]
    order = np.argsort(-gain, kind="stable")
    queries = {query.id: query for query in prepared.splits[split]}
    judge = _Judge(prepared, split)
    count = step.config.report.examples
    wins = [queries[new.query_ids[i]] for i in order[:count] if gain[i] > 0]
    losses = [queries[new.query_ids[i]] for i in order[::-1][:count] if gain[i] < 0]
    return Examples(
        UNTOUCHED,
        f"round-{best}",
        wins=[judge.example(query, before, after) for query in wins],
        losses=[judge.example(query, before, after) for query in losses],
    )


class _Judge:
    """Whether a passage is right for a question: by its grade where there are grades, else by its answer."""

    def __init__(self, prepared: Prepared, split: str) -> None:
        self._corpus, self._qrels = prepared.corpus, prepared.qrels(split)

    def example(self, query: Query, before: Run, after: Run) -> Example:
        """A question with the first passages of both Runs."""
        (old, old_rank), (new, new_rank) = self._shown(query, before), self._shown(query, after)
        return Example(query.text, answers=query.answers, before_rank=old_rank, after_rank=new_rank, before=old, after=new)

    def _shown(self, query: Query, run: Run) -> tuple[list[Shown], int | None]:
        rows, scores = run.of(query.id)
        right = [self._right(query, row) for row in rows.tolist()]
        shown = []
        for row, score, relevant in list(zip(rows.tolist(), scores.tolist(), right, strict=True))[:3]:
            passage = self._corpus[row]
            shown.append(Shown(passage.title, text=passage.text, score=score, relevant=relevant))
        return shown, right.index(True) + 1 if True in right else None

    def _right(self, query: Query, row: int) -> bool:
        passage = self._corpus[row]
        if self._qrels is not None:
            return self._qrels.grades.get(query.id, {}).get(passage.id, 0) > 0
        return AnswerMatcher(query.answers).matches(passage.text)


def _maps(steps: Steps, prepared: Prepared, best: int) -> list[AttentionMap]:
    """Where the reader of the best round looked, for the questions that the label stage kept; nothing without a reader."""
    if not steps[f"round-{best}/label"].config.label.reads:
        return []
    kept = read_json(stage_path(steps, best, "label") / "maps.json")
    labels, queries = Run.read(stage_path(steps, best, "label") / LABELS), {q.id: q for q in prepared.queries}
    maps = []
    for query_id, looked in kept.items():
        query, (rows, scores) = queries[query_id], labels.of(query_id)
        shown = []
        for row, score, (tokens, weights) in zip(rows.tolist(), scores.tolist(), looked, strict=False):
            passage = prepared.corpus[row]
            right = bool(query.answers) and AnswerMatcher(query.answers).matches(passage.text)
            shown.append(Looked(passage.title, score=score, tokens=tokens, weights=weights, relevant=right))
        maps.append(AttentionMap(query.text, shown, answers=query.answers))
    return maps


def _environment() -> dict[str, str]:
    packages = (
        "retort-ir",
        "torch",
        "transformers",
        "sentence-transformers",
        "accelerate",
        "bm25s",
        "faiss-cpu",
        "ir-measures",
    )
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        **{package: version(package) for package in packages},
    }
