"""A finished run on other collections: one table, with each system on each of them and the average."""

import json

import pytest
from typer.testing import CliRunner

from retort.cli import app
from retort.store import MANIFEST, read_json
from retort.suite import evaluate_suite
from tiny_run import PASSAGES, passage, question


def collection(folder, numbers):
    """A folder in BEIR's layout: all passages, some questions, a grade for each."""
    (folder / "qrels").mkdir(parents=True)
    rows = (passage(i) for i in range(PASSAGES))
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": r["id"], **r}) + "\n" for r in rows))
    asked = [{"_id": f"q{i}", "text": question(i)["question"]} for i in range(max(numbers) + 1)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    lines = [f"q{i}\tp{i}\t1\n" for i in numbers]
    (folder / "qrels" / "test.tsv").write_text("".join(["query-id\tcorpus-id\tscore\n", *lines]))
    return folder


def test_each_system_has_a_row_each_collection_a_column_and_parts_count_as_one(finished, tmp_path):
    folders = [collection(tmp_path / "one", [1, 2, 3]), *(
        collection(tmp_path / "cqadupstack" / name, [number]) for name, number in (("tex", 4), ("gis", 7))
    )]  # fmt: skip
    table = evaluate_suite(finished, folders, "R@5")
    assert table.datasets == ("one", "cqadupstack")
    best = read_json(finished / "report" / "best.json")["round"]
    assert list(table.rows) == ["bm25", "untouched", *([f"round-{best}"] if best else [])]
    assert table.averages["bm25"] == pytest.approx(sum(table.rows["bm25"]) / 2)
    assert table.rows["bm25"][0] > 0.6  # words of the question stand in its passage alone


@pytest.mark.parametrize(("asked", "named"), [("MRR@10", "RR@10"), ("AP", "AP")])
def test_a_measure_may_go_by_another_name_and_have_no_cut(asked, named, finished, tmp_path):
    table = evaluate_suite(finished, [collection(tmp_path / "one", [1])], asked)
    assert (table.measure, table.datasets) == (named, ("one",))


def test_the_command_prints_the_table(finished, tmp_path):
    result = CliRunner().invoke(app, ["suite", str(finished), str(collection(tmp_path / "one", [1])), "--measure", "RR@10"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("| RR@10")


def test_the_command_prints_json(finished, tmp_path):
    folder = str(collection(tmp_path / "one", [1]))
    result = CliRunner().invoke(app, ["suite", str(finished), folder, "--json"])
    assert json.loads(result.stdout)["datasets"] == ["one"]


@pytest.mark.parametrize(
    ("measure", "broken", "message"),
    [
        ("nDGC@10", None, "nDGC@10"),
        ("nDCG@10", "corpus.jsonl", "second has no corpus.jsonl"),
        ("nDCG@10", "qrels/test.tsv", "qrels"),
        ("has_answer@5", None, "first: its questions have no answers, which has_answer@5 needs"),
    ],
)
def test_what_is_wrong_with_the_last_collection_is_said_before_the_first_is_read(
    measure, broken, message, finished, tmp_path, monkeypatch
):
    folders = [collection(tmp_path / name, [1]) for name in ("first", "second")]
    if broken:
        (folders[1] / broken).unlink()
    monkeypatch.setattr("retort.suite.read_corpus", None)
    monkeypatch.setattr("retort.suite.load_student", None)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate_suite(finished, folders, measure)


def test_a_folder_that_holds_no_finished_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run, expected config\.json and prepare/ there"):
        evaluate_suite(tmp_path, [collection(tmp_path / "one", [1])], "nDCG@10")


def test_a_run_whose_best_student_is_in_training_again_is_refused(copied, tmp_path):
    facts = read_json(copied / "report" / MANIFEST)
    (copied / "report" / MANIFEST).write_text(json.dumps(facts | {"best_round": 1}))
    (copied / "round-1" / "distil" / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"round-1/distil is .*, expected a finished stage"):
        evaluate_suite(copied, [collection(tmp_path / "one", [1])], "nDCG@10")


def test_the_collection_that_a_run_was_trained_on_is_not_in_the_average(copied, tmp_path):
    folders = [collection(tmp_path / name, [number]) for name, number in (("own", 1), ("other", 4))]
    values = read_json(copied / "config.json")
    values["prepare"]["corpus"] = str(tmp_path / "own" / "corpus.jsonl")
    (copied / "config.json").write_text(json.dumps(values))
    table = evaluate_suite(copied, folders, "RR@10")
    assert table.averages["untouched"] == table.rows["untouched"][table.datasets.index("other")]


def test_a_passage_with_the_id_of_its_question_is_no_hit(finished, tmp_path):
    folder = collection(tmp_path / "one", [1])
    text = (folder / "corpus.jsonl").read_text() + json.dumps({"_id": "q1", "text": question(1)["question"]}) + "\n"
    (folder / "corpus.jsonl").write_text(text)
    assert evaluate_suite(finished, [folder], "RR@10").rows["bm25"] == (1.0,)


def test_two_collections_of_one_name_are_refused(finished, tmp_path):
    with pytest.raises(ValueError, match="expected different names"):
        evaluate_suite(finished, [tmp_path / "a" / "nfcorpus", tmp_path / "b" / "nfcorpus"], "nDCG@10")
