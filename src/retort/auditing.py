"""Whether labels are worth training on: the audit of a round before its student is trained, and of any file of scores.

Between the pipeline and the families; what an audit looks at is in evaluation/audit.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from retort.config import load
from retort.data import read_corpus, read_queries, read_scores
from retort.evaluation.audit import Audit, audit_labels
from retort.labelling import LABELS
from retort.plan import Step, plan
from retort.prepared import Prepared, asked_of
from retort.records import Corpus, Run

AUDIT = "audit.json"
REFUSED = "do not train"


def audits(labels: Path, corpus: str | None, queries: str | None, others: Sequence[str]) -> list[Audit]:
    """The audits of all labelled rounds of the run in a folder, or the one of a file of scores.

    ValueError: a folder without a labelled round, a file without its corpus and questions.
    """
    if (labels / "config.json").is_file():
        steps = plan(load(labels / "config.json"), labels)
        made = [number for number in range(1, 1 + max(step.round for step in steps.values()))
                if (labels / f"round-{number}" / "label" / LABELS).is_file()]  # fmt: skip
        if not made:
            raise ValueError(f"{labels} holds no labels yet, expected round-1/label/{LABELS}: run `retort label` first")
        return [audit_round(steps, number, Prepared(labels / "prepare")) for number in made]
    if corpus is None or queries is None:
        raise ValueError(
            f"{labels} is not the folder of a run, so it is taken for a file of scores: give --corpus and --queries"
        )
    return [audit_file(str(labels), corpus, queries, others)]


def audit_round(steps: Mapping[str, Step], number: int, prepared: Prepared) -> Audit:
    """The audit of a round's labels of the train questions, beside BM25, the student's last search, each teacher alone."""
    label, settings = steps[f"round-{number}/label"].path, steps[f"round-{number}/label"].config
    queries = prepared.splits["train"]
    files = {
        "bm25": steps["round-0/retrieve"].path / "bm25.parquet",
        "student before": steps[f"round-{number - 1}/retrieve"].path / "student.parquet",
        **{f"teacher {path.stem.partition('-')[2]} alone": path for path in sorted(label.glob("teacher-*.parquet"))},
    }
    others = [replace(asked_of(Run.read(path), queries), name=name) for name, path in files.items()]
    temperatures = [one.teacher_temperature for one in settings.distil.objectives if one.teacher_temperature]
    labels = asked_of(Run.read(label / LABELS), queries)
    return audit_labels(labels, prepared.corpus, queries=queries, others=others, temperature=[*temperatures, 1.0][0])


def audit_file(scores: str, corpus: str, queries: str, others: Sequence[str] = ()) -> Audit:
    """The audit of a file of teacher scores, in any form that is read, beside other files of scores such as BM25's."""
    passages, asked = Corpus.from_passages(read_corpus(corpus)), read_queries(queries)
    runs = [replace(read_scores(file, asked, passages).run, name=Path(file).stem) for file in (scores, *others)]
    known = [query_id for query_id, rows, _ in runs[0] if len(rows)]
    return audit_labels(runs[0].select(known), passages, queries=asked, others=runs[1:])


def heed(found: Audit, *, refuse: bool, say: Callable[[str], None]) -> None:
    """Say the verdict and its reasons, where it is not "train".

    With `refuse`, ValueError where the labels should not be trained on.
    """
    if found.verdict == "train":
        return
    gravity = "stop" if found.verdict == REFUSED else "care"
    reasons = "; ".join(reason.text.rstrip(".") for reason in found.reasons if reason.gravity == gravity)
    text = f"the audit of {found.name} says: {found.verdict}, because {reasons}."
    if refuse and found.verdict == REFUSED:
        raise ValueError(f"{text} Mend the teacher, or set distil.audit to 'warn' to train all the same")
    say(text)
