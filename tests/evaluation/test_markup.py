"""How values look: highlighted answers agree with has_answer, shades share one scale, numbers print as the field does."""

import html
import math
import re
import unicodedata

import pytest

from retort.evaluation.markup import MINUS, MISSING, duration, highlight, number, p_value, percent, plain, shades, signed
from retort.text import has_answer

TEXTS = [
    "in the U.S. army",
    "10,000 men, 10 000 men, 10000 men",
    "the Café\nnear the cafe",
    "a wood-cutter; the woodcutter",
    "x <b>bold</b> & y",
    "C++ and C",
    "Cafe\u0301 au lait",
    "",
]
ANSWERS = ["U.S.", "US", "10,000", "10000", "café", "cafe", "Woodcutter", "wood", "wood cutter", "<b>", "C++", "au  lait"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_text_is_marked_exactly_where_has_answer_finds_the_answer(text, answer):
    assert ("<mark>" in highlight(text, [answer])) == has_answer([answer], text)


@pytest.mark.parametrize("text", TEXTS)
def test_without_its_marks_a_highlighted_text_is_the_text(text):
    stripped = html.unescape(re.sub("</?mark>", "", str(highlight(text, ANSWERS))))
    assert stripped == unicodedata.normalize("NFC", text)


def test_the_longest_of_several_answers_is_marked_whole():
    assert highlight("He saw the great forest.", ["great", "the great forest"]) == "He saw <mark>the great forest</mark>."


def test_an_answer_with_tags_is_marked_and_still_escaped():
    marked = highlight("a <script>alert(1)</script> b", ["<script>alert"])
    assert marked == "a <mark>&lt;script&gt;alert</mark>(1)&lt;/script&gt; b"


@pytest.mark.parametrize("answers", [[], [""], [" "]])
def test_without_an_answer_that_has_tokens_nothing_is_marked(answers):
    assert highlight("a & b", answers) == "a &amp; b"


def test_shades_do_not_change_when_all_weights_are_moved_and_stretched():
    weights = [[0.1, 0.4], [0.2, 0.9, 0.1]]
    assert shades([[7 * w - 3 for w in row] for row in weights]) == shades(weights)


def test_equal_and_unmeasured_weights_are_not_shaded():
    assert shades([[0.5, 0.5]]) == [[0.0, 0.0]]
    assert shades([[0.0, math.nan, None, 1.0]]) == [[0.0, 0.0, 0.0, 1.0]]
    assert shades([]) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_none_however_deep_it_lies(value):
    assert plain({"a": [{"b": (value, 1.5)}]}) == {"a": [{"b": [None, 1.5]}]}


@pytest.mark.parametrize("show", [percent, signed, p_value, duration, number])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_was_not_measured_is_a_dash(show, value):
    assert show(value) == MISSING


def test_a_loss_has_a_true_minus_as_wide_as_the_plus():
    assert signed(-0.05) == MINUS + "5.0"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(59.94, "59.9 s"), (59.96, "1 min 00 s"), (3599.6, "1 h 00 min"), (90_000, "25 h 00 min")]
)
def test_a_time_never_shows_sixty_of_a_unit(seconds, shown):
    assert duration(seconds) == shown
