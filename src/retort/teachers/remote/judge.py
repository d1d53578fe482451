"""A language model behind a server as a judge: it grades passages or ranks them, in shuffled orders, by a strict grammar."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from retort.records import Group
from retort.teachers.remote.client import Client, Request
from retort.teachers.remote.forms import Form, MalformedError, Reply
from retort.teachers.remote.words import shown

EXCERPT = 80  # characters of a refused answer that an error shows


@dataclass(frozen=True)
class _Task:
    """Passages of a group, by place, that are judged together; what was said so far; why the last answer was refused."""

    group: int
    members: Int64[np.ndarray, "w"]
    repeat: int
    messages: tuple[Mapping[str, str], ...]
    refusal: str = ""


@dataclass(frozen=True)
class JudgeTeacher:
    """Scores passages by the mean points of a judge's replies: `Grades()` of each, or a `Ranking()` of many.

    Each of `repeats` shows the passages in another order, drawn from `seed`, question and repeat; every second order is the
    one before turned round, so that what a place is worth cancels out. None: two of a ranking, one of a grade. A
    question gets its orders whatever else is asked. A reply that is not of the form is answered with the reason, and asked
    for again, `attempts` times in all. After that failed="refuse" raises; "skip" leaves the reply out, and a passage without
    any reply is NaN: no label, for the caller to leave out, and never a 0. `counts` has the replies that were "read" and
    "malformed", and the questions to the judge that "failed". `words` cuts each passage's text.
    """

    client: Client
    form: Form
    _: KW_ONLY
    repeats: int | None = None
    attempts: int = 3
    failed: Literal["refuse", "skip"] = "refuse"
    temperature: float = 0.0
    seed: int = 0
    passage_format: str = "{title}\n{text}"
    words: int | None = None
    counts: Counter[str] = field(default_factory=Counter, compare=False)

    def __post_init__(self) -> None:
        if self._times < 1 or self.attempts < 1:
            raise ValueError(f"repeats is {self._times} and attempts {self.attempts}, expected at least 1 of both")
        if self._times > 1 and self.temperature == 0 and not self.form.shuffled:
            raise ValueError(
                f"{self._times} repeats of a grade at temperature 0 ask for the same thing again: set a temperature, or "
                "one repeat"
            )

    def score(self, groups: Sequence[Group]) -> list[Float32[np.ndarray, "K"]]:
        """The mean points of each passage of each group: a grade, or how many of the others it beats.

        ValueError names the question where a reply stays malformed; ServerError as `Client.ask`.
        """
        points = [np.zeros(len(group.passages)) for group in groups]
        times = [np.zeros(len(group.passages)) for group in groups]
        tasks = [task for place, group in enumerate(groups) for task in self._tasks(place, group)]
        for _ in range(self.attempts):
            refused = []
            for task, reply in zip(tasks, self.client.ask([self._request(task) for task in tasks]), strict=True):
                try:
                    found = self.form.points(reply, len(task.members), len(points[task.group]))
                except MalformedError as error:
                    refused.append(self._reminded(task, reply, str(error)))
                else:
                    points[task.group][task.members] += found
                    times[task.group][task.members] += 1
            self.counts.update(read=len(tasks) - len(refused), malformed=len(refused))
            tasks = refused
        self._settle(tasks, groups)
        for task in tasks:
            points[task.group][task.members[times[task.group][task.members] == 0]] = np.nan
        return [(sums / np.maximum(counts, 1)).astype(np.float32) for sums, counts in zip(points, times, strict=True)]

    @property
    def _times(self) -> int:
        return self.form.repeats if self.repeats is None else self.repeats

    def _tasks(self, place: int, group: Group) -> list[_Task]:
        """All that the judge is asked about a group. Its orders do not depend on the groups beside it."""
        texts = [shown(passage, self.passage_format, self.words) for passage in group.passages]
        entropy = int.from_bytes(hashlib.sha256(group.query.id.encode()).digest()[:8])
        tasks = []
        for repeat in range(self._times):
            for share in self.form.shares(len(texts), np.random.default_rng([self.seed, repeat // 2, entropy])):
                members = share[::-1] if repeat % 2 else share
                content = self.form.asked(group.query.text, [texts[member] for member in members])
                tasks.append(_Task(place, members, repeat, ({"role": "user", "content": content},)))
        return tasks

    def _request(self, task: _Task) -> Request[Reply]:
        body = {"messages": task.messages, "temperature": self.temperature, **self.form.options(len(task.members))}
        if self.temperature:
            body["seed"] = self.seed + task.repeat  # so that a repeat is another request, and found again
        return Request("chat/completions", body, self.form.read)

    def _reminded(self, task: _Task, reply: Reply, reason: str) -> _Task:
        """The same, gone on with: at temperature 0 the same words would get the same answer."""
        reminder = f"This answer is refused: {reason}. Write nothing but {self.form.wanted}."
        said = ({"role": "assistant", "content": reply.text}, {"role": "user", "content": reminder})
        return replace(task, messages=(*task.messages, *said), refusal=f"{reply.text[:EXCERPT]!r}: {reason}")

    def _settle(self, tasks: Sequence[_Task], groups: Sequence[Group]) -> None:
        """Count what failed to the end. ValueError unless that is skipped."""
        self.counts["failed"] += len(tasks)
        if tasks and self.failed == "refuse":
            query = groups[tasks[0].group].query
            raise ValueError(
                f"question {query.id!r}: after {self.attempts} attempts the judge says {tasks[0].refusal}; expected "
                f"{self.form.wanted} ({len(tasks)} such failures): use a model that follows the form, switch off its "
                "thinking by `extra`, raise attempts, or leave such passages without a label by failed: skip"
            )
