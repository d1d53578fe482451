"""Several test collections, one table: a run's students and BM25 on folders in BEIR's layout, as BEIR prints its results."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retort import compute
from retort.config import Bm25
from retort.data import read_corpus, read_qrels, read_queries
from retort.data.formats import beir_file
from retort.evaluation.measure_names import check_measures
from retort.evaluation.metrics import evaluate
from retort.evaluation.suites import SuiteTable, suite_table
from retort.job import Bars, Job, no_bars
from retort.labelling import MODEL
from retort.plan import finished_run
from retort.records import Corpus, Qrels, Query, Run
from retort.searching import bm25_index, search_pool
from retort.students.loading import AnyStudent, load_student

DEPTH = 100  # passages of a search at least, as many as BEIR's usual measures read


def evaluate_suite(root: Path, folders: Sequence[Path], measure: str, *, bars: Bars = no_bars) -> SuiteTable:
    """`measure` of BM25, of the untouched student and of the best one of the finished run in `root`, on each folder.

    A folder holds corpus.jsonl, queries.jsonl and qrels/test.tsv; its name is the dataset's, with its parent's where that is
    cqadupstack. The average leaves out msmarco, as BEIR does, and the collection that the run was trained on. Corpora are
    held and encoded in memory, one after the other. ValueError, before any of them is read: no finished run there, an
    unknown measure, a folder that is no such collection.
    """
    names = [_dataset(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError(f"the collections are called {names}, expected different names: rename a folder")
    [measure] = check_measures([measure])
    steps, best = finished_run(root)
    collections = [_collection(folder, measure) for folder in folders]
    config = steps["prepare"].config
    job = Job({}, compute.accelerator(config.compute), bars)
    students = {"untouched": load_student(config.distil.student)}
    if best:
        trained = steps[f"round-{best}/distil"]
        students[f"round-{best}"] = load_student(trained.config.distil.student, folder=trained.path / MODEL)
    results: dict[str, dict[str, dict[str, float]]] = {}
    with bars("collections", len(folders)) as bar:
        for dataset, collection in zip(names, collections, strict=True):
            for name, found in _measured(collection, students, config.retrieve.bm25, measure, job).items():
                results.setdefault(name, {})[dataset] = found
            bar()
    own = Path(config.prepare.corpus).resolve()
    learnt = [name for name, folder in zip(names, folders, strict=True) if folder.resolve() in (own, *own.parents)]
    return suite_table(results, measure, in_domain=("msmarco", *learnt))


@dataclass(frozen=True)
class _Collection:
    """The questions of a test collection that have grades, and those; its passages are read when they are searched."""

    folder: Path
    queries: list[Query]
    qrels: Qrels


def _collection(folder: Path, measure: str) -> _Collection:
    """ValueError where the folder lacks a file, or its questions what the measure needs."""
    beir_file(folder, "corpus")
    qrels = read_qrels(str(folder), "test")
    queries = [query for query in read_queries(str(folder)) if query.id in qrels.grades]
    if not queries:
        raise ValueError(f"{folder}: none of its questions is graded in qrels/test.tsv, expected some; look at the ids")
    if measure.startswith("has_answer") and not all(query.answers for query in queries):
        raise ValueError(f"{folder}: its questions have no answers, which {measure} needs: take another measure")
    return _Collection(folder, queries, qrels)


def _measured(
    collection: _Collection, students: Mapping[str, AnyStudent], bm25: Bm25, measure: str, job: Job
) -> dict[str, dict[str, float]]:
    """The measure of each system on one collection."""
    corpus, queries = Corpus.from_passages(read_corpus(str(collection.folder))), collection.queries
    depth = 1 + max([DEPTH, *map(int, re.findall(r"@(\d+)$", measure))])
    runs = [bm25_index(corpus, bm25).search(queries, depth, name="bm25")]
    passages = list(corpus)
    for name, student in students.items():
        student.module.to(job.accelerator.device)
        scores, rows = search_pool(student, passages, queries, depth, job)
        runs.append(Run.build(name, [query.id for query in queries], rows, scores))
    runs = [_without_itself(run, corpus) for run in runs]
    found = [evaluate(run, corpus, queries=queries, measures=[measure], qrels=collection.qrels) for run in runs]
    return {run.name: one.means() for run, one in zip(runs, found, strict=True)}


def _without_itself(run: Run, corpus: Corpus) -> Run:
    """The Run without passages that have the id of their question: in some collections questions are passages (BEIR)."""
    lists = [(query, rows, scores, np.array(corpus.ids(rows)) != query) for query, rows, scores in run]
    passages, scores = [rows[other] for _, rows, _, other in lists], [scores[other] for *_, scores, other in lists]
    return Run.build(run.name, run.query_ids, passages, scores)


def _dataset(folder: Path) -> str:
    """The name of a collection: that of its folder, as a part where the one above is CQADupStack's."""
    name, above = folder.resolve().name, folder.resolve().parent.name
    return f"{above}/{name}" if above == "cqadupstack" else name
