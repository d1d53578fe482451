import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from retort.config import Phase
from retort.records import Group, Passage, Query
from retort.teachers.fid import training
from retort.teachers.fid.loading import load_reader
from retort.teachers.fid.training import ReaderData, eligible, evaluate_reader, train_reader, training_group
from retort.text import has_answer
from tiny import tiny_reader
from toy import PLACES, toy_groups, toy_settings, toy_training

KINDS = ["t5", "bart", "bert", "copying"]
RESULT = ("model/model.safetensors", "log.jsonl")


class KilledError(Exception):
    """Stands for a kill: nothing in the code under test catches it."""


@pytest.fixture
def reader(tokenizer):
    """Makes readers of a kind, always with the same weights."""

    def make(kind="t5", **more):
        return tiny_reader("bert" if kind == "copying" else kind, tokenizer, copies=kind == "copying", **more)

    return make


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(reader):
    return {name: value.clone() for name, value in reader.state_dict().items()}


def assert_close(found, wanted, atol):
    """Equal weights, but for biases of keys: softmax cancels them, and Adam makes whole steps of the rounding of zero."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if not name.endswith(("key.bias", "k_proj.bias")):
            torch.testing.assert_close(found[name], value, atol=atol, rtol=0, msg=name)


# ---- learning


@pytest.mark.parametrize("kind", ["t5", "copying"])
def test_training_answers_what_the_untrained_reader_cannot(reader, tmp_path, kind):
    settings = toy_settings(steps=40, passages=4, batch=8, rate=1e-2, evaluate_every=20, checkpoint_every=100)
    untrained = evaluate_reader(reader(kind), toy_groups(), settings, Accelerator(cpu=True))
    best = toy_training(reader(kind), tmp_path, settings)
    losses = [line["loss"] for line in log(tmp_path)]
    assert untrained == {"EM": 0.0, "F1": 0.0}
    assert best["EM"] >= 0.5
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
    saved = evaluate_reader(load_reader(tmp_path / "model"), toy_groups(), settings, Accelerator(cpu=True))
    assert saved == {name: best[name] for name in ("EM", "F1")}


def test_the_loss_is_the_mean_over_the_target_tokens_of_the_batch(reader, tmp_path):
    settings = toy_settings(steps=1, batch=8, passages=4)
    toy_training(reader(), tmp_path, settings)
    rows = training.batch_rows(8, 8, 0, 0)
    groups = [training_group(toy_groups()[row], settings.phases[0], np.random.default_rng([0, 0, int(row)])) for row in rows]
    answers = [group.query.answers[0] for group in groups]
    targets = training.tokenise_targets(reader(), answers, settings.prompts)
    with torch.no_grad():
        log_probs = reader()(*training.tokenise_passages(reader(), groups, settings.prompts), targets)
    assert len({len(answer.split()) for answer in answers}) > 1
    assert log(tmp_path)[0]["loss"] == pytest.approx(-float(log_probs.sum() / (targets >= 0).sum()), abs=1e-5)


# ---- resuming


def restless(reader, *rest):
    """Evaluation as an erratic function of the weights, so that the best reader changes now and then."""
    value = reader.model.get_encoder().get_input_embeddings().weight.detach().double().sum()
    return {"EM": 1e4 * float(value) % 1, "F1": 0.0}


@pytest.fixture
def _restless(monkeypatch):
    monkeypatch.setattr(training, "evaluate_reader", restless)


@pytest.fixture(scope="module")
def uninterrupted(tokenizer, tmp_path_factory):
    """For each kind: the settings with dropout and two phases, the result of a whole run, and its bytes."""
    phases = [Phase(passages=2, select="answer", batch=3, steps=3, microbatch=2), Phase(passages=3, batch=4, steps=4)]
    settings, whole = toy_settings(phases=phases), {}
    for kind in ("t5", "copying"):
        folder = tmp_path_factory.mktemp(kind)
        model = tiny_reader("bert" if kind == "copying" else kind, tokenizer, copies=kind == "copying", dropout=0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "evaluate_reader", restless)
            best = toy_training(model, folder, settings)
        whole[kind] = settings, best, [(folder / name).read_bytes() for name in RESULT]
    return whole


@pytest.mark.usefixtures("_restless")
@pytest.mark.parametrize(("kind", "kills"), [("t5", range(1, 8)), ("copying", (3, 6))])
def test_a_training_killed_at_any_step_ends_with_the_bytes_of_an_uninterrupted_one(
    reader, uninterrupted, tmp_path, kind, kills
):
    """Each attempt is another process: with other random states, and other weights until the checkpoint is read."""
    settings, best, wanted = uninterrupted[kind]
    for kill_at in kills:
        steps = []

        def kill(step, facts, steps=steps, kill_at=kill_at):
            steps.append(step)
            if step == kill_at:
                raise KilledError

        position = tmp_path / "checkpoint" / "position.json"
        reached = json.loads(position.read_text())["step"] if position.exists() else 0
        torch.manual_seed(kill_at)
        with pytest.raises(KilledError):
            toy_training(reader(kind, dropout=0.1, seed=9 if reached else 0), tmp_path, settings, progress=kill)
        assert steps == list(range(reached + 1, kill_at + 1))
    assert json.loads(position.read_text())["step"] >= 4
    assert toy_training(reader(kind, dropout=0.1, seed=9), tmp_path, settings) == best
    assert [(tmp_path / name).read_bytes() for name in RESULT] == wanted


@pytest.mark.usefixtures("_restless")
@pytest.mark.parametrize("place", ["save_reader", "save_checkpoint"])
def test_a_kill_while_saving_loses_nothing(reader, uninterrupted, tmp_path, monkeypatch, place):
    settings, best, wanted = uninterrupted["t5"]
    calls, save = [], getattr(training, place)

    def half(*args, **more):
        save(*args, **more)
        calls.append(1)
        if len(calls) == 2:
            raise KilledError

    monkeypatch.setattr(training, place, half)
    with pytest.raises(KilledError):
        toy_training(reader(dropout=0.1), tmp_path, settings)
    monkeypatch.setattr(training, place, save)
    assert toy_training(reader(dropout=0.1), tmp_path, settings) == best
    assert [(tmp_path / name).read_bytes() for name in RESULT] == wanted


@pytest.mark.usefixtures("_restless")
def test_half_a_line_of_the_log_is_written_again(reader, uninterrupted, tmp_path):
    settings, _, wanted = uninterrupted["t5"]

    def kill(step, facts):
        if step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        toy_training(reader(dropout=0.1), tmp_path, settings, progress=kill)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    toy_training(reader(dropout=0.1), tmp_path, settings)
    assert [(tmp_path / name).read_bytes() for name in RESULT] == wanted


@pytest.mark.usefixtures("_restless")
def test_an_earlier_training_on_the_same_engine_does_not_mix_into_checkpoints(reader, uninterrupted, tmp_path):
    """Two rounds train two readers in one process; a resumed second round must not get the first one's weights."""
    settings, best, wanted = uninterrupted["t5"]
    engine = training.Accelerator(cpu=True, step_scheduler_with_optimizer=False)
    data = ReaderData(toy_groups(), toy_groups())

    def train(folder, engine, **more):
        return train_reader(
            reader(dropout=0.1), data, settings, seed=0, folder=tmp_path / folder, accelerator=engine, **more
        )

    def kill(step, facts):
        if step == 5:
            raise KilledError

    train_reader(reader("bart"), data, settings, seed=3, folder=tmp_path / "one", accelerator=engine)
    with pytest.raises(KilledError):
        train("two", engine, progress=kill)
    assert train("two", Accelerator(cpu=True, step_scheduler_with_optimizer=False)) == best
    assert [(tmp_path / "two" / name).read_bytes() for name in RESULT] == wanted


# ---- equivalences


@pytest.mark.parametrize("microbatch", [1, 3])
def test_microbatches_train_like_the_whole_batch(reader, tmp_path, microbatch):
    """Counted in optimiser steps: as many lines, the same losses and learning rates, the same weights."""
    found = {}
    for name, size in (("whole", None), ("parts", microbatch)):
        phase = Phase(passages=3, batch=8, steps=4, microbatch=size)
        one = reader("bert")
        toy_training(one, tmp_path / name, toy_settings(phases=[phase]))
        found[name] = weights(one), log(tmp_path / name)
    assert_close(found["parts"][0], found["whole"][0], atol=2e-5)
    for part, whole in zip(found["parts"][1], found["whole"][1], strict=True):
        assert part == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_no_weight(reader, tmp_path, kind):
    found = []
    for checkpointing in (False, True):
        one = reader(kind, dropout=0.1)
        settings = toy_settings(steps=2, gradient_checkpointing=checkpointing)
        toy_training(one, tmp_path / str(checkpointing), settings)
        assert one.model.get_encoder().is_activation_checkpointing is checkpointing
        found.append(weights(one))
    assert_close(*found, atol=1e-6)


def test_another_seed_trains_another_reader(reader, tmp_path):
    for seed in (0, 1):
        toy_training(reader(), tmp_path / str(seed), toy_settings(steps=2), seed=seed)
    first, second = (load_file(tmp_path / str(seed) / "model" / "model.safetensors") for seed in (0, 1))
    assert not torch.equal(first["shared.weight"], second["shared.weight"])


# ---- which questions, passages and answers


def drawn(monkeypatch, reader, folder, settings, **more):
    """The groups that a training used, step by step."""
    steps, update = [], training._update

    def spy(model, optimiser, schedule, groups, *rest):
        steps.append(groups)
        return update(model, optimiser, schedule, groups, *rest)

    monkeypatch.setattr(training, "_update", spy)
    toy_training(reader, folder, settings, **more)
    return steps


def test_each_epoch_takes_every_question_once_in_a_new_order(reader, tmp_path, monkeypatch):
    steps = drawn(monkeypatch, reader(), tmp_path, toy_settings(steps=6, batch=4, evaluate_every=6))
    ids = [[group.query.id for group in groups] for groups in steps]
    epochs = [ids[i] + ids[i + 1] for i in (0, 2, 4)]
    assert all(sorted(epoch) == [f"q{i}" for i in range(8)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_each_answer_of_a_question_is_drawn_sometimes(reader, tmp_path, monkeypatch):
    steps = drawn(monkeypatch, reader(), tmp_path, toy_settings(steps=8, batch=8, evaluate_every=8))
    answers = {group.query.answers for groups in steps for group in groups if group.query.id == "q3"}
    assert answers == {(PLACES[3],), (f"the old {PLACES[3]}",)}


def test_each_step_draws_dropout_of_its_own_whatever_was_drawn_before(reader, tmp_path, monkeypatch):
    seeds, update = [], training._update
    monkeypatch.setattr(training, "_update", lambda *given: seeds.append(torch.initial_seed()) or update(*given))
    for name in ("one", "two"):
        torch.manual_seed(len(seeds))
        toy_training(reader(), tmp_path / name, toy_settings(steps=3, evaluate_every=3))
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds)) == 3


def test_phases_follow_one_another_under_one_schedule(reader, tmp_path, monkeypatch):
    phases = [Phase(passages=1, select="answer", batch=2, steps=2), Phase(passages=3, batch=4, steps=3)]
    steps = drawn(monkeypatch, reader(), tmp_path, toy_settings(phases=phases, rate=1.0))
    assert [len(groups) for groups in steps] == [2, 2, 4, 4, 4]
    assert [len(groups[0].passages) for groups in steps] == [1, 1, 3, 3, 3]
    assert all(
        has_answer(group.query.answers, group.passages[0].text)
        for groups in steps[:2]
        for group in groups
        if int(group.query.id[1]) % 2 == 0
    )
    assert [line["learning_rate"] for line in log(tmp_path)] == pytest.approx([0.5, 1.0, 0.75, 0.5, 0.25])


def candidates(flags, query=None):
    """Candidates of which those marked "+" hold the answer."""
    passages = (Passage(str(k), "", "by the lake" if flag == "+" else "by the sea") for k, flag in enumerate(flags))
    return Group(query or Query("q", "where ?", ("lake", "the wide lake")), tuple(passages))


def test_top_takes_the_first_candidates():
    group = training_group(candidates("--+--"), Phase(passages=2), np.random.default_rng(0))
    assert [passage.id for passage in group.passages] == ["0", "1"]


def test_answer_takes_the_best_passage_that_holds_it_and_others_that_do_not():
    """The others come from the best 2 (passages - 1) without an answer; all stay in the candidates' order."""
    (group,) = eligible([candidates("--+-+---")], Phase(passages=3, select="answer"))
    assert group.positive == (False, False, True, False, True, False, False, False)
    seen = [training_group(group, Phase(passages=3, select="answer"), np.random.default_rng(seed)) for seed in range(40)]
    chosen = [[passage.id for passage in one.passages] for one in seen]
    assert all(len(ids) == 3 and "2" in ids and "4" not in ids and ids == sorted(ids) for ids in chosen)
    assert {id for ids in chosen for id in ids} == {"0", "1", "2", "3", "5"}
    assert all(
        has_answer(one.query.answers, one.passages[[p.id for p in one.passages].index("2")].text)
        for one in seen
        if one.query.answers == ("lake",)
    )


def test_a_target_that_the_data_names_is_trained_on_whatever_the_other_answers_are():
    named = replace(candidates("-+"), query=Query("q", "where ?", ("lake", "sea"), "the sea"))
    drawn = {training_group(named, Phase(passages=2), np.random.default_rng(seed)).query.answers for seed in range(20)}
    assert drawn == {("the sea",)}


def test_an_answer_longer_than_the_decoder_is_refused_before_any_training(reader, tmp_path):
    long = replace(toy_groups()[3], query=Query("long", "where ?", ("snow " * 70,)))
    data = ReaderData([*toy_groups(), long], toy_groups())
    with pytest.raises(ValueError, match="question 'long' has 71 tokens with its end, but the reader's decoder has 64"):
        toy_training(reader("bart"), tmp_path, toy_settings(), data=data)
    assert not (tmp_path / "log.jsonl").exists()


def test_answer_with_one_passage_takes_the_one_that_holds_it():
    (group,) = eligible([candidates("---+")], Phase(passages=1, select="answer"))
    assert [p.id for p in training_group(group, Phase(passages=1, select="answer"), np.random.default_rng(0)).passages] == [
        "3"
    ]


def test_answer_with_few_candidates_takes_what_there_is():
    (group,) = eligible([candidates("+-")], Phase(passages=4, select="answer"))
    assert [p.id for p in training_group(group, Phase(passages=4, select="answer"), np.random.default_rng(0)).passages] == [
        "0",
        "1",
    ]


def test_questions_that_cannot_be_trained_on_are_left_out():
    usable, without = candidates("-+"), candidates("--", Query("n", "where ?", ("moon",)))
    unanswered, empty = candidates("+", Query("u", "where ?")), candidates("")
    given = [unanswered, usable, empty, without]
    assert eligible(given, Phase(select="top")) == [usable, without]
    assert [group.query.id for group in eligible(given, Phase(select="answer"))] == ["q"]


# ---- what moves


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_layers_and_embeddings_do_not_move(reader, tmp_path, kind):
    one = reader(kind)
    before = weights(one.model.get_encoder())
    toy_training(one, tmp_path, toy_settings(steps=2, frozen_layers=1))
    moved = {name for name, value in one.model.get_encoder().state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not [
        name
        for name in moved
        if "embed" in name or any(part in name for part in ("layer.0.attention", "layers.0.", "block.0."))
    ]
    assert any(part in name for name in moved for part in ("layer.1.", "layers.1.", "block.1."))


def test_the_decoder_has_a_learning_rate_of_its_own(reader, tmp_path):
    one = reader("copying")
    before = weights(one)
    toy_training(one, tmp_path, toy_settings(steps=2, decoder_rate=1e-9))
    change = {name: float((value - before[name]).abs().max()) for name, value in one.state_dict().items()}
    shared = "word_embeddings"  # one table for both halves: it learns at the encoder's rate
    assert all(
        value < 1e-6
        for name, value in change.items()
        if not name.startswith("model.encoder") and shared not in name and "predictions.decoder.weight" not in name
    )
    assert change["model.encoder.encoder.layer.0.output.dense.weight"] > 1e-4


# ---- the best checkpoint


def test_the_reader_with_the_best_exact_match_is_kept_and_f1_decides_between_equals(reader, tmp_path, monkeypatch):
    script = iter([(0.1, 0.5), (0.5, 0.5), (0.5, 0.7), (0.5, 0.7), (0.4, 0.9)])
    seen = []

    def scripted(reader, *rest):
        seen.append(weights(reader.model))
        return dict(zip(("EM", "F1"), next(script), strict=True))

    monkeypatch.setattr(training, "evaluate_reader", scripted)
    best = toy_training(reader(), tmp_path, toy_settings(steps=9))
    assert best == {"EM": 0.5, "F1": 0.7, "step": 6}
    assert [line["step"] for line in log(tmp_path) if "dev EM" in line] == [2, 4, 6, 8, 9]
    assert_close(weights(load_reader(tmp_path / "model").model), seen[2], atol=0)


def test_dev_questions_without_candidates_count_as_wrong(reader):
    settings, one = toy_settings(), reader()
    groups, engine = toy_groups(), Accelerator(cpu=True)
    right = training.answer_groups(one, groups[:1], settings.prompts, batch=1, accelerator=engine)["q0"]
    answered = Group(Query("q0", groups[0].query.text, (right or "x",)), groups[0].passages)
    nothing, unasked = Group(Query("n", "why ?", ("sea",)), ()), Group(Query("u", "why ?"), groups[0].passages)
    scores = [evaluate_reader(one, given, settings, engine)["EM"] for given in ([answered], [answered, nothing, unasked])]
    assert right
    assert scores == [1.0, 0.5]


def test_evaluation_reads_as_many_passages_as_it_is_told(reader, monkeypatch):
    depths = []

    def spy(reader, groups, *rest, **more):
        depths.append({len(group.passages) for group in groups})
        return {group.query.id: "" for group in groups}

    monkeypatch.setattr(training, "answer_groups", spy)
    for wanted in (2, None):
        evaluate_reader(reader(), toy_groups(), toy_settings(passages=3, evaluate_passages=wanted), Accelerator(cpu=True))
    assert depths == [{2}, {3}]


# ---- refusals


def untouched(folder: Path) -> bool:
    return not (folder / "log.jsonl").exists()


@pytest.mark.parametrize("select", ["top", "answer"])
def test_training_questions_that_cannot_be_used_are_refused_before_training(reader, tmp_path, select):
    with pytest.raises(ValueError, match=f"none of 0 training questions can be used in a phase with select '{select}'"):
        toy_training(reader(), tmp_path, toy_settings(phases=[Phase(select=select)]), data=ReaderData([], toy_groups()))
    assert untouched(tmp_path)


def test_a_later_phase_without_questions_is_refused_before_training(reader, tmp_path):
    phases = [Phase(passages=2, batch=2, steps=2), Phase(select="answer", passages=2, batch=2, steps=2)]
    with pytest.raises(ValueError, match="candidates that hold them"):
        toy_training(reader(), tmp_path, toy_settings(phases=phases), data=ReaderData([candidates("--")], toy_groups()))
    assert untouched(tmp_path)


def test_dev_questions_that_cannot_be_used_are_refused_before_training(reader, tmp_path):
    with pytest.raises(ValueError, match="none of 1 dev questions has answers and candidates"):
        toy_training(reader(), tmp_path, toy_settings(), data=ReaderData(toy_groups(), [candidates("")]))
    assert untouched(tmp_path)


def test_more_frozen_layers_than_there_are_are_refused(reader, tmp_path):
    with pytest.raises(ValueError, match=r"frozen_layers is 3, the encoder has 2 layers"):
        toy_training(reader(), tmp_path, toy_settings(frozen_layers=3))


def test_a_loss_that_is_not_finite_stops_with_the_questions_and_keeps_the_last_checkpoint(reader, tmp_path):
    one = reader()

    def poison(step, facts):
        if step == 3:
            with torch.no_grad():
                one.model.shared.weight.fill_(math.inf)

    with pytest.raises(FloatingPointError, match=r"reader step 3 on questions \['q\d.*the last checkpoint is kept"):
        toy_training(one, tmp_path, toy_settings(), progress=poison)
    assert json.loads((tmp_path / "checkpoint" / "position.json").read_text())["step"] == 2
