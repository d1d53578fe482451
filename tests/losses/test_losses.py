from typing import get_args

import pytest

from retort.config import ObjectiveSettings
from retort.losses import OBJECTIVES, build
from retort.losses.objectives import CKL, CLDRD, Flops, MaxMargin
from retort.tensors import Term


def test_the_config_knows_every_objective_by_its_name():
    assert set(get_args(ObjectiveSettings.model_fields["name"].annotation)) == set(OBJECTIVES)


def test_an_objective_takes_its_own_settings_from_the_config():
    chosen = build([ObjectiveSettings(name="max_margin", margin=0.2, coefficient=3.0)])
    assert chosen == {"max_margin": Term(MaxMargin(margin=0.2), 3.0)}


def test_settings_that_are_not_given_stay_at_the_objectives_own_defaults():
    assert build([ObjectiveSettings(name="ckl", alpha=1.0)])["ckl"].objective == CKL(gamma=5.0, alpha=1.0)
    assert build([ObjectiveSettings(name="cl_drd", heads=[5, 10])])["cl_drd"].objective == CLDRD(heads=(5, 10))


def test_a_regulariser_may_stand_once_for_each_side():
    sides = [ObjectiveSettings(name="flops", side=side, warmup_steps=9) for side in ("query", "passage")]
    chosen = build([ObjectiveSettings(), *sides])
    assert {name: chosen[name] for name in ("flops_query", "flops_passage")} == {
        f"flops_{side}": Term(Flops(side), 1.0, 9) for side in ("query", "passage")
    }


def test_warm_ups_of_all_objectives_are_refused_since_every_model_would_look_alike_on_dev():
    with pytest.raises(ValueError, match="so that the first step has no loss"):
        build([ObjectiveSettings(warmup_steps=5)])


def test_a_setting_that_the_objective_does_not_have_is_refused():
    with pytest.raises(ValueError, match="objective 'kl' has no setting 'margin'"):
        build([ObjectiveSettings(name="kl", margin=0.2)])


def test_an_objective_listed_twice_is_refused():
    with pytest.raises(ValueError, match="listed twice"):
        build([ObjectiveSettings(), ObjectiveSettings(teacher_temperature=2.0)])
