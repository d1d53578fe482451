"""Which steps a run has, what each reads, and which settings its key depends on. Files are not needed: a plan reads none."""

from pathlib import Path

import pytest

from retort.config import Config
from retort.plan import VERSIONS, plan, reads, refresh_of, rerank_depth, stored_round
from retort.store import key_of
from tiny_run import config

SOURCES = Path("sources")  # is not there: a source that is missing has a key too
ROUND_0 = ["encode", "index", "retrieve", "evaluate"]
ROUND = ["read", "label", "distil", *ROUND_0]


def keys(chosen: Config, root: Path = Path("run")) -> dict[str, str]:
    return {name: step.folder.key for name, step in plan(chosen, root).items()}


def changed(**changes) -> set[str]:
    """The steps whose key is another one with these changes."""
    before, after = keys(config(SOURCES)), keys(config(SOURCES, **changes))
    return {name for name in before.keys() & after.keys() if before[name] != after[name]}


def test_labels_of_a_round_depend_on_who_marked_its_positives():
    """Round 1 reads grades in both, so that prepare leaves the same questions."""
    graded = {"objectives": [{"name": "bkl"}], "positives": "qrels"}
    one, two = (
        keys(config(SOURCES, distil=graded, overrides={2: {"distil": {"positives": positives}}}))
        for positives in ("qrels", "scores")
    )
    assert one["prepare"] == two["prepare"]
    assert one["round-1/label"] == two["round-1/label"]
    assert one["round-2/label"] != two["round-2/label"]


def test_the_steps_stand_in_the_order_of_the_rounds():
    rounds = [f"round-0/{stage}" for stage in ROUND_0] + [f"round-{n}/{stage}" for n in (1, 2) for stage in ROUND]
    assert list(plan(config(SOURCES), Path("run"))) == ["prepare", *rounds, "report"]


def test_a_step_reads_only_steps_before_it():
    steps = plan(config(SOURCES, rounds=3), Path("run"))
    order = list(steps)
    assert all(order.index(before) < order.index(name) for name, step in steps.items() for before in step.inputs)


def test_every_step_but_the_report_is_read_by_another():
    steps = plan(config(SOURCES), Path("run"))
    assert set(steps) - {before for step in steps.values() for before in step.inputs} == {"report"}


def test_a_step_has_a_folder_of_its_own_name():
    assert {name: step.path for name, step in plan(config(SOURCES), Path("run")).items()} == {
        name: Path("run") / name for name in keys(config(SOURCES))
    }


def test_a_plan_does_not_depend_on_the_folder_of_the_run():
    assert keys(config(SOURCES), Path("here")) == keys(config(SOURCES), Path("there"))


@pytest.mark.parametrize("stage", ["read", "distil"])
def test_a_training_that_continues_reads_the_one_before(stage):
    restarts = plan(config(SOURCES), Path("run"))
    continues = plan(config(SOURCES, **{stage: {"later_rounds": "continue"}}), Path("run"))
    assert f"round-1/{stage}" not in restarts[f"round-2/{stage}"].inputs
    assert f"round-1/{stage}" in continues[f"round-2/{stage}"].inputs
    assert continues[f"round-1/{stage}"].inputs == restarts[f"round-1/{stage}"].inputs


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"prepare": {"limit": {"train": 5}}}, ["prepare"]),
        ({"encode": {"batch_tokens": 9}}, ["round-0/encode"]),
        ({"encode": {"refresh": "rerank"}}, ["round-1/encode"]),
        ({"encode": {"refresh": "auto"}}, ["round-1/encode"]),
        ({"distil": {"student": {"query_tokens": 9}}}, ["round-0/encode"]),
        ({"index": {"kind": "ivf"}}, ["round-0/index"]),
        ({"retrieve": {"bm25": {"k1": 1.2}}}, ["round-0/index"]),
        ({"retrieve": {"depth": 9}}, ["round-0/retrieve"]),
        ({"evaluate": {"samples": 9}}, ["round-0/evaluate", "round-1/evaluate", "round-2/evaluate"]),
        ({"read": {"dropout": 0.2}}, ["round-1/read"]),
        ({"label": {"depth": 5}}, ["round-1/label"]),
        ({"label": {"require_answer": True}}, ["round-1/distil"]),
        ({"distil": {"batch": 5}}, ["round-1/distil"]),
        ({"report": {"maps": 1}}, ["report"]),
        ({"overrides": {2: {"distil": {"batch": 5}}}}, ["round-2/distil"]),
        ({"overrides": {2: {"encode": {"batch_tokens": 5}}}}, ["round-2/encode"]),
    ],
    ids=str,
)
def test_a_setting_changes_the_keys_of_its_own_steps_and_of_all_that_read_them(changes, first):
    steps, reached = plan(config(SOURCES), Path("run")), set()
    for name, step in steps.items():
        if name in first or reached & set(step.inputs):
            reached.add(name)
    assert changed(**changes) == reached


@pytest.mark.parametrize(
    "changes", [{"compute": {"device": "auto", "precision": "auto"}}, {"compute": {"trackers": ["tensorboard"]}}], ids=str
)
def test_hardware_and_trackers_change_no_key(changes):
    assert changed(**changes) == set()


def test_another_number_of_rounds_changes_the_report_alone():
    assert changed(rounds=3) == {"report"}


@pytest.mark.parametrize("name", ["rerank_depth", "stale_below", "probe_questions", "probe_depth"])
def test_settings_of_a_refreshing_that_is_not_done_change_no_key(name):
    assert changed(encode={name: 7}) == set()
    auto, other = ({"refresh": "auto"}, {"refresh": "auto", name: 7})
    assert keys(config(SOURCES, encode=auto))["round-1/encode"] != keys(config(SOURCES, encode=other))["round-1/encode"]


@pytest.mark.parametrize(
    ("query_side", "refresh", "later", "expected"),
    [
        (None, "full", "continue", [("full", None), ("full", None), ("full", None)]),
        (None, "rerank", "restart", [("full", None), ("rerank", 0), ("rerank", 1)]),
        (None, "auto", "continue", [("full", None), ("auto", 0), ("auto", 1)]),
        ("full", "full", "continue", [("full", None), ("keep", 0), ("keep", 1)]),
        ("lora", "full", "restart", [("full", None), ("keep", 0), ("keep", 0)]),  # each starts from the untouched student
    ],
)
def test_the_vectors_that_may_stay_are_those_of_the_round_before_or_of_the_student_started_from(
    query_side, refresh, later, expected
):
    distil = {"student": {"query_side": query_side}, "later_rounds": later}
    chosen = config(SOURCES, encode={"refresh": refresh}, distil=distil)
    assert [(refresh_of(chosen, number), stored_round(chosen, number)) for number in range(3)] == expected
    steps = plan(chosen, Path("run"))
    for number, (_, stored) in enumerate(expected):
        assert (f"round-{stored}/index" in steps[f"round-{number}/encode"].inputs) == (stored is not None)


def test_twice_as_many_are_ranked_anew_as_are_asked_for_unless_it_is_said():
    assert rerank_depth(config(SOURCES)) == 20
    assert rerank_depth(config(SOURCES, encode={"rerank_depth": 15})) == 15


def test_a_changed_source_changes_every_key(tmp_path):
    source = tmp_path / "corpus.jsonl"
    source.write_text('{"id": "a", "text": "one"}\n')
    before = keys(config(tmp_path))
    source.write_text('{"id": "a", "text": "two"}\n')
    after = keys(config(tmp_path))
    assert [name for name in before if before[name] == after[name]] == []


@pytest.mark.parametrize("stage", VERSIONS)
def test_another_format_of_a_stage_changes_its_keys(stage, monkeypatch):
    before = keys(config(SOURCES))
    monkeypatch.setitem(VERSIONS, stage, 99)
    after = plan(config(SOURCES), Path("run"))
    assert {name for name in before if before[name] != after[name].folder.key} >= {
        name for name, step in after.items() if step.stage == stage
    }


def test_a_known_key_is_taken_as_it_is_and_what_reads_it_follows():
    found = {name: step.folder.key for name, step in plan(config(SOURCES), Path("run"), known={"prepare": "abc"}).items()}
    before = keys(config(SOURCES))
    assert found["prepare"] == "abc"
    assert [name for name in found if found[name] == before[name]] == []


def test_a_key_is_that_of_the_section_and_of_the_inputs():
    steps = plan(config(SOURCES), Path("run"))
    section = {"encode": {"passages_per_part": 16, "batch_tokens": 16384}, "round": 2}
    assert steps["round-2/encode"].folder.key == key_of(section, [steps["round-2/distil"].folder.key], VERSIONS["encode"])


def test_drawing_a_positive_reads_what_is_positive_whatever_the_objective(sources):
    assert reads(config(sources)) == frozenset()
    assert reads(config(sources, distil={"sample": "positive"})) == {"positive"}
