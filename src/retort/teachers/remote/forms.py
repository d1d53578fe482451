"""The two forms of a judgement, a grade of a passage and a ranking of passages: what is asked, and how strictly it is read.

An answer that is not exactly of the form is refused with the reason, never repaired: a guess at what was meant would be a
label that nobody gave. Not here: who is asked, how often, and what becomes of the points (judge.py).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from retort.config.fields import with_fields
from retort.teachers.remote.cache import Answer

GRADE = """Grade how well the passage answers the question, from 0 (about something else) to {scale} (answers it fully). \
Write the grade alone, a whole number, without any other word.

Passage: {passage}

Question: {question}
Grade:"""
RANKING = """Rank the {count} passages below by how well they answer the question. Write all their numbers, the best \
passage first, in the form [2] > [1] > [3], without any other word.

{passages}

Question: {question}
Ranking:"""
TOP = 20  # likeliest tokens that servers show at most, by default
TOKENS = 8  # of a grade, and of each number of a ranking with its signs
Tops = Sequence[Mapping[str, Any]]


class MalformedError(ValueError):
    """An answer that is not of the form; the message says in what."""


@dataclass(frozen=True)
class Reply:
    """What a judge said, and the likeliest tokens of each place, where they were asked for."""

    text: str
    tops: Tops = ()


@runtime_checkable
class Form(Protocol):
    """What a judge is asked to say of some passages, and the points that its reply gives them."""

    shuffled: ClassVar[bool]

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
    shuffled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        with_fields(self.prompt, needed={"question", "passage"}, optional={"scale"})
        most = 9 if self.expected else 100
        if not 1 <= self.scale <= most:
            raise ValueError(f"grades go up to {self.scale}, expected 1 to {most}: set scale to a number in between")

    @property
    def wanted(self) -> str:
        """What a right answer looks like."""
        return f"a whole number from 0 to {self.scale}"

    def shares(self, count: int, rng: np.random.Generator) -> list[Int64[np.ndarray, "w"]]:
        """Each passage alone."""
        return list(np.arange(count)[:, None])

    def asked(self, question: str, passages: Sequence[str]) -> str:
        """The words to the judge about one passage."""
        return self.prompt.format(question=question, passage=passages[0], scale=self.scale)

    def options(self, count: int) -> dict[str, Any]:
        """A few tokens, and the likeliest at each place where they are read."""
        return {"max_tokens": TOKENS, **({"logprobs": True, "top_logprobs": TOP} if self.expected else {})}

    def read(self, answer: Answer) -> Reply:
        """What was said. ValueError where probabilities are wanted and missing."""
        reply = _reply(answer)
        if self.expected and not reply.tops:
            raise ValueError(
                "the answer has no token probabilities, expected them for expected grades: set expected: false, or ask a "
                "server that gives top_logprobs"
            )
        return reply

    def points(self, reply: Reply, count: int, candidates: int) -> Float64[np.ndarray, "w"]:
        """The grade."""
        grade = parse_grade(reply.text, self.scale)
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
    shuffled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        with_fields(self.prompt, needed={"question", "passages"}, optional={"count"})
        if self.window < 3:  # of three passages in windows of two, one would be alone
            raise ValueError(f"windows of {self.window} passages, expected 3 or more: set window higher")

    @property
    def wanted(self) -> str:
        """What a right answer looks like."""
        return "all numbers once, the best passage first, in the form [2] > [1] > [3]"

    def shares(self, count: int, rng: np.random.Generator) -> list[Int64[np.ndarray, "w"]]:
        """Windows of shuffled passages."""
        return np.array_split(rng.permutation(count), math.ceil(count / self.window)) if count > 1 else []

    def asked(self, question: str, passages: Sequence[str]) -> str:
        """The words to the judge, with the passages numbered from 1."""
        numbered = "\n\n".join(f"[{number}] {passage}" for number, passage in enumerate(passages, start=1))
        return self.prompt.format(question=question, passages=numbered, count=len(passages))

    def options(self, count: int) -> dict[str, Any]:
        """Tokens enough for each number."""
        return {"max_tokens": TOKENS * count}

    def read(self, answer: Answer) -> Reply:
        """What was said."""
        return _reply(answer)

    def points(self, reply: Reply, count: int, candidates: int) -> Float64[np.ndarray, "w"]:
        """How many of all candidates each passage beats, by its window."""
        beaten = np.empty(count)
        beaten[np.array(parse_ranking(reply.text, count)) - 1] = np.arange(count)[::-1]
        return beaten * (candidates - 1) / (count - 1)


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
    found = {top["token"]: top["logprob"] for top in (place, *place["top_logprobs"]) if "logprob" in top}
    known = [(grades[token.strip()], math.exp(value)) for token, value in found.items() if token.strip() in grades]
    return sum(number * share for number, share in known) / sum(share for _, share in known)


def _reply(answer: Answer) -> Reply:
    choice = answer["choices"][0]
    if "message" not in choice:
        raise ValueError("the answer has no message: look whether the server is OpenAI-compatible")
    return Reply(choice["message"].get("content") or "", (choice.get("logprobs") or {}).get("content") or ())
