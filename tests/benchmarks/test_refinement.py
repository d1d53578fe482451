import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import refinement

from retort.checks import check_config
from retort.evaluation.metrics import PerQuery
from retort.plan import reads
from retort.store import read_json

BUDGET = [
    "--warm-steps", "2", "--warm-batch", "4", "--steps", "2", "--batch", "4", "--candidates", "3", "--frozen-layers", "0",
    "--teacher-steps", "2", "--teacher-batch", "8", "--teacher-tokens", "48",
]  # fmt: skip


def test_without_data_nothing_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RETORT_DATA", raising=False)
    refinement.main(["--out", str(tmp_path / "run")])
    assert capsys.readouterr().err.startswith("skipped: ")
    assert not (tmp_path / "run").exists()


def test_losses_and_seeds_share_what_they_can_and_a_second_start_repeats_the_line(data, options, tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "run"), "--losses", "kl", "ckl", "--seeds", "0", "1", *BUDGET, *options]
    lines = [_line(arguments, capsys) for _ in range(2)]
    assert lines[0] == lines[1]  # nothing was done again
    folder, line = tmp_path / "run" / "dense", lines[0]
    shared = {place for place in folder.glob("*/seed-*/*/*") if place.is_symlink()}
    losses = ("kl", "ckl-gamma5-alpha1")
    assert {folder / loss / f"seed-{seed}" / "round-0/encode" for loss in losses for seed in (0, 1)} <= shared
    assert {folder / losses[1] / "seed-1" / "round-0" / stage for stage in ("index", "retrieve", "evaluate")} <= shared
    configs = [read_json(place) for depth in ("*", "*/seed-*") for place in folder.glob(f"{depth}/config.json")]
    labelled_by = Counter(config["label"]["teachers"][0]["kind"] for config in configs)
    assert labelled_by == {"bm25": 1, "cross_encoder": 1, "run": 4}  # the warm-up, once for all, its file
    assert list(line["systems"]) == ["bm25", "warm", "teacher", "kl", "ckl"]
    assert line["systems"]["teacher"]["R@20"] == line["systems"]["warm"]["R@20"]  # the same passages in another order
    seeds = [line["seeds"][f"ckl/seed-{seed}"]["RR@10"] for seed in (0, 1)]
    assert line["systems"]["ckl"]["RR@10"][0] == pytest.approx(np.mean(seeds), abs=2e-4)
    assert [(one["system"], one["baseline"]) for one in line["tests"][::3]] == [
        ("ckl", "kl"),
        ("kl", "warm"),
        ("ckl", "warm"),
    ]
    assert {"warm", "teacher", "label", "ckl/seed-1"} <= line["seconds"].keys()


@pytest.mark.filterwarnings("ignore:.* has no masked-language-model head", "ignore:.* have collapsed")
def test_a_sparse_student_is_refined_with_one_seed(data, options, tmp_path, capsys):
    line = _line(["--out", str(tmp_path), "--student", "sparse", "--losses", "ckl", *BUDGET, *options], capsys)
    assert list(line["seeds"]) == ["ckl/seed-0"]
    warm, refined = (
        read_json(tmp_path / "sparse" / name / "config.json")["distil"] for name in ("warm", "ckl-gamma5-alpha1/seed-0")
    )
    assert [one["name"] for one in warm["objectives"]] == ["info_nce", "flops", "flops"]
    assert (refined["student"]["kind"], [one["name"] for one in refined["objectives"]]) == ("sparse", ["ckl"])


def test_a_late_interaction_student_has_the_alpha_and_the_one_seed_of_colbert(data, options, tmp_path):
    words = ["--out", str(tmp_path), "--student", "late_interaction", *BUDGET, *options]
    study = refinement.Study(data, _arguments(words))
    chosen, _ = study.chosen(_warm(options))
    config = study.refining(_warm(options), "ckl", chosen["ckl"], {}, 0)
    check_config(config)
    assert (study.seeds, chosen["ckl"]["alpha"]) == ([0], 1.5)
    assert (config.distil.student.kind, config.distil.student.scale) == ("late_interaction", None)


@pytest.mark.parametrize("loss", list(refinement.LOSSES))
def test_every_loss_draws_a_gold_passage_and_others_of_the_student_s_first_20(loss, data, options, tmp_path):
    study = refinement.Study(data, _arguments(["--out", str(tmp_path), *BUDGET, *options]))
    label = {"label": {"teachers": [{"kind": "run", "scores": "labels.parquet"}]}}
    config = study.refining(_warm(options), loss, refinement.LOSSES[loss], label)
    check_config(config)
    assert "positive" in reads(config)
    assert (config.distil.sample, config.distil.positives) == ("positive", "qrels")
    assert (config.distil.negatives.system, config.distil.negatives.window) == ("student", 20)
    assert config.distil.objectives[0].name == loss


def test_a_sweep_chooses_the_settings_that_are_best_on_dev(data, options, monkeypatch):
    values = {"ckl-gamma2-alpha0": 0.3, "ckl-gamma2-alpha1": 0.5, "ckl-gamma5-alpha0": 0.4, "ckl-gamma5-alpha1": 0.2}
    monkeypatch.setattr(
        refinement.Study, "refined", lambda study, warm, loss, settings, seed: refinement.title(loss, settings)
    )
    monkeypatch.setattr(
        refinement, "result", lambda name, number, run, split: _result(run, [values[name]]) if split == "dev" else None
    )
    study = refinement.Study(data, _arguments(["--losses", "kl", "ckl", "--sweep", *options]))
    chosen, swept = study.chosen(_warm(options))
    assert chosen == {"kl": {}, "ckl": {"gamma": 2.0, "alpha": 1.0}}
    assert swept == values


def test_hard_questions_are_those_that_the_teacher_ranks_low():
    found = {"teacher": _result("teacher", [0.0, 0.1, 0.2, 1.0]), "warm": _result("warm", [0.5, 0.25, 1.0, 1.0])}
    hard = refinement.hard(found)
    assert hard["questions"] == 2
    assert hard["systems"]["warm"]["RR@10"][0] == 0.375
    assert refinement.hard({"teacher": _result("teacher", [1.0])}) == {"questions": 0}


def _result(name: str, values: list[float]) -> PerQuery:
    return PerQuery(name, tuple(f"q{i}" for i in range(len(values))), {"RR@10": np.array(values)})


def _arguments(words: list[str]) -> argparse.Namespace:
    return refinement._options().parse_args(words)


def _warm(options: list[str]) -> Path:
    """The tiny student that the options name."""
    return Path(next(word for word in options if word.startswith("distil.student.model=")).partition("=")[2])


def _line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    refinement.main(arguments)
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)
