"""The two forms of a judgement, a grade of a passage and a ranking of passages: what is asked, and how strictly it is read.

An answer that is not exactly of the form is refused with the reason, never repaired: a guess at what was meant would be a
label that nobody gave. Not here: who is asked, how often, and what becomes of the points (judge.py); how a server is made to
keep to the form (grammar.py).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from retort.config.fields import with_fields
from retort.config.language import Grammar
from retort.teachers.remote.cache import Answer
from retort.teachers.remote.grammar import WRAPPING, MalformedError, constraint, either, unwrapped

GRADE = """Grade how well the passage answers the question, from 0 (about something else) to {scale} (answers it fully). \
Write the grade alone, {form}, without any other word.

Passage: {passage}

Question: {question}
Grade:"""
RANKING = """Rank the {count} passages below by how well they answer the question. Write all their numbers, the best \
passage first, in the form {form}, without any other word.

{passages}

Question: {question}
Ranking:"""
GRADE_JSON, RANKING_JSON = '{"grade": 2}', '{"ranking": [2, 1, 3]}'
OTHER_SHAPE = "look whether the server, or what stands before it, is OpenAI-compatible"
TOP = 20  # likeliest tokens that servers show at most, by default
TOKENS = 8  # of a grade, and of each number of a ranking with its signs
Tops = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Reply:
    """What a judge said, and the likeliest tokens of each place, where they were asked for."""

    text: str
    tops: Tops = ()


@runtime_checkable
class Form(Protocol):
    """What a judge is asked to say of some passages, and the points that its reply gives them."""

    shuffled: ClassVar[bool]
    repeats: ClassVar[int]  # how often it is asked for, where nobody says: as in config/language.py

    @property
    def wanted(self) -> str:
        """What a right answer looks like, for a judge that was refused."""
        ...

    def shares(self, count: int, rng: np.random.Generator) -> list[Int64[np.ndarray, "w"]]:
        """The places of the passages, out of `count`, that are judged together, in the order in which they are shown."""
        ...

    def asked(self, question: str, passages: Sequence[str]) -> str:
        """The words to the judge."""
        ...

    def options(self, count: int) -> dict[str, Any]:
        """Fields of the request about `count` passages."""
        ...

    def read(self, answer: Answer) -> Reply:
        """The reply in a server's answer. ValueError where the server left out what the form needs."""
        ...

    def points(self, reply: Reply, count: int, candidates: int) -> Float64[np.ndarray, "w"]:
        """The points of the `count` passages as shown, out of `candidates` of the question. MalformedError says why not."""
        ...


@dataclass(frozen=True)
class Grades:
    """Each passage alone gets a grade from 0 to `scale`.

    `expected`: not the grade that is said, but its mean under the probabilities of all grades, which are seldom equal
    (arXiv 2310.14122, section 3.2); for servers that show the likeliest tokens. The grades are then single digits.
    """

    _: KW_ONLY
    scale: int = 3
    expected: bool = False
    prompt: str = GRADE
    grammar: Grammar = "none"
    shuffled: ClassVar[bool] = False
    repeats: ClassVar[int] = 1

    def __post_init__(self) -> None:
        with_fields(self.prompt, needed={"question", "passage"}, optional={"scale", "form"})
        most = 9 if self.expected else 100
        if not 1 <= self.scale <= most:
            raise ValueError(f"grades go up to {self.scale}, expected 1 to {most}: set scale to a number in between")

    @property
    def wanted(self) -> str:
        """What a right answer looks like."""
        number = f"a whole number from 0 to {self.scale}"
        return f"{number}, in the form {GRADE_JSON}" if self.grammar == "json_schema" else number

    def shares(self, count: int, rng: np.random.Generator) -> list[Int64[np.ndarray, "w"]]:
        """Each passage alone."""
        return list(np.arange(count)[:, None])

    def asked(self, question: str, passages: Sequence[str]) -> str:
        """The words to the judge about one passage."""
        form = f"as {GRADE_JSON}" if self.grammar == "json_schema" else "a whole number"
        return self.prompt.format(question=question, passage=passages[0], scale=self.scale, form=form)

    def options(self, count: int) -> dict[str, Any]:
        """A few tokens, and the likeliest at each place where they are read."""
        grades = range(self.scale + 1)
        return {
            "max_tokens": TOKENS + (WRAPPING if self.grammar == "json_schema" else 0),
            **({"logprobs": True, "top_logprobs": TOP} if self.expected else {}),
            **constraint(self.grammar, "grade", {"type": "integer", "enum": [*grades]}, either(grades)),
        }

    def read(self, answer: Answer) -> Reply:
        """What was said. ValueError where probabilities are wanted and missing, or lack something."""
        text, tops = _said(answer), _tops(answer) if self.expected else ()
        if self.expected and not tops:
            raise ValueError(
                "the answer has no token probabilities, expected them for expected grades: set expected: false, or ask a "
                "server that gives top_logprobs"
            )
        return Reply(text, tops)

    def points(self, reply: Reply, count: int, candidates: int) -> Float64[np.ndarray, "w"]:
        """The grade."""
        text = reply.text
        if self.grammar == "json_schema":
            text = " ".join(map(str, unwrapped(text, GRADE_JSON)))
        grade = parse_grade(text, self.scale)
        return np.array([expected_grade(reply.tops, grade, self.scale) if self.expected else grade], np.float64)


@dataclass(frozen=True)
class Ranking:
    """Passages are ranked `window` at a time; a passage's points are how many of the question's candidates it beats.

    More candidates than `window` are dealt at random into windows of nearly equal length; the share that a passage beats in
    its own stands for the share of all, the closer the more often the judge is asked. Ranks of shuffled lists are averaged
    as in arXiv 2310.07712, by Borda's count. A single candidate has nothing to beat: 0, without a question to the judge.
    """

    _: KW_ONLY
    window: int = 10
    prompt: str = RANKING
    grammar: Grammar = "none"
    shuffled: ClassVar[bool] = True
    repeats: ClassVar[int] = 2  # an order and the same turned round: what a place is worth cancels out

    def __post_init__(self) -> None:
        with_fields(self.prompt, needed={"question", "passages"}, optional={"count", "form"})
        if self.window < 3:  # of three passages in windows of two, one would be alone
            raise ValueError(f"windows of {self.window} passages, expected 3 or more: set window higher")

    @property
    def wanted(self) -> str:
        """What a right answer looks like."""
        return f"all numbers once, the best passage first, in the form {self._form}"

    def shares(self, count: int, rng: np.random.Generator) -> list[Int64[np.ndarray, "w"]]:
        """Windows of shuffled passages."""
        return np.array_split(rng.permutation(count), math.ceil(count / self.window)) if count > 1 else []

    def asked(self, question: str, passages: Sequence[str]) -> str:
        """The words to the judge, with the passages numbered from 1."""
        numbered = "\n\n".join(f"[{number}] {passage}" for number, passage in enumerate(passages, start=1))
        return self.prompt.format(question=question, passages=numbered, count=len(passages), form=self._form)

    def options(self, count: int) -> dict[str, Any]:
        """Tokens enough for each number."""
        numbers = range(1, count + 1)  # each once is more than a grammar says: points() sees to that
        schema = {"type": "array", "items": {"type": "integer", "enum": [*numbers]}, "minItems": count, "maxItems": count}
        pattern = rf"\[{either(numbers)}\]( > \[{either(numbers)}\]){{{count - 1}}}"
        tokens = TOKENS * count + (WRAPPING if self.grammar == "json_schema" else 0)
        return {"max_tokens": tokens, **constraint(self.grammar, "ranking", schema, pattern)}

    def read(self, answer: Answer) -> Reply:
        """What was said."""
        return Reply(_said(answer))

    def points(self, reply: Reply, count: int, candidates: int) -> Float64[np.ndarray, "w"]:
        """How many of all candidates each passage beats, by its window."""
        text = reply.text
        if self.grammar == "json_schema":
            text = " > ".join(f"[{number}]" for number in unwrapped(text, RANKING_JSON))
        beaten = np.empty(count)
        beaten[np.array(parse_ranking(text, count)) - 1] = np.arange(count)[::-1]
        return beaten * (candidates - 1) / (count - 1)

    @property
    def _form(self) -> str:
        return RANKING_JSON if self.grammar == "json_schema" else "[2] > [1] > [3]"


def parse_grade(text: str, scale: int) -> int:
    r"""The grade that `text` is. MalformedError where it is anything else, spaces around it excepted.

    >>> parse_grade(" 2\n", 3)
    2
    """
    found = re.fullmatch(r"\s*([0-9]{1,3})\s*", text)
    if not found:
        raise MalformedError("it is no whole number")
    if int(found[1]) > scale:
        raise MalformedError(f"{int(found[1])} is more than {scale}")
    return int(found[1])


def parse_ranking(text: str, count: int) -> tuple[int, ...]:
    """The numbers 1 to `count` in the order of `text`. MalformedError: another form, a number missing, twice or unknown.

    >>> parse_ranking("[2] > [3] > [1]", 3)
    (2, 3, 1)
    """
    if not re.fullmatch(r"\s*\[[0-9]{1,9}\](\s*>\s*\[[0-9]{1,9}\])*\s*", text):
        raise MalformedError("it is not of the form [2] > [1] > [3]")
    numbers = tuple(int(number) for number in re.findall("[0-9]+", text))
    unknown = [number for number in numbers if not 1 <= number <= count]
    twice = [number for number in numbers if numbers.count(number) > 1]
    missing = [number for number in range(1, count + 1) if number not in numbers]
    for reason, found in (("is no passage", unknown), ("stands there twice", twice), ("is missing", missing)):
        if found:
            raise MalformedError(f"[{found[0]}] {reason}")
    return numbers


def expected_grade(tops: Tops, grade: int, scale: int) -> float:
    """The mean of the grades 0 to `scale` under their probabilities, at the place where the judge said `grade`.

    >>> likely = [{"token": token, "logprob": math.log(p)} for token, p in (("2", 0.6), ("0", 0.2), ("two", 0.2))]
    >>> round(expected_grade([{**likely[0], "top_logprobs": likely}], 2, 3), 6)  # (2 x 0.6 + 0 x 0.2) / 0.8
    1.5
    """
    place = next((top for top in tops if top["token"].strip() == str(grade)), None)
    if place is None:
        raise MalformedError(f"no token of it is {grade} alone")
    grades = {str(number): number for number in range(scale + 1)}
    found = {top["token"]: top["logprob"] for top in (place, *place["top_logprobs"])}
    known = [(grades[token.strip()], value) for token, value in found.items() if token.strip() in grades]
    most = max(value for _, value in known)
    if most == -math.inf:
        raise MalformedError("its grade has no probability")
    shares = [math.exp(value - most) for _, value in known]  # however unlikely all of them are, their sum is not 0
    return sum(number * share for (number, _), share in zip(known, shares, strict=True)) / sum(shares)


def _said(answer: Answer) -> str:
    """The text of the reply; empty where it has none."""
    choice = answer["choices"][0]
    if "message" not in choice:
        raise ValueError("the answer has no message: look whether the server is OpenAI-compatible")
    content = choice["message"].get("content")
    if not isinstance(content, str | None):
        raise ValueError(f"the content of the answer is {str(content)[:40]!r}, expected a text: {OTHER_SHAPE}")
    return content or ""


def _tops(answer: Answer) -> Tops:
    """The likeliest tokens of each place of the reply."""
    tops = (answer["choices"][0].get("logprobs") or {}).get("content") or ()
    for place in tops:
        likely = place.get("top_logprobs") if isinstance(place, dict) else None
        if not isinstance(likely, list) or not all(map(_is_top, (place, *likely))):
            raise ValueError(
                f"a token of the answer is {str(place)[:80]}, expected token, logprob and top_logprobs, each with the first "
                f"two: set expected: false; or {OTHER_SHAPE}"
            )
    return tops


def _is_top(top: object) -> bool:
    """Whether it has a token and a number that may be the logarithm of its probability: not NaN."""
    if not isinstance(top, dict):
        return False
    value = top.get("logprob")
    return isinstance(top.get("token"), str) and isinstance(value, int | float) and value < math.inf
