"""What a teacher's server is asked in a label stage, before it is: requests, tokens, the least time, the most money.

Requests are counted by the form of the judgement itself, tokens in its own words around the user's passages, as a tokenizer
at hand counts them: the server's is not here. Not here: asking (teachers/remote/), what was asked in the end (cost.json).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from retort.config import TeacherSettings
from retort.records import Group
from retort.teachers.causal.prompts import PROMPTS, Prompt
from retort.teachers.remote.forms import Form
from retort.teachers.remote.judge import JudgeTeacher
from retort.teachers.remote.likelihood import RemoteLikelihoodTeacher
from retort.teachers.remote.words import shown

RemoteTeacher = JudgeTeacher | RemoteLikelihoodTeacher
TEMPLATE = 20  # tokens that a server's chat template puts around the words, at most
REMINDER = 60  # tokens of what a judge is told of a refused reply (judge.py), which stands in the next prompt with it


@dataclass(frozen=True)
class Wording:
    """How a server is asked: the `form` of its judgement, None for likelihoods, and tokens of a request.

    `frame` are those around the passages, `passage` those of one as it is shown, uncut or cut to the teacher's `words`.
    """

    form: Form | None
    frame: float
    passage: float


@dataclass(frozen=True)
class Asked:
    """Requests and tokens where every reply has its form at once; the least `seconds` of them.

    `money` is the most they cost: as if a judge's every reply but its last attempt were refused. 0 without prices, and
    without a bound on requests a minute.
    """

    requests: int
    tokens: int
    seconds: float
    money: float


def wording(teacher: RemoteTeacher, groups: Sequence[Group], count: Callable[[str], int]) -> Wording:
    """The tokens of the teacher's requests about some groups with passages, in the mean; `count` gives those of a text."""
    form = teacher.form if isinstance(teacher, JudgeTeacher) else None
    prompt = teacher.passage_format if isinstance(teacher, JudgeTeacher) else _prompt(teacher).passage
    passages = [count(shown(passage, prompt, teacher.words)) for group in groups for passage in group.passages]
    frames, signs = zip(*(_around(teacher, group, count) for group in groups), strict=True)
    return Wording(form, TEMPLATE + float(np.mean(frames)), float(np.mean(passages)) + float(np.mean(signs)))


def asked(settings: TeacherSettings, words: Wording, questions: int, depth: int) -> Asked:
    """What a server is asked about the first `depth` candidates of so many questions."""
    assert settings.server is not None
    sizes, replies, attempts = [1] * depth, depth, 1
    if words.form is not None:
        sizes = [len(share) for share in words.form.shares(depth, np.random.default_rng(0))]
        replies = sum(words.form.options(size)["max_tokens"] for size in sizes)
        questions, attempts = questions * settings.judge.repeats, settings.judge.attempts
    requests, rate = questions * len(sizes), settings.server.requests_per_minute
    prompts, replies = questions * (len(sizes) * words.frame + sum(sizes) * words.passage), questions * replies
    again = attempts * (attempts - 1) / 2 * (replies + requests * REMINDER)  # what was refused stands in later prompts
    money = settings.server.money(attempts * prompts + again, attempts * replies)
    return Asked(requests, round(prompts + replies), 60 * requests / rate if rate else 0.0, money or 0.0)


def _around(teacher: RemoteTeacher, group: Group, count: Callable[[str], int]) -> tuple[int, int]:
    """Tokens of a request without its passages, and of the signs that part one passage from the next."""
    question, answers = group.query.text, group.query.answers
    if isinstance(teacher, JudgeTeacher):
        one, two = (count(teacher.form.asked(question, [""] * passages)) for passages in (1, 2))
        return 2 * one - two, two - one
    prompt, answer = _prompt(teacher), answers[0] if answers else ""
    parts = prompt.head, prompt.tail, prompt.scored
    return sum(count(part.format(question=question, answer=answer)) for part in parts), 0


def _prompt(teacher: RemoteLikelihoodTeacher) -> Prompt:
    return teacher.prompt or PROMPTS[teacher.signal]
