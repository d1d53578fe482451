"""The report page: self-contained, escaped, in order, complete, and silent about nothing that is missing."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from retort.evaluation.charts import Curve
from retort.evaluation.report import (
    AttentionMap,
    Compared,
    Cost,
    Example,
    Examples,
    Looked,
    Remote,
    Report,
    Shown,
    Table,
    write_report,
)
from retort.evaluation.significance import Comparison
from retort.evaluation.verdict import RunRow

ATTACK = "A woodcutter <script>alert('x')</script> lived \"here\" & there"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What a browser would see: elements with attributes, text per section, table rows, contents of scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements, self.rows, self.scripts, self.text, self.stack, self.section = [], [], [], {}, [], "head"
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "section":
            self.section = dict(attrs)["id"]
        if tag == "tr":
            self.rows.append((self.section, []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "script":
            self.scripts.append(data)
        elif {"td", "th"} & set(self.stack):
            self.rows[-1][1][-1] += data
        self.text[self.section] = self.text.get(self.section, "") + data

    def table(self, section):
        return [[" ".join(cell.split()) for cell in cells] for place, cells in self.rows if place == section]

    def charts(self):
        return [json.loads(script) for script in self.scripts if script.startswith("{")]


def row(name, role, means, **more):
    intervals = {measure: (max(0, mean - 0.02), min(1, mean + 0.02)) for measure, mean in means.items()}
    return RunRow(name, role=role, means=means, intervals=intervals, **more)


def comparison(baseline, difference, measure="R@5"):
    values = {"mean": 0.621, "baseline_mean": 0.621 - difference, "low": difference - 0.02, "high": difference + 0.02}
    return Comparison(
        "round-1", baseline, measure, difference=difference, p=0.001, adjusted_p=0.004, wins=9, ties=1, losses=4, **values
    )


def example(number):
    shown = [Shown("Little Thumb", text=ATTACK, score=0.5, relevant=True)]
    return Example(f"Who lived there ({number})?", answers=["woodcutter"], before_rank=None, after_rank=2, before=shown)


def full(**changes):
    values = {
        "measure": "R@5",
        "rows": [
            row("BM25", "baseline", {"R@5": 0.703, "has_answer@20": 0.8}),
            row("MiniLM", "student", {"R@5": 0.415, "has_answer@20": 0.6}, round=0),
            row("labels", "teacher", {"R@5": 0.9, "has_answer@20": 0.95}, round=1),
            row("round-1", "round", {"R@5": 0.621, "has_answer@20": 0.85}, round=1, best=True),
            row("random passages", "floor", {"has_answer@20": 0.05}),
        ],
        "comparisons": [comparison("MiniLM", 0.206), comparison("BM25", -0.082), comparison("BM25", 0.1, "R@1")],
        "curves": [Curve("round 1", x=[0, 1], y=[2.0, math.nan], x_label="step", y_label="loss", group="Reader: loss")],
        "tables": [Table("Agreement", ["Run", "inversions"], [["round-1", 24.7], ["MiniLM", math.nan]])],
        "costs": [Cost("read", seconds=90, items=180, unit="questions", peak_mb=812.4), Cost("index", seconds=0)],
        "examples": Examples("MiniLM", "round-1", wins=[example(i) for i in range(23)]),
        "attention": [AttentionMap("Who?", [Looked("T", score=1.5, tokens=["A", " <b>"], weights=[0.0, 2.0])])],
        "config": {"rounds": 2, "note": "</script><script>alert(1)"},
        "environment": {"torch": "2.13.0"},
    }
    return Report("demo <i>", **(values | changes))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return Page(write_report(full(), tmp_path_factory.mktemp("report")))


def test_the_page_loads_nothing_from_anywhere(page):
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert re.match(r"#|data:", attributes.get(name) or "#"), (tag, attributes)
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert not re.search(r"url\(|@import|https?:", style)


def test_the_browser_is_told_to_load_nothing(page):
    policies = [a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none';")
    assert "http" not in policies[0]


def test_plotly_is_inlined_once(page):
    assert sum("plotly.js v" in script for script in page.scripts) == 1


def test_without_a_curve_plotly_stays_out(tmp_path):
    path = write_report(full(curves=[], rows=full().rows[:1]), tmp_path)
    assert path.stat().st_size < 100_000


def test_text_with_tags_is_shown_and_never_run(page):
    runnable = [a for t, a in page.elements if t == "script" and a.get("type") != "application/json"]
    assert len(runnable) == 2  # plotly and the loop that draws
    assert "<script>alert('x')</script>" in page.text["examples"]
    assert "</script><script>alert(1)" in page.text["setup"]
    assert "demo <i>" in page.text["head"]


def test_every_tag_is_closed(page):
    assert page.stack == []


def test_the_question_and_its_answer_come_first_then_the_sections_in_order(page):
    ids = [a["id"] for t, a in page.elements if t == "section"]
    assert ids == ["runs", "differences", "rounds", "training", "cost", "examples", "attention", "setup"]
    assert "Is round-1 better than the untouched student and BM25?" in page.text["head"]
    assert "In part. R@5 of round-1 is 62.1: 20.6 points above the untouched student" in page.text["head"]


def test_every_link_of_the_contents_leads_to_a_section(page):
    links = {a["href"][1:] for t, a in page.elements if t == "a"}
    assert links == {a["id"] for t, a in page.elements if t == "section"}


def test_the_table_of_runs_shows_means_and_intervals_times_100(page):
    table = page.table("runs")
    assert table[0] == ["Run", "R@5", "has_answer@20"]
    assert table[4] == ["round-1 best round", "62.1 60.1\u201364.1", "85.0 83.0\u201387.0"]
    assert table[5] == ["random passages floor of has_answer", "\u2013", "5.0 3.0\u20137.0"]


def test_the_best_of_each_column_is_marked_and_the_teacher_does_not_compete(page):
    assert re.findall(r'<b class="top">([\d.]+)</b>', page.source) == ["70.3", "85.0"]


def test_differences_show_the_adjusted_p_and_the_counts(page):
    shown = [line for line in page.table("differences") if line[0] == "round-1 \u2212 BM25" and line[1] == "R@5"]
    assert shown == [
        ["round-1 \u2212 BM25", "R@5", "\u22128.2 \u221210.2 to \u22126.2", "", "0.001", "0.004", "9", "1", "4"]
    ]


def test_interval_bars_stay_inside_their_cell(page):
    for left, width in re.findall(r'<u style="left: ([\d.-]+)%; width: ([\d.-]+)%">', page.source):
        assert 0 <= float(left) <= float(left) + float(width) <= 100


def test_a_curve_per_measure_is_drawn_over_the_rounds_with_the_baselines_as_levels(page):
    first = page.charts()[0]
    assert [trace["name"] for trace in first["data"]] == ["student", "teacher's labels", "BM25"]
    assert first["data"][0]["x"] == [0, 1]
    assert first["data"][0]["y"] == pytest.approx([41.5, 62.1])
    assert len(page.charts()) == 3  # two measures and a training curve


def test_costs_have_rates_and_a_total_and_survive_zero_seconds(page):
    table = page.table("cost")
    assert table[1] == ["read", "1 min 30 s", "", "180 questions", "2", "812"]
    assert table[2] == ["index", "0.0 s", "", "\u2013", "\u2013", "\u2013"]
    assert table[3] == ["All stages", "1 min 30 s", "", "", "", "812"]


def test_what_servers_were_asked_has_a_table_of_its_own_whose_money_adds_up(tmp_path):
    one = Remote(
        "big", requests=1200, retries=3, cache_hits=4, malformed=0, prompt_tokens=90_000, completion_tokens=5, money=1.25
    )
    costs = [Cost("label", seconds=9, remote=[one, Remote("free", requests=7)]), Cost("later", seconds=1, remote=[one])]
    table = Page(write_report(full(costs=costs), tmp_path)).table("cost")[4:]
    assert table == [
        [
            "Stage",
            "Model",
            "Requests",
            "Retries",
            "From the cache",
            "Malformed",
            "Prompt tokens",
            "Completion tokens",
            "Money",
        ],
        ["label", "big", "1,200", "3", "4", "0", "90,000", "5", "1.25"],
        ["label", "free", "7", *["\u2013"] * 6],
        ["later", "big", "1,200", "3", "4", "0", "90,000", "5", "1.25"],
        ["All stages", *[""] * 7, "2.5"],
    ]


def test_what_was_planned_stands_beside_what_was_spent(tmp_path):
    disk, none = Compared("disk, MB", planned=40.0, spent=50.0), Compared("requests to servers", planned=0, spent=3)
    costs = [Cost("label", seconds=9, planned_seconds=6, compared=[disk, none]), Cost("later", seconds=1)]
    table = Page(write_report(full(costs=costs), tmp_path)).table("cost")[4:]
    assert table == [
        ["Stage", "Of", "Planned", "Spent", "Spent / planned"],
        ["label", "disk, MB", "40", "50", "1.25"],
        ["label", "requests to servers", "0", "3", "\u2013"],
    ]


def test_at_most_twenty_wins_are_shown_with_their_ranks_and_marked_answers(page):
    assert page.text["examples"].count("not found \u2192 2") == 20
    assert "A <mark>woodcutter</mark> &lt;script&gt;" in page.source


def test_the_heat_map_shades_by_weight_and_gives_it(page):
    shaded = [(a["style"], a["title"]) for t, a in page.elements if t == "s"]
    assert shaded == [("--w: 1.0", "2")]


def test_a_further_table_shows_a_missing_value_as_a_dash(page):
    assert page.table("training") == [["Run", "inversions"], ["round-1", "24.7"], ["MiniLM", "\u2013"]]


def test_the_json_holds_the_answer_and_every_field_and_no_nan(tmp_path):
    path = write_report(full(), tmp_path).parent / "report.json"

    def refuse(constant):
        raise AssertionError(constant)

    values = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert values["answer"]["kind"] == "partly"
    assert values["curves"][0]["y"] == [2.0, None]
    assert set(values) == {"answer", *Report.__dataclass_fields__}


def test_equal_reports_have_equal_bytes(tmp_path):
    one, two = write_report(full(), tmp_path / "one"), write_report(full(), tmp_path / "two")
    assert one.read_bytes() == two.read_bytes()
    assert (one.parent / "report.json").read_bytes() == (two.parent / "report.json").read_bytes()


def test_an_empty_report_says_of_every_section_why_it_is_left_out(tmp_path):
    page = Page(write_report(Report("empty", measure="R@5"), tmp_path))
    sections = [a["id"] for t, a in page.elements if t == "section"]
    assert [section for section in sections if "Left out: " not in page.text[section]] == []
    assert page.table("runs") == []


def test_without_qrels_the_report_stands_on_has_answer(tmp_path):
    rows = [
        row("MiniLM", "student", {"has_answer@20": 0.6}, round=0),
        row("round-1", "round", {"has_answer@20": 0.7}, round=1),
    ]
    page = Page(write_report(full(rows=rows, comparisons=[], measure="has_answer@20"), tmp_path))
    assert page.table("runs")[0] == ["Run", "has_answer@20"]
    assert "has_answer@20 of round-1 is 70.0" in page.text["head"]


def test_a_single_run_has_a_table_but_no_curve_over_rounds(tmp_path):
    page = Page(write_report(full(rows=[row("round-1", "round", {"R@5": 0.5}, round=1)], comparisons=[]), tmp_path))
    assert len(page.table("runs")) == 2
    assert "Left out: a curve over rounds needs two" in page.text["rounds"]


def test_a_mean_that_is_not_measured_is_a_dash_and_never_the_best(tmp_path):
    rows = [RunRow("round-1", role="round", means={"R@5": math.nan}, round=1), row("BM25", "baseline", {"R@5": 0.0})]
    page = Page(write_report(full(rows=rows, comparisons=[]), tmp_path))
    assert page.table("runs")[1][1] == "\u2013"
    assert re.findall(r'<b class="top">([\d.]+)</b>', page.source) == ["0.0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [row("a", "round", {"R@5": 62.1}, round=1)]}, r"R@5 of run 'a' is 62.1, expected a share"),
        ({"rows": [RunRow("a", role="round", means={})]}, r"'a' has the role 'round' but no round"),
        ({"rows": [row("a", "baseline", {}), row("a", "baseline", {})]}, r"give each a name of its own"),
        ({"rows": [row(n, "round", {}, round=1, best=True) for n in "ab"]}, r"\['a', 'b'\] are best.*mark one"),
        ({"comparisons": [comparison("BM25", -3.5, "inversions")]}, r"inversions of 'round-1'.*expected a share"),
    ],
)
def test_values_that_would_mislead_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        full(**changes)


def test_tokens_without_a_weight_each_are_refused():
    with pytest.raises(ValueError, match=r"'T' has 2 tokens but 1 weights"):
        Looked("T", score=1.0, tokens=["a", "b"], weights=[1.0])
