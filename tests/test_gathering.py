"""What the report of a whole run says, against the folders that it was gathered from."""

import json
from pathlib import Path

import pytest

from retort.config import load
from retort.evaluation.metrics import PerQuery
from retort.evidence import left_by_query_side
from retort.gathering import gather_report, student_name
from retort.pipeline import run
from retort.plan import plan
from retort.prepared import Prepared
from retort.records import Run
from retort.store import MANIFEST, read_json, remove, write_json
from tiny_run import config


@pytest.fixture(scope="module")
def report(finished) -> dict:
    return read_json(finished / "report" / "report.json")


def gathered(root: Path, **changes) -> dict:
    """The report of a run, gathered again."""
    chosen = load(root / "config.json", [f"{name.replace('__', '.')}={value}" for name, value in changes.items()])
    steps = plan(chosen, root)
    gather_report(steps, steps["report"], Prepared(root / "prepare"))
    return read_json(root / "report" / "report.json")


def test_every_run_of_every_round_has_a_row_with_its_part(report):
    assert [(row["name"], row["role"], row["round"]) for row in report["rows"]] == [
        ("bm25", "baseline", None),
        ("untouched", "student", 0),
        ("shuffled answers", "floor", None),
        ("random passages", "floor", None),
        ("teacher-1", "teacher", 1),
        ("round-1", "round", 1),
        ("teacher-2", "teacher", 2),
        ("round-2", "round", 2),
    ]


def test_the_rows_hold_the_values_of_the_test_questions(report, finished):
    for row in report["rows"]:
        number = row["round"] or 0
        kept = PerQuery.read(finished / f"round-{number}/evaluate/results/test.{row['name']}.parquet")
        assert row["means"] == kept.means()


def test_the_best_round_is_marked_and_it_is_the_one_that_is_kept(report, finished):
    best = [row["name"] for row in report["rows"] if row["best"]]
    assert best == [student_name(read_json(finished / "report" / "best.json")["round"])]


def say_on_dev(run, values):
    """Dev nDCG@10 of the untouched student and of the rounds, as a test would have them."""
    for number, value in enumerate(values):
        path = run / f"round-{number}/evaluate/summary.json"
        summary = read_json(path)
        summary["dev"][student_name(number)]["means"]["nDCG@10"] = value
        write_json(path, summary)


def test_the_best_round_is_chosen_on_dev_whatever_test_says(copied):
    say_on_dev(copied, (0.0, 0.9, 0.1))
    for number, value in ((1, 0.9), (2, 0.1)):
        path = copied / f"round-{number}/evaluate/summary.json"
        summary = read_json(path)
        summary["test"][f"round-{number}"]["means"]["nDCG@10"] = 1 - value
        write_json(path, summary)
    report = gathered(copied)
    assert [row["name"] for row in report["rows"] if row["best"]] == ["round-1"]


OF_LAST = [("round-2", "bm25"), ("round-2", "untouched")]
SUCCESSIVE = [("round-1", "untouched"), ("round-2", "round-1")]


@pytest.mark.parametrize(
    ("values", "best", "pairs"),
    [
        ((0.0, 0.1, 0.9), "round-2", [*OF_LAST, *SUCCESSIVE]),
        ((0.0, 0.9, 0.1), "round-1", [("round-1", "bm25"), *SUCCESSIVE]),
        ((0.9, 0.1, 0.2), "untouched", [*OF_LAST, *SUCCESSIVE]),
    ],
)
def test_the_best_student_is_kept_and_every_round_is_compared_with_the_one_before(values, best, pairs, copied):
    say_on_dev(copied, values)
    report = gathered(copied)
    assert [row["name"] for row in report["rows"] if row["best"]] == [best]
    assert list(dict.fromkeys((one["system"], one["baseline"]) for one in report["comparisons"])) == pairs
    assert {one["measure"] for one in report["comparisons"]} == {"nDCG@10", "R@5"}


def test_a_page_says_that_no_round_is_better_than_the_untouched_student(copied):
    say_on_dev(copied, (0.9, 0.1, 0.2))
    gathered(copied)
    assert "Kept was the untouched student, not a round." in (copied / "report" / "index.html").read_text()


def test_the_costs_are_those_of_the_folders(report, finished):
    named = {cost["stage"]: cost for cost in report["costs"]}
    found = {str(path.parent.relative_to(finished)): read_json(path) for path in finished.rglob("cost.json")}
    del found["report"]  # is not over when the report is written
    assert {name: cost["seconds"] for name, cost in named.items()} == {n: cost["seconds"] for n, cost in found.items()}


def test_every_value_of_the_training_logs_has_a_curve_for_each_round(report, finished):
    names = {(curve["group"], curve["name"]) for curve in report["curves"]}
    for stage, who in (("read", "Reader"), ("distil", "Student")):
        for number in (1, 2):
            lines = [json.loads(line) for line in (finished / f"round-{number}/{stage}/log.jsonl").read_text().splitlines()]
            shown = {name for line in lines for name in line} - {"step", "learning_rate", "gradient_norm"}
            assert {(f"{who}: {name}", f"round {number}") for name in shown} <= names


def test_a_curve_holds_the_steps_at_which_its_value_was_logged(report):
    curve = next(one for one in report["curves"] if (one["group"], one["name"]) == ("Student: dev", "round 1"))
    assert curve["x"] == [0, 2, 4]


def test_wins_and_losses_are_the_questions_that_moved_most_with_their_passages(report, finished):
    best = read_json(finished / "report" / "best.json")["round"] or 2  # else the last is shown
    old = PerQuery.read(finished / "round-0/evaluate/results/test.untouched.parquet").measures["nDCG@10"]
    new = PerQuery.read(finished / f"round-{best}/evaluate/results/test.round-{best}.parquet").measures["nDCG@10"]
    texts = [query.text for query in Prepared(finished / "prepare").splits["test"]]
    gains = {text: value for text, value in zip(texts, new - old, strict=True) if value != 0}
    wins, losses = ([one["query"] for one in report["examples"][kind]] for kind in ("wins", "losses"))
    assert [gains[text] for text in wins] == sorted((v for v in gains.values() if v > 0), reverse=True)[:3]
    assert [gains[text] for text in losses] == sorted(v for v in gains.values() if v < 0)[:3]
    assert wins or losses


def test_the_passages_of_an_example_are_the_first_that_each_run_found(report, finished):
    prepared, best = Prepared(finished / "prepare"), read_json(finished / "report" / "best.json")["round"] or 2
    example = (report["examples"]["wins"] + report["examples"]["losses"])[0]
    query = next(query for query in prepared.splits["test"] if query.text == example["query"])
    for side, number in (("before", 0), ("after", best)):
        rows = Run.read(finished / f"round-{number}/retrieve/student.parquet").of(query.id)[0]
        assert [shown["title"] for shown in example[side]] == [prepared.corpus[row].title for row in rows[:3].tolist()]
        right = [row for row in range(len(rows)) if prepared.corpus.ids(rows)[row] == f"p{query.id[1:]}"]
        assert example[f"{side}_rank"] == (right[0] + 1 if right else None)


@pytest.mark.parametrize("count", [0, 1, 8])
def test_as_many_heat_maps_are_shown_as_are_asked_for(count, copied):
    assert len(gathered(copied, report__maps=count)["attention"]) == count


def test_a_heat_map_shows_the_best_labelled_passages_and_all_their_tokens(report, finished):
    prepared, best = Prepared(finished / "prepare"), read_json(finished / "report" / "best.json")["round"] or 2
    labels = Run.read(finished / f"round-{best}/label/labels.parquet")
    for one, query in zip(report["attention"], prepared.splits["test"], strict=False):
        rows, scores = labels.of(query.id)
        assert one["query"] == query.text
        assert [looked["score"] for looked in one["passages"]] == pytest.approx(scores.tolist())
        for looked, row in zip(one["passages"], rows.tolist(), strict=True):
            passage = prepared.corpus[row]
            assert "".join(looked["tokens"]).endswith(f"title: {passage.title} context: {passage.text}")


def test_the_report_shows_the_config_that_was_run_and_the_versions_it_ran_with(report, finished):
    assert report["config"] == read_json(finished / "config.json")
    assert {"python", "machine", "torch", "transformers"} <= report["environment"].keys()


def test_the_page_is_there_and_names_the_question(finished):
    page = (finished / "report" / "index.html").read_text()
    assert "Is round-" in page
    assert 'src="http' not in page


# --- what training the query side alone leaves


def taught(sources, *, query_side):
    """One round on labels that need no model."""
    return config(
        sources, rounds=1, label={"teachers": [{"kind": "answers"}, {"kind": "bm25"}]},
        distil={"student": {"query_side": query_side}, "optimiser": {"learning_rate": 0.02}},
    )  # fmt: skip


def test_query_side_training_is_set_against_full_training_on_the_same_labels_or_against_the_labels(sources, tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"

    def row():
        return left_by_query_side(plan(taught(sources, query_side="full"), alone), 1, "nDCG@10")

    def dev(root, name):
        return PerQuery.read(root / f"round-1/evaluate/results/dev.{name}.parquet").means()["nDCG@10"]

    run(taught(sources, query_side="full"), alone)
    found, tables = row(), read_json(alone / "report" / "report.json")["tables"]
    shown = next(table for table in tables if table["title"] == "What training the query side alone leaves")
    assert dict(zip(shown["columns"], *shown["rows"], strict=True)) == found
    assert found["against"] == "teacher-1 as a ranking: at most about"
    assert (found["dev nDCG@10"], found["its dev"]) == (dev(alone, "round-1"), dev(alone, "teacher-1"))
    assert found["left"] == pytest.approx(found["its dev"] - found["dev nDCG@10"])
    assert found["from"] <= found["left"] <= found["to"]

    run(taught(sources, query_side=None), both)
    found = row()
    assert found["against"] == "round-1 of both, both sides"
    assert found["its dev"] == dev(both, "round-1")
    assert found["left"] == pytest.approx(found["its dev"] - found["dev nDCG@10"])

    config_of, labels = (both / "config.json").read_text(), (both / "round-1/label/labels.parquet").read_bytes()
    (both / "config.json").write_text('{"old": 1}')  # of another version
    assert row()["against"] == "teacher-1 as a ranking: at most about"
    (both / "config.json").write_text(config_of)
    (both / "round-1/label/labels.parquet").write_bytes(labels + b" ")  # other labels
    assert row()["against"] == "teacher-1 as a ranking: at most about"
    (both / "round-1/label/labels.parquet").write_bytes(labels)
    remove(both / "round-1/evaluate" / MANIFEST)  # not done
    assert row()["against"] == "teacher-1 as a ranking: at most about"


def test_a_run_that_trains_both_sides_and_encodes_anew_says_nothing_of_either(report):
    titles = {table["title"] for table in report["tables"]}
    assert not titles & {"What training the query side alone leaves", "Freshness of the search"}
