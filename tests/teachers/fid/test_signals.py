from dataclasses import replace

import pytest
import torch
from transformers import ByT5Tokenizer

from retort.config import AttentionSettings, Prompts, TeacherSettings
from retort.records import Group, Passage, Query
from retort.teachers.fid.attention import passage_scores
from retort.teachers.fid.likelihood import loop, pdist
from retort.teachers.fid.model import Reader
from retort.teachers.fid.prompts import parts_of, tokenise_passages, tokenise_targets
from retort.teachers.fid.signals import Encodings, ReaderSignal, check_signals
from tiny import tiny_t5

pytestmark = pytest.mark.usefixtures("_no_grad")

PROMPTS = Prompts(passage_tokens=30, answer_tokens=5)
GROUPS = [
    Group(Query("q1", "who fell", ("snow", "rain")), (Passage("a", "Winter", "snow fell"), Passage("b", "", "fire burnt"))),
    Group(Query("q2", "what burnt", ("fire",)), (Passage("b", "", "fire burnt"), Passage("c", "Sea", "water ran"))),
]


@pytest.fixture
def encodings(readers):
    return Encodings(readers["t5"], GROUPS, PROMPTS, torch.device("cpu"))


def test_every_signal_of_a_batch_is_its_function_alone(readers, encodings):
    ids, mask = tokenise_passages(readers["t5"], GROUPS, PROMPTS)
    model, labels = readers["t5"].model, tokenise_targets(readers["t5"], ["snow", "fire"], PROMPTS)  # the first answers
    shares = {"stage": "post_softmax", "tokens": "sum"}
    wanted = {
        "fid_kd": passage_scores(model, ids, mask),
        "adist": passage_scores(model, ids, mask, labels=labels, position="all", value_norm=True, **shares),
        "copy": passage_scores(model, ids, mask, **shares).log(),
        "pdist": pdist(model, ids, mask, labels),
        "emdr2": pdist(model, ids, mask, labels) * (labels >= 0).sum(-1, keepdim=True),
        "loop": loop(model, ids, mask, labels),
    }
    for name, scores in wanted.items():
        torch.testing.assert_close(encodings.scores(ReaderSignal(name)), scores, atol=2e-6, rtol=1e-5)


def test_a_target_that_the_data_names_is_the_answer_that_is_read(readers):
    """rain is the second answer; the first is read without a target (above)."""
    target = replace(GROUPS[0], query=replace(GROUPS[0].query, target="rain"))
    alone = replace(GROUPS[0], query=replace(GROUPS[0].query, answers=("rain",)))
    for name in ("adist", "pdist", "emdr2", "loop"):
        found, wanted, first = (
            Encodings(readers["t5"], [group], PROMPTS, torch.device("cpu")).scores(ReaderSignal(name))
            for group in (target, alone, GROUPS[0])
        )
        assert torch.equal(found, wanted)
        assert not torch.equal(found, first)


def test_signals_read_the_answer_as_the_reader_was_trained_to_write_it(readers):
    prompts = PROMPTS.model_copy(update={"answer": "answer: {answer}"})
    encodings = Encodings(readers["t5"], GROUPS, prompts, torch.device("cpu"))
    assert torch.equal(encodings.targets, tokenise_targets(readers["t5"], ["answer: snow", "answer: fire"], PROMPTS))


def test_a_tokenizer_that_cannot_tell_where_its_tokens_stand_is_refused_where_parts_are_left_out():
    slow = Reader(tiny_t5(ByT5Tokenizer()), ByT5Tokenizer())
    check_signals(slow, [ReaderSignal("fid_kd"), ReaderSignal("loop")])
    with pytest.raises(ValueError, match=r"the signals \['copy'\] exclude parts .* but ByT5Tokenizer cannot tell where"):
        check_signals(slow, [ReaderSignal("fid_kd"), ReaderSignal("copy", AttentionSettings(exclude=["title"]))])


def test_passages_are_encoded_once_for_all_signals(readers, encodings):
    calls = []
    hook = readers["t5"].model.get_encoder().register_forward_hook(lambda *_: calls.append(1))
    for name in ("fid_kd", "adist", "copy", "pdist", "emdr2", "loop"):
        encodings.scores(ReaderSignal(name))
    hook.remove()
    assert len(calls) == 1


def test_settings_change_a_preset_and_nothing_else(encodings, readers):
    signal = ReaderSignal("adist", AttentionSettings(tokens="max", exclude=["question"], heads={1: []}))
    assert signal.options == {
        "position": "all", "stage": "post_softmax", "tokens": "max", "value_norm": True, "heads": {1: []}
    }  # fmt: skip
    ids, mask = tokenise_passages(readers["t5"], GROUPS, PROMPTS)
    wanted = passage_scores(
        readers["t5"].model, ids, mask, labels=encodings.targets, exclude=encodings.excluded(["question"]), **signal.options
    )
    torch.testing.assert_close(encodings.scores(signal), wanted)
    assert not torch.allclose(
        wanted, encodings.scores(ReaderSignal("adist", AttentionSettings(tokens="max", heads={1: []})))
    )


def test_an_attention_signal_that_looks_at_all_positions_reads_the_answer():
    assert ReaderSignal("fid_kd", AttentionSettings(position="answer")).reads_answers
    assert not ReaderSignal("adist", AttentionSettings(position="first")).reads_answers


@pytest.mark.parametrize("special", [False, True])
def test_each_token_of_a_passage_string_belongs_to_one_part_or_to_the_text(readers, special):
    """question: who fell title: Winter context: snow fell"""
    reader, prompts = readers["bert"], Prompts(passage_tokens=30, special_tokens=special)
    ids, mask = tokenise_passages(reader, GROUPS[:1], prompts)
    parts = parts_of(reader, GROUPS[:1], prompts)

    def words(tokens):
        return "".join(reader.tokenizer.convert_ids_to_tokens(ids[0, 0][tokens[0, 0]])).replace("##", "")

    assert words(parts["question"]) == "whofell"
    assert words(parts["title"]) == "winter"
    assert words(parts["prefix"]) == "question:title:context:"
    assert words(parts["separators"]) == ("[CLS][SEP]" if special else "")
    counted = torch.stack(list(parts.values())).sum(0)
    assert int(counted.max()) == 1
    assert words(mask.bool() & (counted == 0)) == "snowfell"
    assert not parts["title"][0, 1].any()  # it has no title


def test_parts_of_a_string_that_was_cut_are_those_that_are_left(readers):
    prompts = Prompts(passage_tokens=5)
    ids, _ = tokenise_passages(readers["bert"], GROUPS, prompts)
    parts = parts_of(readers["bert"], GROUPS, prompts)
    assert parts["title"].shape == ids.shape
    assert not parts["title"][0].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "bm25", "signal": "copy"}, "`signal` is a setting of fid teachers, and kind is 'bm25'"),
        ({"signal": "loop", "attention": {"tokens": "max"}}, "signal 'loop' is a likelihood and has no attention settings"),
        ({"attention": {"tokens": "median"}}, "tokens"),
        ({"attention": {"exclude": ["body"]}}, "exclude"),
    ],
)
def test_settings_that_no_signal_has_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TeacherSettings(**settings)
