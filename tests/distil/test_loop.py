import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sentence_transformers import SentenceTransformer

from retort.compute import accelerator, batch_rows
from retort.config import Compute, Distil, Optimiser, StudentModel
from retort.distil.agreement import label_agreement
from retort.distil.batches import examples, make_batch, sampled
from retort.distil.curation import Curation, answer_bearing
from retort.distil.loop import CHECKPOINT, LOG, MODEL, train
from retort.distil.method import Method
from retort.distil.sampling import SAMPLERS
from retort.losses.listwise import kl
from retort.losses.objectives import CKL, KL
from retort.students.loading import load_student
from retort.tensors import Encoded, Term
from tiny import tiny_student, tiny_world

CORPUS, QUERIES, LABELS = tiny_world()
METHOD = Method(objectives={"kl": Term(KL())})
MODEL_SETTINGS = {"query_tokens": 20, "passage_tokens": 48}
STEPS = 6
ENGINE = accelerator(Compute(device="cpu", precision="float32"))


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_student(tmp_path_factory.mktemp("model"), dropout=0.1)


def settings(base: Path, **changes) -> Distil:
    defaults = {
        "student": StudentModel(model=str(base), **MODEL_SETTINGS),
        "batch": 4,
        "candidates": 5,
        "steps": STEPS,
        "chunk_tokens": 300,
        "evaluate_every": 2,
        "checkpoint_every": 3,
        "optimiser": Optimiser(learning_rate=1e-2, warmup_steps=2),
    }
    return Distil(**{**defaults, **changes})


def trained(chosen: Distil, folder: Path, engine: Accelerator = ENGINE, **arguments):
    student = load_student(chosen.student)
    return train(
        student,
        LABELS,
        CORPUS,
        QUERIES,
        chosen,
        **{"method": METHOD, "seed": 5, "folder": folder, "accelerator": engine, **arguments},
    )


def weights(folder: Path) -> bytes:
    return (folder / MODEL / "model.safetensors").read_bytes()


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def killing(at: int):
    def progress(step, facts):
        if step == at:
            raise KilledError

    return progress


def wave(student) -> float:
    """A dev value that rises and falls with the weights, without a random draw."""
    return float(np.sin(40 * student.embed(QUERIES[:2], "query").sum()))


@pytest.fixture(scope="module", params=[wave, None], ids=["best", "last"])
def whole(request, base, tmp_path_factory):
    """An uninterrupted training: its validation, its result and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return request.param, trained(settings(base), folder, validate=request.param), folder


@pytest.mark.parametrize("stops", [[1], [4], [2, 5, 6]], ids=str)
def test_a_killed_training_ends_with_the_same_bytes_as_an_uninterrupted_one(stops, whole, base, tmp_path):
    validate, result, folder = whole
    for stop in stops:
        with pytest.raises(KilledError):
            trained(settings(base), tmp_path, validate=validate, progress=killing(stop))
    assert trained(settings(base), tmp_path, validate=validate) == result
    assert weights(tmp_path) == weights(folder)
    assert (tmp_path / LOG).read_bytes() == (folder / LOG).read_bytes()


def test_a_finished_training_is_not_done_again(base, tmp_path):
    first = trained(settings(base), tmp_path, validate=wave)
    seen = []
    again = trained(settings(base), tmp_path, validate=wave, progress=lambda step, facts: seen.append(step))
    assert again == first
    assert seen == []


def test_training_brings_the_student_closer_to_the_labels(base, tmp_path):
    def agreement(student):
        return label_agreement(student, LABELS, CORPUS, QUERIES, method=METHOD, chunk_tokens=200, accelerator=ENGINE)

    result = trained(settings(base, steps=40, evaluate_every=20), tmp_path, validate=agreement)
    values = [line["dev"] for line in lines(tmp_path) if "dev" in line]
    assert result.best_value == max(values)
    assert values[-1] > 0.7 * values[0]  # both negative: the loss has fallen by 30 % at least


def test_one_step_is_the_step_of_plain_backpropagation(tmp_path):
    chosen = settings(tiny_student(tmp_path, dropout=0.0), steps=1)
    trained(chosen, tmp_path / "run")
    student = load_student(chosen.student)
    data = examples(LABELS, QUERIES, CORPUS)
    rows = batch_rows(len(data), 4, 0, 5).tolist()
    batch = make_batch(sampled(data, rows, SAMPLERS["random"], 5, seed=5, step=0), CORPUS)
    encoded = (student.encode(student.tokenise(r, s)) for r, s in ((batch.queries, "query"), (batch.passages, "passage")))
    loss = kl(student.score(*encoded, batch, frozenset({"scores"})).scores, batch.labels, batch.mask).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
    optimiser = torch.optim.AdamW(student.model.parameters(), lr=1e-2 / 3, weight_decay=0.01)
    optimiser.step()
    line = lines(tmp_path / "run")[0]
    assert line == {
        "step": 1,
        "loss": pytest.approx(loss.item(), abs=1e-5),
        "learning_rate": pytest.approx(1e-2 / 3),
        "gradient_norm": pytest.approx(norm.item(), rel=1e-4),
    }
    found = SentenceTransformer(str(tmp_path / "run" / MODEL), device="cpu").state_dict()
    for name, expected in student.model.named_parameters():
        if not name.endswith("key.bias"):  # softmax cancels it: Adam makes whole steps of the rounding of a zero gradient
            torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-4)


def test_the_size_of_a_chunk_changes_neither_the_data_nor_the_loss(tmp_path):
    base = tiny_student(tmp_path, dropout=0.0)
    for tokens in (50, 100_000):
        trained(settings(base, chunk_tokens=tokens, steps=3), tmp_path / str(tokens))
    small, large = ([line["loss"] for line in lines(tmp_path / str(tokens))] for tokens in (50, 100_000))
    np.testing.assert_allclose(small, large, rtol=1e-3)


def test_the_best_model_by_dev_is_kept_and_not_the_last(base, tmp_path):
    values = iter([0.1, 0.5, 0.9, 0.9])
    kept = {}

    def validate(student):
        kept[len(kept)] = {name: w.clone() for name, w in student.model.state_dict().items()}
        return next(values)

    result = trained(settings(base), tmp_path, validate=validate)
    assert (result.best_step, result.best_value, result.steps) == (4, 0.9, STEPS)
    found = SentenceTransformer(str(tmp_path / MODEL), device="cpu").state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in kept[2].items())


def test_a_student_that_never_gets_better_is_kept_as_it_was(base, tmp_path):
    result = trained(settings(base), tmp_path, validate=lambda student: -float(student.model.training) - 1.0)
    assert result.best_step == 0
    untouched = load_student(settings(base).student)
    untouched.save(tmp_path / "untouched")
    assert weights(tmp_path) == (tmp_path / "untouched" / "model.safetensors").read_bytes()


def test_training_stops_when_patience_is_over(base, tmp_path):
    values = iter([0.5, 0.6, 0.4, 0.3, 0.9])
    result = trained(settings(base, steps=20, patience=2), tmp_path, validate=lambda student: next(values))
    assert (result.steps, result.best_step) == (6, 2)


def test_the_learning_rate_rises_and_then_falls_to_zero(base, tmp_path):
    trained(settings(base), tmp_path)
    rates = [line["learning_rate"] for line in lines(tmp_path)]
    np.testing.assert_allclose(rates, 1e-2 * np.array([1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]))


def test_the_log_holds_no_times(base, tmp_path):
    trained(settings(base), tmp_path, validate=wave)
    assert set().union(*lines(tmp_path)) == {"step", "loss", "learning_rate", "gradient_norm", "dev"}
    assert [line["step"] for line in lines(tmp_path)] == list(range(STEPS + 1))


def test_a_loss_that_is_not_finite_names_step_and_queries_and_keeps_the_checkpoint(base, tmp_path):
    class Spoilt:
        needs, reads = frozenset({"scores"}), frozenset()
        steps = 0

        def __call__(self, signals, target, batch):
            Spoilt.steps += 1
            rows = KL()(signals, target, batch)
            return torch.where(torch.arange(len(rows)) == (1 if Spoilt.steps == 5 else -1), torch.nan, rows)

    with pytest.raises(FloatingPointError, match=r"step 4: the loss of 1 of 4 queries is not finite, among them \['q\d'\]"):
        trained(settings(base), tmp_path, method=Method(objectives={"spoilt": Term(Spoilt())}))
    assert json.loads((tmp_path / CHECKPOINT / "position.json").read_text())["step"] == 3


def test_a_signal_that_the_student_cannot_give_is_refused_before_anything_is_written(base, tmp_path):
    class Steps(KL):
        needs = frozenset({"steps"})

    with pytest.raises(ValueError, match="needs the signals"):
        trained(settings(base), tmp_path, method=Method(objectives={"steps": Term(Steps())}))
    assert not list(tmp_path.iterdir())


MARK = answer_bearing(CORPUS)
RANKED = Method(objectives={"ckl": Term(CKL(gamma=2.0, alpha=1.0))})


def test_an_objective_that_reads_positives_or_ranks_is_refused_where_nobody_gives_them(base, tmp_path):
    with pytest.raises(ValueError, match=r"\['ckl'\] read positives, but nothing marks them"):
        trained(settings(base), tmp_path, method=RANKED)
    with pytest.raises(ValueError, match=r"\['ckl'\] read ranks, but none are known"):
        trained(settings(base), tmp_path, method=RANKED, curation=Curation(mark=MARK))
    assert not list(tmp_path.iterdir())


def test_ranks_are_those_of_the_student_at_the_last_renewal_also_after_a_kill(base, tmp_path):
    chosen = settings(base, ranks_every=2, sample="positive", checkpoint_every=100)
    arguments = {"method": RANKED, "curation": Curation(mark=MARK)}
    whole = trained(chosen, tmp_path / "whole", **arguments)
    for stop in (1, 3, 4, 5):
        with pytest.raises(KilledError):
            trained(chosen, tmp_path / "killed", progress=killing(stop), **arguments)
    assert trained(chosen, tmp_path / "killed", **arguments) == whole
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "whole").glob("ranks-*")] == ["ranks-4.npy"]


def test_renewed_ranks_change_what_is_learnt(base, tmp_path):
    for every in (1, STEPS):
        chosen = settings(base, ranks_every=every, sample="positive")
        trained(chosen, tmp_path / str(every), method=RANKED, curation=Curation(mark=MARK))
    assert weights(tmp_path / "1") != weights(tmp_path / str(STEPS))


def test_both_towers_of_a_separate_student_are_trained(base, tmp_path):
    chosen = settings(base, student=StudentModel(model=str(base), towers="separate", **MODEL_SETTINGS), steps=2)
    trained(chosen, tmp_path)
    before, after = load_student(chosen.student), load_student(chosen.student, folder=tmp_path / MODEL)
    moved = {
        name.split(".")[2]
        for (name, old), new in zip(before.model.named_parameters(), after.model.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert moved == {"query", "document"}


def test_half_precision_training_keeps_single_precision_weights_and_gives_the_model_back_unchanged(base, tmp_path):
    engine = accelerator(Compute(device="cpu", precision="float32"))
    engine.state._mixed_precision = "bf16"
    engine.native_amp = True
    try:
        chosen = settings(base, steps=2)
        student = load_student(chosen.student)
        train(student, LABELS, CORPUS, QUERIES, chosen, method=METHOD, seed=5, folder=tmp_path, accelerator=engine)
    finally:
        engine.state._mixed_precision = "no"
    assert {p.dtype for p in student.model.parameters()} == {torch.float32}
    saved = load_student(chosen.student, folder=tmp_path / MODEL)
    np.testing.assert_array_equal(student.embed(QUERIES, "query"), saved.embed(QUERIES, "query"))


def test_trackers_get_what_the_log_gets(base, tmp_path):
    engine = accelerator(Compute(device="cpu", precision="float32", trackers=["tensorboard"]), tracking=tmp_path / "board")
    trained(settings(base, steps=2), tmp_path / "round-1" / "distil", engine)
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = events.EventAccumulator(str(tmp_path / "board" / "round-1-distil"))
    reader.Reload()
    found = [event.value for event in reader.Scalars("loss")]
    np.testing.assert_allclose(found, [line["loss"] for line in lines(tmp_path / "round-1" / "distil")], rtol=1e-6)


def test_agreement_does_not_depend_on_how_many_queries_stand_together(base, monkeypatch):
    student = load_student(settings(base).student)

    def value():
        return label_agreement(student, LABELS, CORPUS, QUERIES, method=METHOD, chunk_tokens=64, accelerator=ENGINE)

    whole = value()
    monkeypatch.setattr("retort.distil.agreement.QUERIES_AT_ONCE", 1)
    assert value() == pytest.approx(whole, rel=1e-5)


def test_agreement_is_minus_the_mean_loss_over_all_labelled_candidates(base):
    student = load_student(settings(base).student)
    found = label_agreement(student, LABELS, CORPUS, QUERIES, method=METHOD, chunk_tokens=64, accelerator=ENGINE)
    batch = make_batch(examples(LABELS, QUERIES, CORPUS).kept, CORPUS)
    vectors = [torch.from_numpy(student.embed(r, s)) for r, s in ((batch.queries, "query"), (batch.passages, "passage"))]
    scores = student.score(*map(Encoded, vectors), batch, frozenset({"scores"})).scores
    assert found == pytest.approx(-kl(scores, batch.labels, batch.mask).mean().item(), rel=1e-5)
