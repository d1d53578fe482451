from functools import partial

import numpy as np
import pytest
import speed


def test_timings_take_turns():
    order = []
    speed.timed({name: lambda name=name: order.append(name) for name in "ab"}, 3)
    assert order == ["a", "b"] * 3


def test_times_are_summed_up_by_medians():
    times = {"ours": speed.Times((2.0, 9.0, 1.0)), "theirs": speed.Times((6.0, 5.0, 7.0))}
    assert speed.ratios(times, "ours") == {"theirs": 3.0}
    assert speed.seconds_of(times) == {"seconds": {"ours": 2.0, "theirs": 6.0}, "spread": {"ours": 4.0, "theirs": 0.33}}


@pytest.mark.parametrize(("bounds", "value", "verdict"), [
    ({"at_least": 5}, 5.0, "pass"), ({"at_least": 5}, 4.99, "falls short"),
    ({"at_most": 1.5}, 1.5, "pass"), ({"at_most": 1.5}, 1.51, "falls short"),
])  # fmt: skip
def test_a_bound_that_is_reached_is_a_pass(bounds, value, verdict):
    assert speed.Target("a", "b", **bounds).verdict(value) == verdict


def holding(megabytes):
    """Holds 64 MB before the work, and in the work `megabytes` for a moment."""
    before = np.ones(8 * 2**20)

    def work():
        return np.ones(megabytes * 2**17).sum() + before[0]

    return work


def test_the_memory_of_a_work_is_what_it_adds_to_what_was_held():
    spent = speed.alone(partial(holding, 128))
    assert spent.value == 128 * 2**17 + 1
    assert spent.megabytes == pytest.approx(128, abs=4)
    assert spent.before_megabytes > 64
    assert spent.seconds > 0


def test_real_texts_are_those_of_the_data_set_in_another_order(data):
    speed.real_texts.cache_clear()
    texts = speed.real_texts()
    ids = [passage.id for passage in texts.passages]
    assert texts.name == "fairytaleqa"
    assert sorted(ids) == sorted(f"p{i}" for i in range(20))
    assert ids != sorted(ids)
    speed.real_texts.cache_clear()


def test_without_data_real_texts_are_docstrings(monkeypatch):
    monkeypatch.delenv("RETORT_DATA", raising=False)
    monkeypatch.setattr(speed, "DOCSTRINGS", "docstrings:textwrap")
    speed.real_texts.cache_clear()
    texts = speed.real_texts("squad")
    assert texts.name == "docstrings"
    assert any(passage.title.startswith("textwrap.") for passage in texts.passages)
    assert texts.queries
    speed.real_texts.cache_clear()


def test_a_line_has_a_row_for_each_target_and_its_verdict():
    target = speed.Target("label pass", "its floor", at_most=1.5)
    line = {"targets": [target.found(1.2345678), target.unmeasured("no bf16")]}
    assert list(speed.verdicts(line)) == [
        ["label pass", "its floor", "<= 1.5 x", "1.235", "pass"],
        ["label pass", "its floor", "<= 1.5 x", "", "not measured: no bf16"],
    ]
    assert list(speed.verdicts({})) == []


def test_lines_are_found_among_other_output():
    line = '{"benchmark": "x", "a": 1}'
    assert speed.lines_of(f"loading\n{{'train_runtime': 2.0}}\n{line}\n{line}\n") == [{"benchmark": "x", "a": 1}] * 2
