"""The bill of a whole run: what fits a budget, what is printed, and what the report sets beside it."""

import pytest
from typer.testing import CliRunner

from retort import bill as bills
from retort.asking import Wording
from retort.bill import bill, depth_within, planned
from retort.cli import app
from retort.config import Budget
from retort.pipeline import run
from retort.plan import plan
from retort.speeds import TeacherTried
from retort.store import read_json
from tiny_run import config, write_config
from tiny_speeds import QUESTIONS, speeds

SERVER, PRICE = {"base_url": "http://localhost:1/v1"}, {"prompt": 10.0, "completion": 100.0}
REMOTE = {"kind": "remote", "model": "m", "server": {**SERVER, "price_per_million": PRICE}}
ASKED = speeds(TeacherTried(words=Wording(None, 60.0, 30.0)), reader=False)


def total(sources, folder, what, found, **changes):
    lines = bill(plan(config(sources, **changes), folder), QUESTIONS, 40, found)
    return sum(getattr(line, what) for line in lines)


def test_the_depth_that_fits_keeps_the_run_within_the_hours(sources, tmp_path):
    steps, hours = plan(config(sources), tmp_path), total(sources, tmp_path, "seconds", speeds(), label={"depth": 4}) / 3600
    assert depth_within(Budget(hours=hours * 1.001), steps, QUESTIONS, 40, speeds()) == 4
    assert depth_within(Budget(hours=10.0), steps, QUESTIONS, 40, speeds()) == 6  # never more than the config's own
    assert depth_within(Budget(hours=0.001), steps, QUESTIONS, 40, speeds()) is None


def test_money_bounds_the_depth_where_hours_do_not(sources, tmp_path):
    teachers = {"teachers": [REMOTE]}
    steps = plan(config(sources, label=teachers), tmp_path)
    money = total(sources, tmp_path, "money", ASKED, label={**teachers, "depth": 3})
    assert depth_within(Budget(money=money * 1.001), steps, QUESTIONS, 40, ASKED) == 3
    assert depth_within(Budget(money=money * 1.001, hours=1e-9), steps, QUESTIONS, 40, ASKED) is None


def test_a_servers_bound_on_requests_counts_towards_the_hours(sources, tmp_path):
    slow = {**REMOTE, "server": {**SERVER, "requests_per_minute": 1}}
    steps = plan(config(sources, rounds=1, label={"teachers": [slow]}), tmp_path)
    assert depth_within(Budget(hours=34 * 3 / 60 + 0.1), steps, QUESTIONS, 40, ASKED) == 3


@pytest.fixture
def quick(monkeypatch):
    """Each kind of work is tried for no longer than its one call."""
    monkeypatch.setattr(bills.probe, "__kwdefaults__", {"seconds": 0.0})


@pytest.mark.usefixtures("quick")
def test_the_bill_of_a_run_is_compared_with_what_was_spent(sources, tmp_path):
    teachers = [{"kind": "fid"}, {"kind": "fid", "signal": "pdist"}, {"kind": "bm25"}]
    chosen = config(sources, rounds=1, label={"teachers": teachers})
    found = planned(chosen.model_copy(update={"budget": Budget(hours=1.0)}), tmp_path)
    assert found.speeds[1].teachers == ()  # both signals are one pass of the reader, and BM25 costs nothing
    assert found.depth == 6
    assert all(line.seconds > 0 for line in found.lines if line.step != "round-1/index")
    assert found.chosen().startswith("within 1 hours: label.depth 6, which takes ")
    assert found.chosen().endswith("; estimated in float32 (compute.precision says so)")
    run(chosen, tmp_path)
    costs = {cost["stage"]: cost for cost in read_json(tmp_path / "report" / "report.json")["costs"]}
    for line in found.lines:
        assert costs[line.step]["planned_seconds"] == line.seconds
        disk = next(one for one in costs[line.step]["compared"] if one["what"] == "disk, MB")
        assert disk["planned"] == line.disk / 1e6
    for stage in ("round-0/encode", "round-0/index"):
        disk = next(one for one in costs[stage]["compared"] if one["what"] == "disk, MB")
        assert disk["planned"] == pytest.approx(disk["spent"], rel=0.5)  # of a corpus this small, headers of files
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Planned and spent" in page


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["sparse", "late_interaction"])
def test_every_kind_of_student_has_a_bill(sources, tmp_path, kind):
    student = {"kind": kind, **({"dimension": 8} if kind == "late_interaction" else {})}
    chosen = config(sources, rounds=1, label={"teachers": [{"kind": "answers"}]}, distil={"student": student})
    with pytest.warns(UserWarning, match="was drawn, alike each time|one was made that starts"):
        found = planned(chosen, tmp_path)
    student = found.speeds[1].student
    assert student.vector_bytes > student.vectors > 1  # nonzeros, or vectors of tokens
    assert found.speeds[1].reader is None
    index = next(line for line in found.lines if line.step == "round-1/index")
    assert (index.disk > 0) == (kind == "sparse")  # so few passages have an exact MaxSim each


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_line_for_each_step_and_the_sum(sources, tmp_path):
    file = write_config(tmp_path / "tiny.yaml", sources, rounds=1, label={"teachers": [{"kind": "bm25"}]})
    result = CliRunner().invoke(app, ["plan", str(file), "--out", str(tmp_path / "run"), "--hours", "2"])
    assert result.exit_code == 0
    assert "within 2 hours: label.depth 6" in result.output
    for shown in ("round-1/distil", "keeping a search fresh", "memory (MB)", "disk while it runs"):
        assert shown in result.output
    assert (tmp_path / "run" / "bill.json").exists()
