"""A passage as a prompt shows it, cut by words: the tokenizer of a server is not here."""

import re
from dataclasses import replace
from itertools import islice

from retort.records import Passage
from retort.text import passage_text


def shown(passage: Passage, passage_format: str, words: int | None) -> str:
    """The passage as `passage_format` writes it, of its text the first `words` words; None: all.

    >>> shown(Passage("p", "Snow", "It is cold,  and white."), "{title}: {text}", 3)
    'Snow: It is cold,'
    """
    if words is None:
        return passage_text(passage, passage_format)
    ends = [match.end() for match in islice(re.finditer(r"\S+", passage.text), words)]
    return passage_text(replace(passage, text=passage.text[: ends[-1]] if ends else ""), passage_format)
