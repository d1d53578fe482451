from typing import get_args

import pytest

from retort.config import ObjectiveSettings
from retort.losses import OBJECTIVES, build
from retort.losses.objectives import MaxMargin


def test_the_config_knows_every_objective_by_its_name():
    assert set(get_args(ObjectiveSettings.model_fields["name"].annotation)) == set(OBJECTIVES)


def test_an_objective_takes_its_own_settings_from_the_config():
    chosen = build([ObjectiveSettings(name="max_margin", margin=0.2, coefficient=3.0)])
    assert chosen == {"max_margin": (3.0, MaxMargin(margin=0.2))}


def test_a_setting_that_the_objective_does_not_have_is_refused():
    with pytest.raises(ValueError, match="objective 'kl' has no setting 'margin'"):
        build([ObjectiveSettings(name="kl", margin=0.2)])


def test_an_objective_listed_twice_is_refused():
    with pytest.raises(ValueError, match="listed twice"):
        build([ObjectiveSettings(), ObjectiveSettings(teacher_temperature=2.0)])
