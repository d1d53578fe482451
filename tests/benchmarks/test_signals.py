import json

import signals

from retort.records import Run


def test_every_signal_orders_the_same_candidates_and_its_labels_are_measured(finished, capsys):
    signals.main([str(finished), "--depth", "4", "--questions", "3"])
    line = json.loads(capsys.readouterr().out)
    assert line["questions"] == 3
    assert set(signals.SIGNALS) | {"bm25", "answers"} < set(line["runs"])
    assert all(0 <= value <= 1 for run in line["runs"].values() for values in run.values() for value in values)
    assert line["runs"]["answers"]["R@1"][0] >= line["runs"]["fid_kd"]["R@1"][0]  # one passage alone holds each answer
    assert all(seconds > 0 for seconds in line["seconds_a_question"].values())


def test_a_run_of_scores_keeps_each_questions_candidates():
    shown = Run.build("c", ["a", "b"], [[3, 1], [2, 0]], [[2.0, 1.0], [2.0, 1.0]])
    found = signals._run("x", shown, [[0.0, 5.0], [1.0, 0.5]])
    assert [rows.tolist() for _, rows, _ in found] == [[1, 3], [2, 0]]
