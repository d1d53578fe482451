"""The MS MARCO recipes hold the published settings of CKL and BKL, and what their files mean to the config."""

from pathlib import Path

import pytest

from retort.config import load
from retort.losses import build

ROOT = Path(__file__).parents[1] / "recipes"
SPLADE, COLBERT, DENSE = "ckl_splade_msmarco", "ckl_colbert_msmarco", "ckl_dense_msmarco"
REFINEMENTS = (SPLADE, COLBERT, DENSE, "bkl_splade_msmarco", "bkl_colbert_msmarco")


def recipe(name):
    return load(ROOT / f"{name}.yaml")


@pytest.mark.parametrize("name", REFINEMENTS)
def test_a_refinement_draws_one_positive_and_five_of_the_students_first_twenty(name):
    config, distil = recipe(name), recipe(name).distil
    assert (distil.candidates, distil.sample, distil.positives) == (6, "positive", "qrels")
    assert (distil.negatives.system, distil.negatives.window) == ("student", 20)
    assert config.retrieve.first == ["student"]
    assert config.label.depth >= 20


@pytest.mark.parametrize("name", REFINEMENTS)
def test_a_refinement_has_the_authors_schedule_and_one_teacher_that_is_not_trained(name):
    config, rate = recipe(name), recipe(name).distil.optimiser
    assert (rate.learning_rate, rate.weight_decay, rate.warmup_steps, rate.clip) == (1e-5, 0.01, 6_000, 1.0)
    assert [teacher.kind for teacher in config.label.teachers] == ["cross_encoder"]
    assert not config.label.reads
    assert config.rounds == 1


@pytest.mark.parametrize(
    ("name", "kind", "alpha", "batch", "steps"),
    [
        (SPLADE, "sparse", 1.0, 4 * 32, 25_000),
        (COLBERT, "late_interaction", 1.5, 4 * 8, 100_000),
        (DENSE, "dense", 1.0, 64, 25_000),
    ],
)
def test_ckl_has_gamma_5_and_the_rank_bias_of_its_student(name, kind, alpha, batch, steps):
    distil = recipe(name).distil
    objective = build(distil.objectives)["ckl"].objective
    assert (distil.student.kind, distil.batch, distil.steps) == (kind, batch, steps)
    assert (objective.gamma, objective.alpha) == (5.0, alpha)


@pytest.mark.parametrize(
    ("kind", "lam", "micro", "accumulated", "steps"),
    [("splade", 0.01, 32, 4, 4_000), ("colbert", 0.02, 8, 4, 30_000)],
)
def test_bkl_weighs_its_penalty_as_the_authors_sum_over_a_micro_batch_did(kind, lam, micro, accumulated, steps):
    distil = recipe(f"bkl_{kind}_msmarco").distil
    term = build(distil.objectives)["bkl"]
    assert term.objective.lam == pytest.approx(lam * micro * distil.candidates)
    assert term.coefficient == pytest.approx(1 / distil.candidates, abs=1e-4)
    assert (distil.batch, distil.steps) == (micro * accumulated, steps)


@pytest.mark.parametrize("name", REFINEMENTS)
def test_training_positives_are_given_and_no_grade_of_train_is_evaluated(name):
    prepare = recipe(name).prepare
    assert prepare.positives
    assert set(prepare.queries) == {"train", "dev"}
    assert set(prepare.qrels) == {"dev"}
