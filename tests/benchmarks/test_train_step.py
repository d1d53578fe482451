import json

import pytest
import speed
import train_memory
import train_step

from tiny import tiny_student

TINY = ["--queries", "3", "--tokens", "48", "--repeats", "2"]


@pytest.fixture
def model(data, tmp_path, monkeypatch):
    """A tiny student; the invented texts are read anew, and trainings run in this process."""
    speed.real_texts.cache_clear()
    for script in (train_step, train_memory):
        monkeypatch.setattr(script, "alone", speed.here)
    yield str(tiny_student(tmp_path, dropout=0.3))
    speed.real_texts.cache_clear()


def test_both_trainers_lose_alike_and_the_line_holds_their_ratio(model, capsys):
    train_step.main([*TINY, "--candidates", "4", "--steps", "3", "--chunk-tokens", "60", "--model", model])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["largest difference of losses"] < 1e-4
    assert set(line["seconds"]) == {"retort", "retort-uncached", "trainer"}
    assert line["ratio"]["trainer"] == pytest.approx(line["seconds"]["trainer"] / line["seconds"]["retort"], rel=1e-2)
    assert 4 <= line["distinct passages"] <= 12
    verdicts = {(one["what"], one["against"]): one["verdict"] for one in line["targets"]}
    assert verdicts["KD step, 3 x 4, cached", "sentence-transformers' trainer"] in ("pass", "falls short")
    assert verdicts["KD step, 3 x 4, cached", "sentence-transformers' trainer, bf16"].startswith("not measured")


def test_the_losses_that_are_compared_move(model):
    case = train_step.real_case(3, 4, model, 48)
    losses = [work().losses for work in (
        train_step.retort(case, steps=3, caching=True, chunk_tokens=None),
        train_step.sentence_transformers(case, steps=3),
    )]  # fmt: skip
    assert len(losses[0]) == len(losses[1]) == 3
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0][0] > losses[0][2] > 0


def test_a_side_that_is_left_out_is_not_judged(model, capsys):
    train_step.main([*TINY, "--candidates", "2", "--leave-out", "trainer", "--model", model])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "trainer" not in line["seconds"]
    assert {one["verdict"] for one in line["targets"]} == {"not measured: left out", "not measured: no native bfloat16 here"}


def test_too_few_candidates_are_refused(model):
    with pytest.raises(ValueError, match="questions with 21 candidates in fairytaleqa, expected 2"):
        train_step.real_case(2, 21, model, 48)


def test_seconds_of_a_step_leave_out_the_first():
    steps = train_step.Steps((10.0, 11.0, 13.0, 14.0), (0.1, 0.1, 0.1, 0.1))
    assert steps.seconds == 1.0


def test_long_lists_are_measured_for_each_distinct_passage(model, capsys):
    train_memory.main([*TINY, "--long", "12", "--short", "3", "--chunk-tokens", "60", "--model", model])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["distinct passages"]["long"] > line["distinct passages"]["short"] >= 3
    assert [one["unit"] for one in line["targets"]] == ["x the memory", "x the time of a passage"]
    seconds = line["seconds"]
    assert line["ratio"]["time of a passage"] == pytest.approx(seconds["long"] / seconds["short"], rel=1e-2)
