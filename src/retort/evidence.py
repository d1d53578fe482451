"""What a round proves: the measures of its Runs for each question, with intervals, floors, and agreement with its labels.

Between the pipeline and the families: reads stage folders, hands plain values to the family's pure functions.
"""

import filecmp
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retort.config import Config, load
from retort.evaluation.agreement import run_agreement
from retort.evaluation.floors import answer_floors
from retort.evaluation.measure_names import check_measures
from retort.evaluation.metrics import PerQuery, answer_scores, evaluate
from retort.evaluation.significance import bootstrap_interval
from retort.job import Job
from retort.labelling import LABELS
from retort.plan import Step, plan
from retort.prepared import Prepared, asked_of
from retort.records import Run
from retort.searching import search_pool
from retort.store import read_json, write_json
from retort.students.loading import InTraining

Steps = Mapping[str, Step]
RESULTS, SUMMARY, AGREEMENT = "results", "summary.json", "agreement.json"


def evaluate_round(steps: Steps, step: Step, prepared: Prepared) -> int:
    """How many Runs were measured, into results/{split}.{run}.parquet for each question and summary.json."""
    rng = np.random.default_rng([step.config.seed, step.round])
    (step.path / RESULTS).mkdir(exist_ok=True)
    summary: dict[str, Any] = {}
    count = 0
    for split in ("dev", "test"):
        queries = prepared.splits.get(split)
        if not queries:
            continue
        # labels from a file often say nothing of test
        runs = [run for run in round_runs(steps, step) if not step.round or len(asked_of(run, queries).passages)]
        results = {run.name: _measured(run, split, step, prepared) for run in runs}
        if step.round:
            answers = _reader_answers(steps, step)
            asked = [query for query in queries if query.answers]
            if answers is not None and asked:
                results["reader"] = answer_scores({q.id: answers.get(q.id, "") for q in asked}, queries=asked)
        else:
            results |= _floors(round_runs(steps, step)[-1], split, step, prepared, rng)
        for name, result in results.items():
            result.write(step.path / RESULTS / f"{split}.{name}.parquet")
        summary[split] = {name: _row(result, step, rng) for name, result in results.items()}
        count += len(results)
    write_json(step.path / SUMMARY, summary)
    if step.round:
        write_json(step.path / AGREEMENT, _agreement(steps, step, prepared))
    return count


def answers_found(student: InTraining, labels: Run, prepared: Prepared, measure: str, job: Job) -> float:
    """has_answer@k of a student on the dev questions, searching all of their labelled candidates together.

    The candidates of all questions stand for the corpus, so that a student can be judged in training without encoding it.
    """
    queries = [query for query in prepared.splits["dev"] if query.answers]
    pool = np.unique(asked_of(labels, queries).passages)
    passages = [prepared.corpus[row] for row in pool.tolist()]
    scores, places = search_pool(student, passages, queries, int(measure.partition("@")[2]), job)
    run = Run.build("dev", [query.id for query in queries], [pool[found] for found in places], scores)
    return evaluate(run, prepared.corpus, queries=queries, measures=[measure]).means()[measure]


def stage_path(steps: Steps, number: int, stage: str) -> Path:
    """The folder of a stage of a round."""
    return steps[f"round-{number}/{stage}"].path


def round_runs(steps: Steps, step: Step) -> list[Run]:
    """The Runs that a round adds: BM25 and the untouched student, or the teacher's labels and the round's student."""
    found = stage_path(steps, step.round, "retrieve")
    if step.round == 0:
        return [Run.read(found / "bm25.parquet"), Run.read(found / "student.parquet")]
    return [Run.read(stage_path(steps, step.round, "label") / LABELS), Run.read(found / "student.parquet")]


def left_by_query_side(steps: Steps, number: int, measure: str) -> dict[str, Any]:
    """What a round that trained the query side alone leaves on the table: a row of the report, on dev.

    Against the best student that trained both sides on the very same labels, in a run beside this one. Where there is none,
    against the labels themselves as a ranking: what imitating them could still add, so an estimate of the most.
    """
    step = steps[f"round-{number}/evaluate"]
    own, settings = _dev_result(step, f"round-{number}"), step.config.evaluate
    found = [one for one in _fully_trained(steps, number).items() if measure in one[1].measures]
    labels = f"teacher-{number} as a ranking: at most about", _dev_result(step, f"teacher-{number}")
    name, rival = max(found, key=lambda one: one[1].means()[measure], default=labels)
    gap = rival.select(own.query_ids).measures[measure] - own.measures[measure]
    rng = np.random.default_rng([step.config.seed, number])
    low, high = bootstrap_interval(gap, rng=rng, samples=settings.samples)
    means = {f"dev {measure}": own.means()[measure], "its dev": rival.means()[measure]}
    return {"round": number, "against": name, **means, "left": float(gap.mean()), "from": low, "to": high}


def headline(config: Config, prepared: Prepared) -> str:
    """The measure that decides: the one that the config names, else nDCG@10, has_answer@20, or what else there is.

    It has to be measured on dev, where the best round is chosen, and on test. ValueError where it is not.
    """
    splits = [split for split in ("dev", "test") if prepared.splits.get(split)]
    measured = [measures_of(split, config, prepared) for split in splits]
    both = [name for name in measured[0] if all(name in names for names in measured)]
    wanted = config.evaluate.headline
    if wanted and check_measures([wanted])[0] not in both:
        raise ValueError(f"evaluate.headline is {wanted!r}, expected one that is measured on {splits}: {both}")
    if not both:
        raise ValueError(f"no measure is common to {splits}: {measured}; give both grades, or answers to all questions")
    preferred = (check_measures([wanted]) if wanted else []) + ["nDCG@10", "has_answer@20", *both]
    return next(name for name in preferred if name in both)


def measures_of(split: str, config: Config, prepared: Prepared) -> list[str]:
    """ir-measures where the split has grades, has_answer where all its questions have answers; ValueError without any."""
    names = list(config.evaluate.measures) if prepared.qrels(split) else []
    if all(query.answers for query in prepared.splits[split]):
        names += [f"has_answer@{k}" for k in config.evaluate.answers_at]
    measures = check_measures(names) if names else []
    if not measures:
        raise ValueError(
            f"the {split} questions have neither grades nor answers: nothing can be measured; give prepare.qrels"
        )
    return measures


def _dev_result(step: Step, name: str) -> PerQuery:
    return PerQuery.read(step.path / RESULTS / f"dev.{name}.parquet")


def _fully_trained(steps: Steps, number: int) -> dict[str, PerQuery]:
    """Dev results of rounds beside this run that trained both sides of the same model on the same labels, by name."""
    prepare, label = steps["prepare"], steps[f"round-{number}/label"]
    found = {}
    for file in sorted(prepare.path.resolve().parents[1].glob("*/config.json")):
        root, labels = file.parent, file.parent / label.name / LABELS
        if not labels.is_file() or not filecmp.cmp(labels, label.path / LABELS, shallow=False):
            continue
        try:
            beside = plan(load(file), root, known={"prepare": prepare.folder.key})
        except ValueError:  # a config of another version
            continue
        step = beside.get(f"round-{number}/evaluate")
        if step is None or {beside["prepare"].folder.state(), step.folder.state()} != {"done"}:
            continue
        student = step.config.distil.student
        if student.query_side is None and student.model == label.config.distil.student.model:
            found[f"round-{number} of {root.name}, both sides"] = _dev_result(step, f"round-{number}")
    return found


def _reader_answers(steps: Steps, step: Step) -> dict[str, str] | None:
    """What the reader of a round answered; None where the round has no reader."""
    return read_json(stage_path(steps, step.round, "label") / "answers.json") if step.config.label.reads else None


def _measured(run: Run, split: str, step: Step, prepared: Prepared) -> PerQuery:
    measures, queries = measures_of(split, step.config, prepared), prepared.splits[split]
    return evaluate(run, prepared.corpus, queries=queries, measures=measures, qrels=prepared.qrels(split))


def _floors(run: Run, split: str, step: Step, prepared: Prepared, rng: np.random.Generator) -> dict[str, PerQuery]:
    """What has_answer@k is worth here: with another question's answers, and with random passages."""
    measures = [name for name in measures_of(split, step.config, prepared) if name.startswith("has_answer")]
    if not measures:
        return {}
    return answer_floors(run, prepared.corpus, queries=prepared.splits[split], measures=measures, rng=rng)


def _row(result: PerQuery, step: Step, rng: np.random.Generator) -> dict[str, Any]:
    settings = step.config.evaluate
    intervals = {
        name: bootstrap_interval(values, rng=rng, samples=settings.samples) for name, values in result.measures.items()
    }
    return {"means": result.means(), "intervals": {name: list(ends) for name, ends in intervals.items()}}


def _agreement(steps: Steps, step: Step, prepared: Prepared) -> dict[str, int | float]:
    """FiD's inversions, avg_topk and idx_topk between the student's ranking and the labels, over the dev questions.

    Over the candidates that both hold: the student's Run is cut at its depth, and labels all equal say nothing.
    """
    labels, student = round_runs(steps, step)
    kept: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
    for query in prepared.splits["dev"]:
        rows, gold = labels.of(query.id)
        own = dict(zip(*(values.tolist() for values in student.of(query.id)), strict=True))
        shared = np.array([row in own for row in rows.tolist()], bool)
        if shared.sum() > 1 and np.ptp(gold[shared]) > 0:
            kept.append((query.id, rows[shared], gold[shared], np.array([own[row] for row in rows[shared].tolist()])))
    if not kept:
        return {}
    ids, passages = [one[0] for one in kept], [one[1] for one in kept]
    gold = Run.build(labels.name, ids, passages, [one[2] for one in kept])
    found = run_agreement(Run.build(student.name, ids, passages, [one[3] for one in kept]), gold)
    return {"questions": len(kept), **found.means()}
