import json
from pathlib import Path

import numpy as np
import pytest
import rows

from retort.config import Config
from retort.evaluation.metrics import PerQuery

RECIPE = Path(__file__).parents[2] / "recipes" / "fairytaleqa_cpu.yaml"


@pytest.mark.parametrize(("root", "reason"), [(None, "RETORT_DATA is not set"), ("empty", "no corpus.jsonl")])
def test_data_that_is_not_there_is_a_reason_on_stderr(root, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RETORT_DATA", raising=False)
    if root:
        monkeypatch.setenv("RETORT_DATA", str(tmp_path / root))
    assert rows.data_folder("fairytaleqa") is None
    printed = capsys.readouterr()
    assert reason in printed.err
    assert printed.out == ""


def test_the_config_on_data_names_no_file_of_train_grades(data):
    config = rows.config_on(data, RECIPE, ["rounds=1"])
    assert isinstance(config, Config)
    assert config.rounds == 1
    assert sorted(Path(source).name for source in config.prepare.qrels.values()) == ["dev.tsv", "test.tsv"]
    named = [config.prepare.corpus, *config.prepare.queries.values()]
    assert all(Path(source).is_file() for source in named)  # a folder would bring its qrels along


def test_a_row_holds_the_mean_between_the_ends_of_its_interval():
    result = PerQuery("demo", tuple(f"q{i}" for i in range(40)), {"R@5": np.arange(40) % 4 / 4})
    mean, low, high = rows.row(result)["R@5"]
    assert low < mean < high
    assert mean == 0.375


def test_a_line_names_commit_date_machine_and_command(capsys):
    rows.print_line("demo", {"runs": {}}, argv=["--set", "a.b=c d"])
    line = json.loads(capsys.readouterr().out)
    assert list(line) == ["benchmark", "commit", "date", "machine", "command", "runs"]
    assert line["machine"]["threads"] >= 1
    assert line["command"] == "benchmarks/demo.py --set 'a.b=c d'"


def test_tests_are_paired_by_question_and_corrected_together():
    rng = np.random.default_rng(0)
    ids = tuple(f"q{i}" for i in range(30))
    values = {"a": rng.random(30), "b": rng.random(30)}
    systems = {name: PerQuery("run", ids, {"R@5": found}) for name, found in values.items()}
    systems["c"] = PerQuery("run", ids[::-1], {"R@5": values["a"][::-1] - 0.5})
    found = rows.compared(systems, [("a", "c"), ("a", "b")])
    assert [(one["system"], one["baseline"], one["measure"]) for one in found] == [("a", "c", "R@5"), ("a", "b", "R@5")]
    assert (found[0]["difference"], found[0]["wins"]) == (0.5, 30)
    assert found[0]["adjusted_p"] == pytest.approx(2 * found[0]["p"], abs=1e-4)
    assert rows.compared(systems, []) == []
