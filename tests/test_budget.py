"""What a budget chooses is chosen once, kept, and taken by every later command; what does not fit is refused before work."""

import pytest
from typer.testing import CliRunner

from retort import bill as bills
from retort import budget as budgets
from retort.bill import Bill, Line, planned
from retort.budget import KEPT, keep, settled
from retort.checks import check_config
from retort.cli import app
from retort.config import Budget, parse
from retort.plan import plan
from retort.store import BILL, read_json, write_json
from tiny_run import config, settings, write_config
from tiny_speeds import QUESTIONS, speeds


@pytest.fixture
def probed(monkeypatch):
    """Speeds that no machine changes; the list grows with every probe."""
    calls = []
    monkeypatch.setattr(bills, "probe", lambda job, config: calls.append(config) or speeds())
    return calls


def seconds(sources, root, depth: int) -> float:
    """Of the tiny run with labels of some depth."""
    steps = plan(config(sources, label={"depth": depth}), root)
    return sum(line.seconds for line in bills.bill(steps, QUESTIONS, 40, speeds()))


@pytest.fixture
def hours(sources, tmp_path):
    """So many that labels of depth 4 fit, and none of 5."""
    return seconds(sources, tmp_path, 4) / 3600 * 1.001


def test_a_budget_chooses_once_and_every_later_command_takes_that(sources, tmp_path, probed, hours, monkeypatch):
    given = config(sources, budget={"hours": hours})
    first = settled(given, tmp_path)
    assert first == config(sources, label={"depth": 4})
    assert read_json(tmp_path / KEPT) == {"budget": {"hours": hours, "money": None}, "depth": 4, "precision": "float32"}
    monkeypatch.setattr(budgets, "planned", None)  # a second probe would find other speeds
    assert settled(given, tmp_path) == settled(given, tmp_path, choose=False) == first
    assert len(probed) == 1


def test_the_bill_is_that_of_the_run_with_the_choice(sources, tmp_path, probed, hours):
    found = planned(config(sources, budget={"hours": hours}), tmp_path)
    assert found.seconds == pytest.approx(seconds(sources, tmp_path, 4))
    assert found.own_seconds == pytest.approx(seconds(sources, tmp_path, 6))
    kept = read_json(tmp_path / BILL)
    assert (kept["depth"], kept["precision"], kept["budget"]["hours"]) == (4, "float32", hours)
    assert kept["steps"]["round-1/label"]["items"] == 34 * 4


def test_a_later_rounds_depth_is_bounded_too_and_a_smaller_one_stays(sources, tmp_path):
    write_json(tmp_path / KEPT, {"budget": {"hours": 1.0, "money": None}, "depth": 4, "precision": "bfloat16"})
    changes = {
        "rounds": 3,
        "overrides": {2: {"label": {"depth": 9}}, 3: {"label": {"depth": 3}}},
        "compute": {"precision": "auto"},
    }
    found = settled(config(sources, budget={"hours": 1.0}, **changes), tmp_path)
    assert [found.of_round(number).label.depth for number in (1, 2, 3)] == [4, 4, 3]
    assert found.compute.precision == "bfloat16"


def test_without_a_choice_a_look_at_the_run_takes_the_config_as_it_is(sources, tmp_path, probed):
    assert settled(config(sources, budget={"hours": 1e-6}), tmp_path, choose=False) == config(sources)
    assert probed == []


def test_a_choice_for_another_budget_is_refused(sources, tmp_path):
    write_json(tmp_path / KEPT, {"budget": {"hours": 8.0, "money": None}, "depth": 4, "precision": "float32"})
    with pytest.raises(ValueError, match=r"chosen for the budget .*8\.0.*the config has .*4\.0.*plan CONFIG --apply"):
        settled(config(sources, budget={"hours": 4}), tmp_path)


def test_what_does_not_fit_with_two_passages_is_refused_before_any_work(sources, tmp_path, probed):
    with pytest.raises(
        ValueError, match=r"within 0\.001 hours: no label depth, since with 2 the run takes .* of which round-\d/\w+ alone"
    ):
        settled(config(sources, budget={"hours": 0.001}), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["prepare"]
    assert not (tmp_path / KEPT).exists()


def test_a_bill_without_a_budget_keeps_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"no budget to choose for: give budget\.hours"):
        keep(Bill([Line("a", 1, "b", 1, 1.0)], speeds(), {}, "float32", ""), tmp_path)


def test_a_budget_that_has_not_chosen_is_no_config_of_a_run(sources):
    with pytest.raises(ValueError, match=r"a budget that has not chosen yet: take what `retort\.budget\.settled`"):
        check_config(config(sources, budget={"hours": 1}))


def test_money_needs_prices(sources, tmp_path):
    judge = {"kind": "judge", "model": "big", "server": {"base_url": "http://localhost:1/v1"}}
    with pytest.raises(ValueError, match=r"teacher 'big' of round 2 has no prices: give server\.price_per_million"):
        planned(config(sources, budget={"money": 5}, overrides={2: {"label": {"teachers": [judge]}}}), tmp_path)


@pytest.mark.parametrize(("budget", "message"), [({}, "without a bound chooses nothing"), ({"hours": 0}, "greater than 0")])
def test_a_budget_bounds_something(sources, budget, message):
    with pytest.raises(ValueError, match=message):
        parse(settings(sources, budget=budget))


def test_hours_given_as_a_whole_number_are_the_same_budget():
    assert Budget(hours=8).model_dump() == {"hours": 8.0, "money": None}


def test_plan_proposes_and_only_apply_keeps(sources, tmp_path, probed, hours):
    file = write_config(tmp_path / "tiny.yaml", sources, budget={"hours": hours})
    run = ["plan", str(file), "--out", str(tmp_path / "run")]
    assert "label.depth 4, which takes" in CliRunner().invoke(app, run).output
    assert not (tmp_path / "run" / KEPT).exists()
    assert "kept for the run: label.depth 4" in CliRunner().invoke(app, [*run, "--apply"]).output
    more = CliRunner().invoke(app, [*run, "--hours", "1", "--apply"])
    assert "--hours is a question" in str(more.exception)


def test_a_run_works_and_resumes_with_what_was_chosen(sources, tmp_path, probed, hours):
    teachers = {"label": {"teachers": [{"kind": "bm25"}]}}
    file = write_config(tmp_path / "tiny.yaml", sources, budget={"hours": hours}, **teachers)
    out = ["--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["index", str(file), *out, "--round", "0"])
    assert "needs round-0/encode" in str(result.exception)
    again = CliRunner().invoke(app, ["prepare", str(file), *out])
    assert again.exit_code == 0
    assert len(probed) == 1
    kept = read_json(tmp_path / "run" / "config.json")
    assert (kept["budget"], kept["label"]["depth"]) == (None, read_json(tmp_path / "run" / KEPT)["depth"])
    assert "prepare" in CliRunner().invoke(app, ["status", str(tmp_path / "run")]).output
