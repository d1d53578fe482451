import itertools
import time

import pytest
from typer.testing import CliRunner

from retort import bill as bills
from retort.bill import bill, depth_within, planned, refreshes
from retort.cli import app
from retort.config import Budget
from retort.pipeline import run
from retort.plan import plan
from retort.probing import Speeds, rate
from retort.store import read_json
from tiny_run import config, write_config

SERVER, PRICE = {"base_url": "http://localhost:1/v1"}, {"prompt": 10.0, "completion": 100.0}
QUESTIONS = {"train": 20, "dev": 6, "test": 8}
SPEEDS = Speeds(
    encoded=10.0, distilled=2.0, indexed=20.0, searched=1000.0, read=4.0, labelled=(5.0, 10.0), passage_tokens=15.0,
    string_tokens=30.0, vector_bytes=48.0, dimension=24, peak_mb=500.0,
)  # fmt: skip


def lines(sources, folder, **changes):
    found = bill(plan(config(sources, **changes), folder), QUESTIONS, 40, SPEEDS)
    return {line.step: line for line in found}


def test_every_line_is_what_its_step_does_over_its_speed(sources, tmp_path):
    """The tiny config's numbers (tiny_run.py), multiplied by hand."""
    found = lines(sources, tmp_path)
    assert list(found)[:3] == ["round-0/encode", "round-0/index", "round-0/retrieve"]
    encode = found["round-0/encode"]
    assert (encode.items, encode.tokens, encode.seconds, encode.disk) == (40, 600, 4.0, 1920)
    assert found["round-0/index"].seconds == 2.0
    assert found["round-0/retrieve"].seconds == 34 * 40 * 24 / 1000
    read = found["round-1/read"]  # 2 steps of 4 x 2 passages and 2 of 4 x 3; twice 6 dev questions with 3 passages, forward
    assert (read.items, read.seconds) == (40, 40 / 4 + 2 * 6 * 3 / 12)
    label = found["round-1/label"]  # 34 questions x 6 passages, by two teachers
    assert (label.items, label.seconds, label.disk) == (408, 204 / 5 + 204 / 10, 8 * 204)
    distil = found["round-2/distil"]  # 4 steps of 4 x 4; dev before, at 2 and at 4: 36 candidates at most
    assert (distil.items, distil.seconds) == (64, 64 / 2 + 3 * 36 / 10)


def test_a_later_rounds_settings_are_the_later_rounds(sources, tmp_path):
    found = lines(sources, tmp_path, overrides={2: {"label": {"depth": 3}}})
    assert found["round-2/label"].seconds == found["round-1/label"].seconds / 2


def test_a_round_that_keeps_its_passages_encodes_none(sources, tmp_path):
    found = lines(sources, tmp_path, distil={"student": {"query_side": "full"}})
    assert (found["round-1/encode"].items, found["round-1/encode"].seconds, found["round-1/encode"].disk) == (0, 0.0, 1920)
    assert found["round-0/encode"].seconds == 4.0


def test_keeping_a_search_fresh_costs_by_its_policy(sources):
    """A corpus of 2000 by 10 a second; 34 questions that find 20 passages each; 6 dev questions of a probe; nothing."""
    assert list(refreshes(config(sources), QUESTIONS, 2000, SPEEDS).values()) == [200.0, 68.0, 12.0, 0.0]
    assert list(refreshes(config(sources), QUESTIONS, 40, SPEEDS).values()) == [4.0, 4.0, 4.0, 0.0]  # never more than all


@pytest.mark.parametrize(("refresh", "items"), [("full", 2000), ("rerank", 680), ("auto", 2120)])
def test_a_round_is_billed_by_its_policy(sources, tmp_path, refresh, items):
    steps = plan(config(sources, encode={"refresh": refresh}), tmp_path)
    first, later = (
        line for line in bill(steps, QUESTIONS, 2000, SPEEDS) if line.step in ("round-0/encode", "round-1/encode")
    )
    assert (first.items, first.unit) == (2000, "passages")
    search = 0.0 if refresh == "full" else 34 * 2000 * 24 / 1000
    assert (later.items, later.seconds) == (items, items / 10 + search)
    assert later.disk == (2000 + (0 if refresh == "full" else 680)) * 48


def test_the_depth_that_fits_keeps_the_run_within_the_hours(sources, tmp_path):
    def total(depth):
        return sum(line.seconds for line in lines(sources, tmp_path, label={"depth": depth}).values())

    steps = plan(config(sources), tmp_path)
    found = depth_within(Budget(hours=total(4) / 3600 * 1.001), steps, QUESTIONS, 40, SPEEDS)
    assert found == 4
    assert depth_within(Budget(hours=10.0), steps, QUESTIONS, 40, SPEEDS) == 6  # never more than the config's own
    assert depth_within(Budget(hours=0.001), steps, QUESTIONS, 40, SPEEDS) is None


JUDGES = [
    {"kind": "judge", "model": "m", "judge": {"repeats": 2}, "server": {**SERVER, "price_per_million": PRICE}},
    {"kind": "remote", "model": "m", "server": {**SERVER, "price_per_million": PRICE}},
    {"kind": "remote", "model": "free", "server": SERVER},
]


def test_servers_charge_for_passages_prompts_and_replies(sources, tmp_path):
    """34 questions x 6 passages of 30 tokens in prompts of 60 more; twice with replies of 8 tokens, once with one of 1."""
    found = lines(sources, tmp_path, label={"teachers": JUDGES})
    assert found["round-1/label"].money == pytest.approx(204 * (2 * (90 * 10 + 8 * 100) + (90 * 10 + 1 * 100)) / 1e6)
    assert found["round-1/distil"].money == 0.0


def test_money_bounds_the_depth_where_hours_do_not(sources, tmp_path):
    steps = plan(config(sources, rounds=1, label={"teachers": JUDGES}), tmp_path)
    one = lines(sources, tmp_path, label={"teachers": JUDGES, "depth": 3})["round-1/label"].money
    assert depth_within(Budget(money=one * 1.001), steps, QUESTIONS, 40, SPEEDS) == 3
    assert depth_within(Budget(money=one * 1.001, hours=1e-9), steps, QUESTIONS, 40, SPEEDS) is None


def test_a_rate_leaves_the_first_call_out(monkeypatch):
    ticks = itertools.count(step=2.0)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    calls = []
    assert rate(lambda: calls.append(1), 6, 1.0) == 6 / 4  # started at 0, asked at 2, done at 4
    assert len(calls) == 2


@pytest.fixture
def quick(monkeypatch):
    """Each kind of work is tried for no longer than its one call."""
    monkeypatch.setattr(bills.probe, "__kwdefaults__", {"seconds": 0.0})


@pytest.mark.usefixtures("quick")
def test_the_bill_of_a_run_is_compared_with_what_was_spent(sources, tmp_path):
    teachers = [{"kind": "fid"}, {"kind": "fid", "signal": "pdist"}, {"kind": "bm25"}]
    chosen = config(sources, rounds=1, label={"teachers": teachers})
    found = planned(chosen.model_copy(update={"budget": Budget(hours=1.0)}), tmp_path)
    assert len(found.speeds.labelled) == 1  # both signals are one pass, and BM25 costs nothing
    assert found.depth == 6
    assert all(line.seconds > 0 for line in found.lines)
    assert found.chosen().startswith("within 1 hours: label.depth 6, which takes ")
    assert found.chosen().endswith("; precision float32 (compute.precision says so)")
    run(chosen, tmp_path)
    costs = {cost["stage"]: cost for cost in read_json(tmp_path / "report" / "report.json")["costs"]}
    for line in found.lines:
        assert costs[line.step]["planned_seconds"] == line.seconds
    assert "Planned" in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["sparse", "late_interaction"])
def test_every_kind_of_student_has_a_bill(sources, tmp_path, kind):
    student = {"kind": kind, **({"dimension": 8} if kind == "late_interaction" else {})}
    chosen = config(sources, rounds=1, label={"teachers": [{"kind": "answers"}]}, distil={"student": student})
    with pytest.warns(UserWarning, match="was drawn, alike each time|one was made that starts"):
        found = planned(chosen, tmp_path)
    assert found.speeds.vector_bytes > 0
    assert found.speeds.read == 0.0


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_line_for_each_step_and_the_sum(sources, tmp_path):
    file = write_config(tmp_path / "tiny.yaml", sources, rounds=1, label={"teachers": [{"kind": "bm25"}]})
    result = CliRunner().invoke(app, ["plan", str(file), "--out", str(tmp_path / "run"), "--hours", "2"])
    assert result.exit_code == 0
    assert "within 2 hours: label.depth 6" in result.output
    assert "round-1/distil" in result.output
    assert "keeping a search fresh" in result.output
    assert (tmp_path / "run" / "bill.json").exists()
