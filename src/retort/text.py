"""Answers in text: SQuAD normalisation, exact match, F1, and DPR's has_answer; and a passage as a format writes it.

Unicode is treated as the published evaluations treat it: exact match does not normalise it ("Café" is not "Cafe"),
has_answer decomposes it (NFD) and still keeps accents.
"""

import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from string import Formatter

import regex

from retort.records import Passage

KEPT_TEXTS = 50_000  # texts kept as tokens while answers are looked for: some 100 MB at 100 words a passage
_ARTICLES = regex.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DPR_TOKEN = regex.compile(r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", regex.IGNORECASE | regex.UNICODE | regex.MULTILINE)


def normalise_answer(text: str) -> str:
    """`text` as SQuAD compares it: lower case, no ASCII punctuation, no articles, single spaces (in this order).

    >>> normalise_answer("The  U.S.A.!")
    'usa'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether `prediction` equals any answer after `normalise_answer`. False where there is no answer.

    >>> exact_match("The Beatles!", ["beatles"]), exact_match("Café", ["Cafe"])
    (True, False)
    """
    found = normalise_answer(prediction)
    return any(found == normalise_answer(answer) for answer in answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The best token F1 of `prediction` over the answers, in 0..1, on normalised words. 0 where there is no answer.

    Two texts that are both empty after normalisation agree (1.0), as in the SQuAD 2 script.

    >>> f1("the tall blue house", ["blue house"])
    0.8
    """
    return max((_f1(normalise_answer(prediction).split(), normalise_answer(a).split()) for a in answers), default=0.0)


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


def dpr_tokens(text: str) -> list[str]:
    """Lower-cased tokens of the NFD-normalised `text`: runs of letters, digits and marks, or single other signs.

    >>> dpr_tokens("10,000 Men")
    ['10', ',', '000', 'men']
    """
    return [match.group().lower() for match in _DPR_TOKEN.finditer(unicodedata.normalize("NFD", text))]


def has_answer(answers: Sequence[str], text: str) -> bool:
    """Whether the tokens of any answer stand as a contiguous run in `text` (DPR, Karpukhin et al. 2020, section 4.1).

    An empty answer matches everything, as in the published script; no answers match nothing.

    >>> has_answer(["U.S."], "in the U.S. army"), has_answer(["US"], "in the U.S. army")
    (True, False)
    """
    return AnswerMatcher(answers).matches(text)


class AnswerMatcher:
    """`has_answer` for many texts: the answers are tokenised once."""

    def __init__(self, answers: Sequence[str]) -> None:
        # "\0" is a control character and can never be a token, so it marks token borders inside one string search
        self._needles = [_joined(dpr_tokens(answer)) for answer in answers]

    def matches(self, text: str) -> bool:
        """Whether any answer is a contiguous run of the tokens of `text`."""
        haystack = _haystack(text)
        return any(needle in haystack for needle in self._needles)


@lru_cache(maxsize=KEPT_TEXTS)  # questions share passages, and a passage takes 0.1 ms to tokenise
def _haystack(text: str) -> str:
    return _joined(dpr_tokens(text))


def _joined(tokens: list[str]) -> str:
    return "\0" + "".join(token + "\0" for token in tokens)


def passage_text(passage: Passage, passage_format: str) -> str:
    """The passage as `passage_format` writes it; an empty field goes together with the words that introduce it.

    >>> fid = "title: {title} context: {text}"
    >>> passage_text(Passage("1", "Snow", "It is cold."), fid), passage_text(Passage("2", "", "It is cold."), fid)
    ('title: Snow context: It is cold.', 'context: It is cold.')
    """
    values = {"title": passage.title, "text": passage.text, None: ""}
    parts = [
        literal + values[name] for literal, name, _, _ in Formatter().parse(passage_format) if name is None or values[name]
    ]
    return "".join(parts).strip()
