import json
import shutil
from pathlib import Path

import pytest
import rows
import variants

from retort.plan import plan

STAGES = ("prepare", "round-0/encode", "round-0/index")


@pytest.fixture
def configs(data, options):
    """Two configs that differ in the seed: their vectors are the same, their index is not."""
    changes = [*options[3::2], "rounds=1"]
    return [rows.config_on(data, Path(options[1]), [*changes, f"seed={seed}"]) for seed in (0, 1)]


def test_stages_of_the_same_key_are_linked_and_no_others(configs, tmp_path):
    _finish(configs[0], tmp_path / "a", *STAGES)
    variants.link_done(configs[1], tmp_path / "b", tmp_path)
    steps = plan(configs[1], tmp_path / "b")
    assert [name for name, step in steps.items() if step.folder.state() == "done"] == ["prepare", "round-0/encode"]
    assert (tmp_path / "b" / "round-0" / "encode").resolve() == tmp_path / "a" / "round-0" / "encode"


def test_a_stale_stage_gives_way_to_a_link_and_an_unfinished_one_goes_on(configs, tmp_path):
    _finish(configs[1], tmp_path / "a", *STAGES)
    _finish(configs[0], tmp_path / "b", *STAGES)  # of another seed: its index is stale
    steps = plan(configs[1], tmp_path / "b")
    (steps["round-0/encode"].path / "manifest.json").rename(steps["round-0/encode"].path / "started.json")
    variants.link_done(configs[1], tmp_path / "b", tmp_path)
    assert [(step.folder.state(), step.path.is_symlink()) for step in map(steps.__getitem__, STAGES)] == [
        ("done", False), ("partial", False), ("done", True)
    ]  # fmt: skip


def test_a_link_whose_target_is_gone_is_put_anew(configs, tmp_path):
    _finish(configs[0], tmp_path / "a", "prepare")
    variants.link_done(configs[1], tmp_path / "b", tmp_path)
    shutil.move(tmp_path / "a", tmp_path / "c")
    variants.link_done(configs[1], tmp_path / "b", tmp_path)
    assert json.loads((tmp_path / "b" / "prepare" / "manifest.json").read_text())["made in"] == "a"
    assert (tmp_path / "b" / "prepare").resolve() == tmp_path / "c" / "prepare"


def _finish(config, folder, *names):
    for name, step in plan(config, folder).items():
        if name in names:
            step.folder.open()
            step.folder.finish({"made in": folder.name})
