import pytest
import torch

from retort.config import Prompts
from retort.records import Group, Passage, Query
from retort.teachers.fid.model import IGNORED
from retort.teachers.fid.prompts import (
    answers_in,
    check_targets,
    passage_strings,
    tokenise_passages,
    tokenise_targets,
    trained_on,
)

SNOW = Passage("a", "Snow", "it is cold in the north .")
GROUPS = [
    Group(Query("q0", "where is it cold ?"), (SNOW, Passage("b", "", "fire and water"), Passage("c", "Sun", "day"))),
    Group(Query("q1", "what is red ?"), (Passage("d", "Fire", "fire is red or white"),)),
]


def words(reader, ids):
    return reader.tokenizer.convert_ids_to_tokens(ids.tolist())


def test_each_string_repeats_the_question_in_the_published_format():
    assert passage_strings(GROUPS[0], Prompts()) == [
        "question: where is it cold ? title: Snow context: it is cold in the north .",
        "question: where is it cold ? title:  context: fire and water",
        "question: where is it cold ? title: Sun context: day",
    ]


def test_braces_in_a_text_are_text():
    group = Group(Query("q", "what is {x}?"), (Passage("p", "{title}", "a {text} of {question}"),))
    assert passage_strings(group, Prompts()) == ["question: what is {x}? title: {title} context: a {text} of {question}"]


def test_ids_are_those_of_the_strings_with_pads_on_the_right_and_empty_rows_for_missing_passages(readers):
    ids, mask = tokenise_passages(readers["t5"], GROUPS, Prompts())
    assert ids.shape == mask.shape == (2, 3, int(mask.sum(-1).max()))
    assert mask.sum(-1)[1].tolist()[1:] == [0, 0]
    assert (ids[mask == 0] == readers["t5"].tokenizer.pad_token_id).all()
    for group, row, real in zip(GROUPS, ids, mask.bool(), strict=True):
        for string, one, used in zip(passage_strings(group, Prompts()), row, real, strict=False):
            alone = readers["t5"].tokenizer(string, add_special_tokens=False)["input_ids"]
            assert one[used].tolist() == alone
            assert one[: len(alone)].tolist() == alone


def test_strings_are_cut_at_their_end(readers):
    whole, _ = tokenise_passages(readers["t5"], GROUPS, Prompts())
    ids, mask = tokenise_passages(readers["t5"], GROUPS, Prompts(passage_tokens=6))
    assert ids.shape == (2, 3, 6)
    assert torch.equal(ids[0], whole[0, :, :6])
    assert mask[0].all()


def test_special_tokens_are_added_only_where_asked_for(readers):
    for special, ends in ((False, ("question", ".")), (True, ("[CLS]", "[SEP]"))):
        ids, mask = tokenise_passages(readers["t5"], GROUPS, Prompts(special_tokens=special))
        string = words(readers["t5"], ids[0, 0][mask[0, 0].bool()])
        assert (string[0], string[-1]) == ends
        assert ("[CLS]" in string) is special


def test_questions_without_any_passage_are_refused(readers):
    with pytest.raises(ValueError, match="2 groups without any passage: retrieve candidates"):
        tokenise_passages(readers["t5"], [Group(Query("q", "why ?"), ())] * 2, Prompts())


@pytest.mark.parametrize("kind", ["t5", "bart", "bert"])
def test_targets_hold_the_answer_and_one_end_token_and_nothing_else(readers, kind):
    targets = tokenise_targets(readers[kind], ["north", "red or white"], Prompts())
    assert targets.shape == (2, 4)
    assert words(readers[kind], targets[0, :2]) == ["north", "[SEP]"]
    assert targets[0, 2:].tolist() == [IGNORED, IGNORED]
    assert words(readers[kind], targets[1]) == ["red", "or", "white", "[SEP]"]


def test_an_answer_longer_than_what_a_reader_writes_is_not_cut(readers):
    targets = tokenise_targets(readers["t5"], ["red or white", "red"], Prompts(answer_tokens=2))
    assert words(readers["t5"], targets[0]) == ["red", "or", "white", "[SEP]"]


@pytest.mark.parametrize("kind", ["bart", "bert"])
def test_an_answer_longer_than_the_decoder_is_refused_with_its_question(readers, kind):
    fits, long = Query("fits", "why ?", ("red",)), Query("long", "why ?", ("red", "snow " * 64))
    check_targets(readers[kind], [fits, Query("just", "why ?", ("snow " * 63,))], Prompts())
    message = r"the answer 'snow .*'\.\.\. of question 'long' has 65 tokens with its end, but the .* has 64 positions"
    with pytest.raises(ValueError, match=message):
        check_targets(readers[kind], [fits, long], Prompts())


def test_a_decoder_of_relative_positions_takes_any_answer(readers):
    check_targets(readers["t5"], [Query("long", "why ?", ("snow " * 500,))], Prompts())


def test_a_named_target_stands_for_all_answers(readers):
    query = Query("q", "why ?", ("red", "snow " * 64), "red")
    assert trained_on(query) == ("red",)
    check_targets(readers["bert"], [query], Prompts())


def test_a_target_is_the_answer_in_its_format(readers):
    targets = tokenise_targets(readers["t5"], ["north"], Prompts(answer="answer: {answer} ."))
    assert words(readers["t5"], targets[0]) == ["answer", ":", "north", ".", "[SEP]"]


@pytest.mark.parametrize("form", ["{answer}", "answer: {answer}", "[MASK] {answer} .", "[MASK] answer: {answer}"])
def test_what_a_reader_writes_as_it_was_trained_to_is_the_answer(readers, form):
    prompts = Prompts(answer=form)
    targets = tokenise_targets(readers["t5"], ["red or white"], prompts)
    assert answers_in(readers["t5"], targets, prompts) == ["red or white"]


def test_what_a_reader_writes_otherwise_stays_as_it_is(readers):
    tokens = tokenise_targets(readers["t5"], ["red or white"], Prompts())
    assert answers_in(readers["t5"], tokens, Prompts(answer="answer: {answer}")) == ["red or white"]


@pytest.mark.parametrize("form", ["answer", "{answer} or {answer}", "{answer} to {question}", "{{answer}}"])
def test_a_format_that_does_not_hold_the_answer_once_is_refused(form):
    with pytest.raises(ValueError, match="expected"):
        Prompts(answer=form)


def test_a_tokeniser_that_adds_an_end_by_itself_does_not_double_it(readers):
    assert readers["t5"].tokenizer("red")["input_ids"][-1] == readers["t5"].tokenizer.sep_token_id
    (target,) = tokenise_targets(readers["t5"], ["red"], Prompts()).tolist()
    assert target.count(readers["t5"].tokenizer.sep_token_id) == 1
