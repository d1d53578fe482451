import string
import unicodedata
from itertools import pairwise

import numpy as np
import pytest

from retort.text import AnswerMatcher, dpr_tokens, exact_match, f1, has_answer, normalise_answer

WORDS = [
    "the",
    "a",
    "An",
    "U.S.",
    "us",
    "10,000",
    "Café",
    "Cafe\u0301",
    "naïve",
    "“quote”",
    "don't",
    "東京",
    "Ⅳ",
    "½",
    "-",
    "x_y",
]


def random_texts(count, *, seed=0, words=5):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(0, words + 1))) for _ in range(count)]


# ---- normalisation and exact match


@pytest.mark.parametrize(
    ("prediction", "answer", "equal"),
    [
        ("U.S.A.", "usa", True),
        ("The Beatles!", "beatles", True),
        ("10,000", "10000", True),
        ("Café", "Cafe", False),
        ("\u201cquote\u201d", "quote", False),
        ("1914\u20131918", "19141918", False),
        ("1914-1918", "19141918", True),
        ("an  apple\t a day", "apple day", True),
        ("theatre", "atre", False),
        ("Cafe\u0301", "Café", False),
    ],
)
def test_exact_match_agrees_with_the_published_script(prediction, answer, equal):
    assert exact_match(prediction, [answer]) is equal


def test_punctuation_goes_before_articles():
    assert normalise_answer("a.b") == "ab"  # were articles first, "a" would go and leave "b"
    assert normalise_answer("a-the") == "athe"


@pytest.mark.parametrize("sign", string.punctuation)
def test_every_ascii_punctuation_sign_is_dropped_without_a_gap(sign):
    assert normalise_answer(f"x{sign}y") == "xy"


def test_normalising_twice_changes_nothing_more():
    for text in random_texts(200):
        once = normalise_answer(text)
        assert normalise_answer(once) == once


def test_normalised_text_has_single_spaces_lower_case_and_no_articles():
    for text in random_texts(200):
        words = normalise_answer(text).split(" ")
        assert words == [""] or "" not in words
        assert not {"a", "an", "the"} & set(words)
        assert normalise_answer(text) == normalise_answer(text).lower()


def test_any_of_the_answers_is_enough_and_none_never_matches():
    assert exact_match("Paris", ["London", "paris."])
    assert not exact_match("Paris", [])
    assert not exact_match("", [])


# ---- F1


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("the tall blue house", ["blue house"], 0.8),  # 2 of 3 words, 2 of 2: 2 * (2/3) / (2/3 + 1)
        ("blue", ["the blue house"], 2 / 3),
        ("blue blue", ["blue house"], 0.5),  # a word counts as often as it stands in both
        ("red", ["blue"], 0.0),
        ("", ["blue"], 0.0),
        ("blue", ["the"], 0.0),
        ("the", ["a"], 1.0),
        ("red car", ["blue", "car red"], 1.0),
        ("red", [], 0.0),
    ],
)
def test_f1_has_the_value_worked_out_by_hand(prediction, answers, score):
    assert f1(prediction, answers) == pytest.approx(score)


def test_f1_is_symmetric_and_one_where_the_match_is_exact():
    texts = random_texts(60, seed=1)
    for one, other in pairwise(texts):
        assert f1(one, [other]) == f1(other, [one])
        assert 0 <= f1(one, [other]) <= 1
        assert f1(one, [one]) == 1
        assert not exact_match(one, [other]) or f1(one, [other]) == 1


def test_more_answers_never_lower_the_score():
    texts = random_texts(60, seed=2)
    for i in range(len(texts) - 2):
        assert f1(texts[i], texts[i + 1 : i + 3]) == max(f1(texts[i], [texts[i + 1]]), f1(texts[i], [texts[i + 2]]))


# ---- has_answer


@pytest.mark.parametrize(
    ("answers", "text", "found"),
    [
        (["U.S."], "in the U.S. army", True),
        (["US"], "in the U.S. army", False),
        (["10,000"], "10 , 000 men", True),
        (["Cafe"], "the Café is", False),
        ([""], "anything", True),
        ([""], "", True),
        ([], "anything", False),
        (["Café"], "the Cafe\u0301 is", True),  # NFC and NFD are the same after NFD
        (["army u"], "in the U.S. army", False),
        (["THE U"], "in the u.s. army", True),
        (["he"], "in the U.S. army", False),
        (["new york"], "new\u00a0york", True),
        (["new york"], "new, york", False),
        (["lava", "army"], "in the U.S. army", True),
        (["a b c"], "a b", False),
    ],
)
def test_has_answer_agrees_with_the_published_script(answers, text, found):
    assert has_answer(answers, text) is found


def test_tokens_are_runs_of_letters_digits_and_marks_or_single_signs():
    assert dpr_tokens("It's 3.5%,\t東京-x_y \u200b") == ["it", "'", "s", "3", ".", "5", "%", ",", "東京", "-", "x", "_", "y"]


def test_tokens_are_lower_case_and_decomposed():
    for text in random_texts(100):
        for token in dpr_tokens(text):
            assert token
            assert token == unicodedata.normalize("NFD", token.lower())


def test_has_answer_equals_a_search_through_the_tokens():
    def contains(answer, text):
        wanted, tokens = dpr_tokens(answer), dpr_tokens(text)
        return any(tokens[i : i + len(wanted)] == wanted for i in range(len(tokens) - len(wanted) + 1))

    answers, texts = random_texts(80, seed=3, words=2), random_texts(80, seed=4, words=12)
    found = [has_answer([answer], text) for answer, text in zip(answers, texts, strict=True)]
    assert found == [contains(answer, text) for answer, text in zip(answers, texts, strict=True)]
    assert 0 < sum(found) < len(found)


def test_a_text_holds_itself_and_stays_found_when_text_is_added():
    for text in random_texts(100, seed=5):
        assert has_answer([text], text)
        assert has_answer([text], f"before {text} after")


def test_a_control_character_separates_words_and_is_no_part_of_one():
    assert dpr_tokens("con\0cat") == ["con", "cat"]
    assert has_answer(["con cat"], "con\0cat")
    assert not has_answer(["con\0"], "concat")  # "\0" also joins the tokens inside AnswerMatcher


def test_one_matcher_serves_many_texts():
    matcher = AnswerMatcher(["snow", "10,000"])
    assert [matcher.matches(text) for text in ("deep snow", "snowy", "10 ,000", "")] == [True, False, True, False]
