"""Prompts as token ids: where each passage stands, and that what is scored is the same behind every prompt."""

import pytest

from retort.records import Passage, Query
from retort.teachers.causal.prompts import (
    PROMPTS,
    Frame,
    Prompt,
    chat_frame,
    continuation,
    cut,
    laid_out,
    pieces,
    plain_frame,
)

SNOW = Passage("1", "Snow", "white snow in the north")
RAIN = Passage("2", "", "rain, rain and rain")
QUERY = Query("q", "what is white", ("the snow", "snow"))


def said(tokenizer, ids):
    return " ".join(tokenizer.convert_ids_to_tokens(list(ids)))


def test_a_plain_prompt_is_the_start_token_and_the_text_as_the_tokenizer_reads_it(words):
    layout = laid_out(words, plain_frame(words), PROMPTS["answer"], QUERY.text, [SNOW], 50)
    text = "Snow\nwhite snow in the north\n\nQuestion: what is white\nAnswer:"
    assert layout.ids == words(text)["input_ids"][:-1]  # its end token is not wanted
    assert layout.ids[0] == words.bos_token_id


def test_passages_and_question_are_found_again_in_a_long_prompt(words):
    layout = laid_out(words, plain_frame(words), PROMPTS["attention"], QUERY.text, [SNOW, RAIN], 50)
    shown = [said(words, [layout.ids[i] for i in span]) for span in (*layout.passages, layout.question)]
    assert shown == ["snow white snow in the north", "rain , rain and rain", "what is white"]


def test_the_space_before_a_word_is_its_own_and_breaks_between_parts_are_of_none(in_bytes):
    prompt = Prompt("{text}", "{question}?", " {answer}", head="Read: ")
    layout = laid_out(in_bytes, plain_frame(in_bytes), prompt, "who é", [Passage("1", "", " snow é"), SNOW], 50)
    shown = [in_bytes.decode([layout.ids[i] for i in span]) for span in (*layout.passages, layout.question)]
    assert shown == ["snow é", SNOW.text, "who é"]
    assert in_bytes.decode(layout.ids) == "Read: \n\nsnow é\n\nwhite snow in the north\n\nwho é?"
    assert layout.ids[: len("Read: ")] == in_bytes("Read: ")["input_ids"]


def test_a_passage_is_cut_to_whole_tokens_of_its_text(words, in_bytes):
    assert cut(words, RAIN.text, 3) == "rain, rain"
    assert cut(words, RAIN.text, 5) == cut(words, RAIN.text, 6) == RAIN.text
    assert cut(in_bytes, "no snow", 2) == "no snow"
    assert cut(in_bytes, "no snow", 1) == "no"
    layout = laid_out(words, Frame(), PROMPTS["attention"], QUERY.text, [SNOW, RAIN], 2)
    assert [len(span) for span in layout.passages] == [3, 2]  # a title and two tokens


def test_a_question_in_front_is_no_question_to_look_from(words):
    prompt = Prompt("{text}", "", " {answer}", head="Question: {question}")
    layout = laid_out(words, plain_frame(words), prompt, QUERY.text, [SNOW], 50)
    assert said(words, layout.ids) == "[CLS] question : what is white white snow in the north"
    assert not layout.question


@pytest.mark.parametrize("prompt", ["Answer:", "no", "a.\n\n", "sno"])
def test_what_is_scored_has_the_same_tokens_behind_every_prompt(in_bytes, in_pieces, prompt):
    for tokenizer, tokens in ((in_bytes, ["Ġsnow"]), (in_pieces, ["▁snow"])):
        ids = continuation(tokenizer, plain_frame(tokenizer), " {answer}", Query("q", "?", ("snow",)))
        assert tokenizer.convert_ids_to_tokens(ids) == tokens
    together = in_bytes(f"{prompt} snow")["input_ids"]
    assert together[len(in_bytes(prompt)["input_ids"]) :] == [in_bytes.convert_tokens_to_ids("Ġsnow")]


def test_a_tokenizer_that_begins_every_text_with_a_space_adds_none_behind_a_prompt(in_pieces):
    assert said(in_pieces, pieces(in_pieces, "snow", behind="\n")[0]) == "snow"
    assert said(in_pieces, pieces(in_pieces, " snow", behind="\n")[0]) == "▁snow"
    assert said(in_pieces, pieces(in_pieces, " snow")[0]) == "▁ ▁snow"
    assert pieces(in_pieces, "snow no", behind="\n")[1] == [4, 5, 7]


def test_a_token_over_the_border_is_taken_apart(in_bytes):
    assert said(in_bytes, pieces(in_bytes, "\n\n")[0]) == "ĊĊ"
    ids, ends = pieces(in_bytes, "\n", behind="\n")
    assert said(in_bytes, ids) == "Ċ"
    assert ends == [1]


def test_the_first_answer_is_scored_or_the_question_and_the_end_where_it_is_asked_for(words):
    frame = plain_frame(words)
    assert said(words, continuation(words, frame, " {answer}", QUERY)) == "the snow"
    assert said(words, continuation(words, frame, " {question}", QUERY)) == "what is white"
    assert said(words, continuation(words, frame, " {answer}", QUERY, end_token=True)) == "the snow [SEP]"


def test_a_chat_prompt_is_what_the_template_makes_of_it_and_goes_on_as_the_assistant(words):
    frame = chat_frame(words)
    layout = laid_out(words, frame, PROMPTS["answer"], QUERY.text, [SNOW], 50)
    content = "Snow\nwhite snow in the north\n\nQuestion: what is white\nAnswer:"
    turns = [{"role": "user", "content": content}]
    assert layout.ids == words.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert said(words, [layout.ids[i] for i in layout.passages[0]]) == "snow white snow in the north"


def test_a_chat_template_gets_its_options(own_words):
    own_words.chat_template = "{% if short %}[king] {{ messages[0].content }}{% endif %}"
    assert said(own_words, chat_frame(own_words, {"short": True}).before) == "[ king ]"
    with pytest.raises(ValueError, match="the chat template writes the user's turn 0 times, expected once"):
        chat_frame(own_words)


def test_a_space_between_turn_and_text_belongs_to_the_text(in_bytes, in_pieces):
    for tokenizer, word in ((in_bytes, "Ġsnow"), (in_pieces, "▁snow")):
        tokenizer.chat_template = "say: {{ messages[0].content }} :"
        layout = laid_out(
            tokenizer, chat_frame(tokenizer), Prompt("{text}", "", " {answer}"), "?", [Passage("1", "", "snow")], 9
        )
        whole = tokenizer("say: snow :", add_special_tokens=False)["input_ids"]
        assert layout.ids == whole
        assert said(tokenizer, [layout.ids[i] for i in layout.passages[0]]) == word
        assert continuation(tokenizer, chat_frame(tokenizer), " {answer}", Query("q", "?", ("snow",))) == (
            [tokenizer.convert_tokens_to_ids("snow")]
        )
        tokenizer.chat_template = None


def test_control_tokens_in_a_passage_are_plain_text(words):
    trap = Passage("1", "", "snow [SEP] [MASK]")
    for frame in (plain_frame(words), chat_frame(words)):
        layout = laid_out(words, frame, PROMPTS["answer"], "[CLS]", [trap], 50)
        shown = [layout.ids[i] for i in layout.passages[0]]
        assert words.mask_token_id not in layout.ids
        assert words.sep_token_id not in shown
        assert said(words, shown).startswith("snow [ ")
    scored = continuation(words, plain_frame(words), " {answer}", Query("q", "?", ("[SEP]",)))
    assert words.sep_token_id not in scored


def test_a_tokenizer_without_a_template_or_an_end_is_refused_where_they_are_asked_for(own_words):
    own_words.chat_template = None
    with pytest.raises(ValueError, match="a chat prompt is asked for, but the tokenizer has no chat template"):
        chat_frame(own_words)
    own_words.eos_token = None
    with pytest.raises(ValueError, match="the end token is to be scored, but the tokenizer names none"):
        continuation(own_words, Frame(), " {answer}", QUERY, end_token=True)


def test_a_question_without_an_answer_is_named_where_the_answer_is_read(words):
    with pytest.raises(ValueError, match="question 'q7' has no answer, and the teacher reads it"):
        continuation(words, Frame(), " {answer}", Query("q7", "who"))
    assert continuation(words, Frame(), " {question}", Query("q7", "who"))


def test_an_answer_without_a_token_is_named(words):
    with pytest.raises(ValueError, match="question 'q7': '  ' has no token to be scored"):
        continuation(words, Frame(), " {answer}", Query("q7", "who", (" ",)))


@pytest.mark.parametrize(
    ("signal", "parts", "found"),
    [
        ("answer", {"scored": " {question}"}, "in tail and scored, expected it in tail or head or head and tail"),
        ("answer", {"tail": "Answer:"}, "in no part, expected it in tail or head or head and tail"),
        ("question", {"scored": " {question}"}, "in tail and scored, expected it in scored"),
        ("question", {"tail": ""}, "in no part, expected it in scored"),
        ("attention", {"head": "{question}"}, "in head and tail, expected it in tail"),
    ],
)
def test_a_prompt_that_gives_the_question_away_or_leaves_it_out_is_refused(signal, parts, found):
    prompt = Prompt(**{"passage": "{text}", "tail": "{question}", "scored": " {answer}"} | parts)
    with pytest.raises(ValueError, match=rf"signal {signal} holds {{question}} {found}"):
        prompt.check(signal)


def test_every_signals_own_prompt_fits_it():
    for signal, prompt in PROMPTS.items():
        prompt.check(signal)


@pytest.mark.parametrize("part", [{"passage": "{title}"}, {"tail": "{answer}"}, {"head": "{text}"}, {"scored": "yes"}])
def test_unknown_and_missing_fields_are_refused(part):
    with pytest.raises(ValueError, match="expected the fields"):
        Prompt(**{"passage": "{text}", "tail": "{question}", "scored": " {answer}"} | part)
