"""Costs add up over attempts; a stage's peak of memory is its own."""

import json
import time

import numpy as np
import pytest

from retort.costs import PEAK_RESET, measured, peak_megabytes


def cost(folder):
    return json.loads((folder / "cost.json").read_text())


def test_costs_add_up_over_attempts_and_an_interrupted_one_counts(tmp_path):
    with measured(tmp_path, "passages") as meter:
        meter.items = 5
        time.sleep(0.02)
    first = cost(tmp_path)

    def attempt():
        with measured(tmp_path, "passages") as meter:
            meter.items = 3
            time.sleep(0.02)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt()
    assert (first["items"], first["unit"], cost(tmp_path)["items"]) == (5, "passages", 8)
    assert 0.02 <= first["seconds"] < cost(tmp_path)["seconds"] - 0.02 + 1e-3
    assert cost(tmp_path)["peak_mb"] >= first["peak_mb"] > 10


def test_the_highest_peak_of_memory_is_kept(tmp_path):
    (tmp_path / "cost.json").write_text(json.dumps({"seconds": 1.0, "items": 2, "unit": "passages", "peak_mb": 1e9}))
    with measured(tmp_path, "passages"):
        pass
    assert cost(tmp_path)["peak_mb"] == 1e9
    assert peak_megabytes() < 1e9


def test_a_process_that_is_not_the_main_one_writes_no_cost(tmp_path):
    with measured(tmp_path, "passages", write=False) as meter:
        meter.items = 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not PEAK_RESET.exists(), reason="only Linux sets the peak of a process back")
def test_the_peak_of_a_stage_is_not_that_of_the_one_before(tmp_path):
    for name, numbers in (("large", 40_000_000), ("small", 1)):
        (tmp_path / name).mkdir()
        with measured(tmp_path / name, "items"):
            held = np.ones(numbers)  # 320 MB
        del held
    assert cost(tmp_path / "large")["peak_mb"] > cost(tmp_path / "small")["peak_mb"] + 250
