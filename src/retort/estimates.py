"""What each step of a run will cost: items, tokens, time, memory, disk and money, from what a probe found and the config.

Not estimated, as they are short beside the rest: reading the sources, building an index other than BM25's, measuring, the
report. Not here: memory and the files of indexes and trainings (footprint.py), requests to servers (asking.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from retort.asking import Asked, asked
from retort.config import Config
from retort.footprint import Work, checkpoints, index_bytes, memory
from retort.plan import Step, refresh_of, rerank_depth
from retort.speeds import Speeds, working


@dataclass(frozen=True)
class Line:
    """The cost of a step: items of a unit, how many tokens they come to, seconds; bytes; what servers are asked and charge.

    `disk` are the bytes that it leaves, `scratch` those that it needs besides while it works, `memory` its peak. `seconds`
    of servers are the least that their bound on requests a minute allows; `money` is the most they charge.
    """

    step: str
    items: int
    unit: str
    tokens: int
    seconds: float
    disk: int = 0
    scratch: int = 0
    memory: int = 0
    requests: int = 0
    request_tokens: int = 0
    money: float = 0.0


def bill(
    steps: Mapping[str, Step],
    questions: Mapping[str, int],
    passages: int,
    speeds: Mapping[int, Speeds],
    *,
    deepest: int | None = None,
) -> list[Line]:
    """A line for each step that takes long, in the order of the run; labels of no more than the `deepest` candidates.

    `questions` are those of each split, `speeds` those of each round.
    """
    lines = []
    for step in steps.values():
        if step.stage in LINES:
            work = Work(step, questions, passages, _labelled(step, steps, passages, deepest), speeds[step.round])
            lines.append(replace(LINES[step.stage](work), memory=memory(work)))
    return lines


def _labelled(step: Step, steps: Mapping[str, Step], passages: int, deepest: int | None) -> int:
    """The candidates of a question that get labels, at most: those that were found, or a lone file's own."""
    label = step.config.label
    alone = [teacher.kind for teacher in label.teachers] == ["run"]
    before = steps[f"round-{max(0, step.round - 1)}/retrieve"].config
    return min(label.depth, passages, deepest or label.depth, label.depth if alone else before.retrieve.depth)


def refreshes(config: Config, questions: Mapping[str, int], passages: int, speeds: Speeds) -> dict[str, float]:
    """Seconds of bringing a search up to date with a changed student, by policy (Atlas, section 2.4).

    Encoding the corpus anew; encoding only the first L that the stored vectors find for each question, at most; asking first
    which of the two it has to be; and, where the query side alone is trained (`student.query_side`), nothing.
    """
    encoded = speeds.student.encoded
    return {
        "full (the corpus anew)": encoded.seconds(passages),
        f"rerank (the first {rerank_depth(config)} of a question)": encoded.seconds(_found(config, questions, passages)),
        "auto (a probe, before one of these)": encoded.seconds(_probed(config, questions, passages)),
        "query_side": 0.0,
    }


def _found(config: Config, questions: Mapping[str, int], passages: int) -> int:
    """The passages that stored vectors find for all questions, at most."""
    return min(passages, sum(questions.values()) * rerank_depth(config))


def _probed(config: Config, questions: Mapping[str, int], passages: int) -> int:
    """The passages that the probe of staleness encodes, at most."""
    return min(passages, min(questions["dev"], config.encode.probe_questions) * rerank_depth(config))


def _encoding(work: Work) -> Line:
    """What is encoded by the round's way of refreshing, at most: found passages as if no two questions shared one."""
    config, student, about = work.step.config, work.speeds.student, (work.questions, work.passages)
    refresh, found = refresh_of(config, work.step.round), _found(config, *about)
    items = {"full": work.passages, "keep": 0, "rerank": found, "auto": _probed(config, *about) + work.passages}[refresh]
    seconds, disk, unit = student.encoded.seconds(items), work.passages * student.vector_bytes, "passages"
    if refresh in ("rerank", "auto"):
        seconds += _searching(work)
        disk, unit = disk + found * student.vector_bytes, "passages at most"
    return Line(work.step.name, items, unit, round(items * student.passage_tokens), seconds, round(disk))


def _indexing(work: Work) -> Line:
    """The files of the student's index, and in round 0 those of BM25, which alone takes long."""
    config, first = work.step.config, work.step.round == 0
    disk = index_bytes(config.index, config.distil.student.kind, work.passages, work.speeds.student)
    words = round(work.passages * work.speeds.posting_bytes) if first else 0
    seconds = work.passages / work.speeds.indexed if first else 0.0
    return Line(work.step.name, work.passages, "passages (BM25)" if first else "passages", 0, seconds, disk + words)


def _retrieving(work: Work) -> Line:
    config, first = work.step.config, work.step.round == 0
    runs = 2 + first * (1 + ("file" in config.retrieve.first))  # the student's, the candidates, BM25's, the user's
    disk = 8 * runs * work.asked * config.retrieve.depth
    return Line(work.step.name, work.asked, "questions", 0, _searching(work), disk)


def _searching(work: Work) -> float:
    """Seconds of an exact search through dense vectors for all questions."""
    return work.asked * work.passages * work.speeds.student.dimension / work.speeds.searched


def _reading(work: Work) -> Line:
    read, reader = work.step.config.read, work.speeds.reader
    assert reader is not None
    items = sum(phase.steps * phase.batch * phase.passages for phase in read.phases)
    times = sum(phase.steps for phase in read.phases) // read.evaluate_every
    seen = times * work.questions["dev"] * (read.evaluate_passages or read.phases[-1].passages)
    seconds = reader.read.seconds(items + seen / 3)  # a step costs three forward passes
    tokens = round(items * reader.string_tokens)
    disk, scratch = reader.weights.held, checkpoints(reader.weights)
    return Line(work.step.name, items, "passages read", tokens, seconds, disk, scratch)


def _labelling(work: Work) -> Line:
    """Every pair of question and candidate is seen once by the reader, for all its signals, and by each working teacher."""
    config, reader, pairs = work.step.config, work.speeds.reader, work.asked * work.depth
    local = [teacher.per_second for teacher in work.speeds.teachers if teacher.words is None]
    if reader is not None:
        local.append(reader.labelled.per_second)
    servers = _asked(work)
    requests, request_tokens = sum(one.requests for one in servers), sum(one.tokens for one in servers)
    seen = len(local) * pairs
    seconds = sum((pairs / speed for speed in local), 0.0) + sum(one.seconds for one in servers)
    tokens = seen * (reader.string_tokens if reader else work.speeds.student.passage_tokens) + request_tokens
    teachers, label = len(config.label.teachers), config.label
    files = 1 if teachers == 1 and label.entropy is None else teachers + 1  # of each teacher, and all fused
    return Line(
        work.step.name, seen + requests, "teacher calls", round(tokens), seconds, 8 * pairs * files, requests=requests,
        request_tokens=request_tokens, money=sum((one.money for one in servers), 0.0),
    )  # fmt: skip


def _asked(work: Work) -> list[Asked]:
    """What each server is asked, one after the other."""
    pairs = zip(working(work.step.config), work.speeds.teachers, strict=True)
    return [asked(teacher, found.words, work.asked, work.depth) for teacher, found in pairs if found.words is not None]


def _distilling(work: Work) -> Line:
    """The passages of dev are encoded at every evaluation; where the query side alone is trained, they are stored ones."""
    distil, student = work.step.config.distil, work.speeds.student
    alone, times = distil.student.query_side is not None, distil.steps // distil.evaluate_every + 1
    drawn = 1 if alone else min(distil.candidates, work.depth)
    items, unit = distil.steps * distil.batch * drawn, "questions" if alone else "candidates"
    tokens = items * (student.query_tokens if alone else student.passage_tokens)
    dev = 0 if alone else min(work.passages, work.questions["dev"] * work.depth)
    seconds = student.distilled.seconds(items) + student.encoded.seconds(times * dev)
    disk, scratch = student.weights.held, checkpoints(student.weights)
    return Line(work.step.name, items, unit, round(tokens), seconds, disk, scratch)


LINES: Mapping[str, Callable[[Work], Line]] = {
    "encode": _encoding,
    "index": _indexing,
    "retrieve": _retrieving,
    "read": _reading,
    "label": _labelling,
    "distil": _distilling,
}
