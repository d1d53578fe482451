"""Every recipe is a whole config, and says whose method it is; the FiD-KD recipe holds the published values."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retort.cli import app
from retort.config import Config, load

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_whole_config(recipe):
    assert load(recipe).prepare.corpus


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_first_line_of_a_recipe_names_the_paper(recipe):
    first = recipe.read_text().splitlines()[0]
    assert first.startswith("#")
    assert "arXiv" in first


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_dry_run_lists_the_steps_of_a_recipe_and_does_nothing(recipe, tmp_path):
    result = CliRunner().invoke(app, ["run", str(recipe), "--dry-run", "--out", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 0, result.output
    steps = json.loads(result.stdout).keys()
    assert {"prepare", "round-1/label", "round-1/distil", "report"} <= steps
    assert ("round-1/read" in steps) == load(recipe).label.reads
    assert list(tmp_path.iterdir()) == []


def test_the_fid_kd_recipe_trains_the_published_models_on_100_passages():
    config = _fid_kd()
    assert config.read.model == "google-t5/t5-base"
    assert config.distil.student.model == "google-bert/bert-base-uncased"
    assert config.retrieve.depth == config.read.phases[0].passages == config.label.depth == config.distil.candidates == 100


def test_the_fid_kd_recipe_has_the_released_schedules():
    config = _fid_kd()
    reader, student = config.read.optimiser, config.distil.optimiser
    assert (reader.learning_rate, reader.weight_decay, reader.warmup_steps) == (5e-5, 0.01, 1_000)
    assert (student.learning_rate, student.weight_decay, student.warmup_steps) == (1e-4, 0.1, 1_000)
    assert [(phase.steps, phase.batch) for phase in config.read.phases] == [(15_000, 64)]
    assert (config.distil.steps, config.distil.batch) == (20_000, 64)


def test_the_fid_kd_recipe_never_names_grades():
    assert _fid_kd().prepare.qrels == {}


def _fid_kd() -> Config:
    return load(Path(__file__).parents[1] / "recipes" / "fid_kd_nq.yaml")
