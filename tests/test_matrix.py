"""Any teacher's labels train any student with any ranking loss: every cell trains, searches, is measured, and reloads."""

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

from retort.compute import accelerator
from retort.config import Compute, Distil, Index, ObjectiveSettings, Optimiser, StudentModel
from retort.distil.curation import Curation, answer_bearing
from retort.distil.loop import MODEL, train
from retort.distil.method import Method
from retort.evaluation.metrics import evaluate
from retort.labelling import LABELS
from retort.losses import build
from retort.pipeline import run
from retort.prepared import Prepared
from retort.records import Query, Run
from retort.searching import KINDS
from retort.students.loading import load_student
from retort.text import passage_text
from tiny import tiny_cross_encoder
from tiny_run import PASSAGES, config

TEACHERS = ("fid", "cross_encoder", "run", "ensemble")
STOCK = {"dense": SentenceTransformer, "sparse": SparseEncoder, "late_interaction": MultiVectorEncoder}
LOSSES = {
    "kl": {}, "ckl": {"gamma": 2.0, "alpha": 1.0}, "bkl": {"lam": 0.1}, "margin_mse": {}, "ranknet": {}, "lambda_loss": {},
    "info_nce": {},
}  # fmt: skip
ENGINE = accelerator(Compute(device="cpu", precision="float32"))


@dataclass(frozen=True)
class Labelled:
    """What a run up to its labels left."""

    prepared: Prepared
    labels: Run
    ranking: Run


@pytest.fixture(scope="session")
def teachers(sources, tmp_path_factory) -> dict[str, list[dict[str, Any]]]:
    """The `label.teachers` of each kind of teacher."""
    folder = tmp_path_factory.mktemp("teachers")
    model = str(tiny_cross_encoder(folder / "cross_encoder"))
    assert CrossEncoder(model, device="cpu").num_labels == 1
    rng = np.random.default_rng(0)
    numbers = [(i, j) for i in range(34) for j in {i, *rng.permutation(PASSAGES)[:7].tolist()}]
    lines = [f"q{i} Q0 p{j} 1 {8.0 * (i == j) + rng.random():.6f} teacher\n" for i, j in numbers]
    (folder / "scores.trec").write_text("".join(lines))
    cross_encoder, scores = (
        {"kind": "cross_encoder", "model": model, "tokens": 60},
        {"kind": "run", "scores": str(folder / "scores.trec")},
    )
    return {
        "fid": [{"kind": "fid"}],
        "cross_encoder": [cross_encoder],
        "run": [scores],
        "ensemble": [
            cross_encoder,
            scores,
            {"kind": "bm25"},
            {"kind": "answers"},
            {"kind": "retriever", "model": str(sources / "student"), "tokens": 40, "weight": 0.5},
        ],
    }


@pytest.fixture(scope="session")
def labelled(sources, teachers, tmp_path_factory):
    """The labels of a teacher by its name, made once each by the stages of a run."""
    made: dict[str, Labelled] = {}

    def of(name: str) -> Labelled:
        if name not in made:
            chosen = config(sources, rounds=1, label={"teachers": teachers[name], "depth": 10})
            root = tmp_path_factory.mktemp(name)
            stages = [f"round-0/{stage}" for stage in ("encode", "index", "retrieve")]
            steps = run(
                chosen, root, only=["prepare", *stages, *(["round-1/read"] if name == "fid" else []), "round-1/label"]
            )
            labels = Run.read(steps["round-1/label"].path / LABELS)
            ranking = Run.read(steps["round-0/retrieve"].path / "student.parquet")
            made[name] = Labelled(Prepared(root / "prepare"), labels, ranking)
        return made[name]

    return of


@pytest.fixture(scope="session")
def bases(sources, tmp_path_factory) -> dict[str, StudentModel]:
    """A student of each kind with all of its weights in its folder, so that none has to be made when it is loaded."""
    chosen = {}
    for kind in STOCK:
        own = {"dimension": 16} if kind == "late_interaction" else {}
        settings = StudentModel(
            kind=kind, model=str(sources / "student"), query_tokens=20, passage_tokens=40, passage_format="{title} {text}",
            scale=1.0, **own,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # heads and projections that are made, and said so
            student = load_student(settings)
        folder = tmp_path_factory.mktemp(kind)
        student.save(folder)
        chosen[kind] = settings.model_copy(update={"model": str(folder)})
    return chosen


def weights(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.rglob("*.safetensors"))]


def search(student, prepared: Prepared, queries: list[Query]) -> Run:
    kind = KINDS[student.settings.kind]
    index = kind.build(kind.hold(student.embed(list(prepared.corpus), "passage")), Index(), 0)
    scores, rows = index.search(student.embed(queries, "query"), 10)
    return Run.build("student", [query.id for query in queries], rows, scores)


def stock_scores(settings: StudentModel, folder: Path, prepared: Prepared, queries: list[Query]) -> np.ndarray:
    """The scores of all passages by the saved folder in stock sentence-transformers."""
    model = STOCK[settings.kind](str(folder), device="cpu")
    texts = [passage_text(passage, settings.passage_format) for passage in prepared.corpus]
    options = {"dense": {}, "sparse": {"convert_to_sparse_tensor": False}, "late_interaction": {}}
    found = (
        model.encode_query([q.text for q in queries], **options[settings.kind]),
        model.encode_document(texts, **options[settings.kind]),
    )
    return np.asarray(torch.as_tensor(model.similarity(*found)).cpu())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", STOCK)
@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_cell_of_the_matrix_trains_searches_and_reloads(teacher, kind, loss, labelled, bases, tmp_path):
    made, base = labelled(teacher), bases[kind]
    queries = made.prepared.splits["train"]
    labels = made.labels.select([query.id for query in queries if query.id in made.labels])
    settings = Distil(
        student=base, objectives=[ObjectiveSettings(name=loss, **LOSSES[loss])], candidates=5, batch=6, steps=2,
        optimiser=Optimiser(learning_rate=3e-3, warmup_steps=1), sample="positive",
    )  # fmt: skip
    curation = Curation(mark=answer_bearing(made.prepared.corpus), ranking=made.ranking)
    method = Method(objectives=build(settings.objectives))
    trained = train(
        load_student(base), labels, made.prepared.corpus, queries, settings, method=method, seed=1, folder=tmp_path,
        accelerator=ENGINE, curation=curation,
    )  # fmt: skip
    assert trained.steps == 2

    again, test = load_student(base, folder=tmp_path / MODEL), made.prepared.splits["test"]
    found = search(again, made.prepared, test)
    assert weights(tmp_path / MODEL) != weights(Path(base.model))
    measured = evaluate(found, made.prepared.corpus, queries=test, measures=["nDCG@10"], qrels=made.prepared.qrels("test"))
    assert 0 <= measured.means()["nDCG@10"] <= 1
    scores = stock_scores(base, tmp_path / MODEL, made.prepared, test)
    for row, query in zip(scores, test, strict=True):
        rows, own = found.of(query.id)
        np.testing.assert_allclose(own, row[rows], rtol=2e-2, atol=2e-2)  # half precision in the index
        assert own.min() >= np.sort(row)[-len(rows)] - 4e-2  # and no better passage is missing


@pytest.mark.parametrize(
    ("kind", "teacher", "loss"), [("sparse", "cross_encoder", "ckl"), ("late_interaction", "ensemble", "bkl")]
)
def test_a_whole_run_without_a_reader_evaluates_and_reports(kind, teacher, loss, sources, teachers, bases, tmp_path):
    regularised = [{"name": "flops", "side": "passage", "coefficient": 1e-4, "warmup_steps": 2}] if kind == "sparse" else []
    chosen = config(
        sources, rounds=1, label={"teachers": teachers[teacher], "depth": 10},
        distil={
            "student": bases[kind].model_dump(exclude_unset=True), "sample": "positive",
            "objectives": [{"name": loss, **LOSSES[loss]}, *regularised], "negatives": {"window": 8},
        },
    )  # fmt: skip
    collapsed = pytest.warns(UserWarning, match="have collapsed: the mean text has") if kind == "sparse" else nullcontext()
    with collapsed:  # a random head gives every entry of the vocabulary a weight
        steps = run(chosen, tmp_path)
    assert "round-1/read" not in steps
    assert all(step.folder.state() == "done" for step in steps.values())
    page = (tmp_path / "report" / "index.html").read_text()
    assert "round-1" in page
    assert "Reader" not in page
