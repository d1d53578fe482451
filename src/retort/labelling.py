"""Who labels a round's candidates, and how the labels come about.

Between the pipeline and the families: makes teachers from their settings, writes each one's scores in parts, fuses them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retort.candidates import as_ranked, cut, known_positives, within
from retort.config import Config, TeacherSettings
from retort.data import read_scores
from retort.data.scores import TeacherScores
from retort.job import Job
from retort.making import client_of, made_teacher
from retort.plan import Step, marks_of
from retort.prepared import Prepared
from retort.records import Group, Query, Run
from retort.store import COST, PARTS, read_json, write_json, write_parts
from retort.teachers.fid.model import Reader
from retort.teachers.fid.prompts import check_targets
from retort.teachers.fid.signals import ReaderSignal, check_signals
from retort.teachers.fid.teacher import FidTeacher, answer_groups
from retort.teachers.fused import calibrated, fuse, unshared
from retort.teachers.raw import check_raw
from retort.teachers.remote.cost import Cost
from retort.teachers.remote.judge import JudgeTeacher

Scoring = Callable[[Sequence[Group]], Sequence[Sequence[np.ndarray]]]  # one list of scores, or several from one look
LABELS, MODEL = "labels.parquet", "model"
COUNTS, LEDGER = "counts.json", "asked-{}.json"  # of a judge's replies in a part; of a process's requests
MOST_MAPS = 20  # questions whose heat-map is kept; report.maps says how many are shown


@dataclass(frozen=True)
class Labels:
    """What the teachers of a round say: the labels, each teacher's raw scores, and what was set aside, by reason."""

    fused: Run
    raw: Sequence[Run]
    aside: Mapping[str, int]


def labelled(job: Job, step: Step, name: str, candidates: Run, reader: Reader | None) -> Labels:
    """The labels of a round; `reader` is its own, where it has one. The main process alone has them whole.

    Scores are written in parts, which processes share; files of scores are read before any model works. What servers were
    asked goes to the stage's cost.json. One teacher's scores are the labels; several are fused over the candidates that each
    of them has scored. Where an entropy is asked for, each question is brought to it.
    """
    settings, aside = step.config.label, Counter[str]()
    raw: dict[int, Run] = {}
    remote: dict[int, Mapping[str, Any]] = {}
    for number, teacher in sorted(enumerate(settings.teachers), key=lambda one: one[1].scores is None):
        if number in raw:  # a signal of the reader, found beside its first
            continue
        if teacher.scores is not None:
            raw[number] = _file_scores(job, step, teacher, candidates, aside)
        elif teacher.kind == "bm25":
            raw[number] = as_ranked(Run.read(job.path(0, "retrieve") / "bm25.parquet"), candidates, name)
        elif teacher.kind == "fid":
            assert reader is not None
            signals = [place for place, one in enumerate(settings.teachers) if one.kind == "fid"]
            score = fid_teacher(job, step, reader).signals
            found, _ = _scores(job, step, score, number, name, candidates, lists=len(signals))
            raw.update(zip(signals, found, strict=True))
        else:
            raw[number], replies = _made_scores(job, step, number, name, candidates)
            if replies["failed"]:
                aside["replies of the judge that never had the form"] += replies["failed"]
            if teacher.server is not None:
                remote[number] = _asked(step, number, replies["malformed"])
    if remote and job.accelerator.is_main_process:
        before = read_json(step.path / COST) if (step.path / COST).exists() else {}
        write_json(step.path / COST, {**before, "remote": [remote[number] for number in sorted(remote)]})
    runs = [replace(raw[number], name=name) for number in range(len(raw))]
    whole = runs[0]
    if len(runs) > 1 and job.accelerator.is_main_process:
        whole = fuse(runs, weights=[teacher.weight for teacher in settings.teachers], how=settings.fuse, name=name)
        left_out = {f"not scored by all, of teacher {number}": count for number, count in enumerate(unshared(runs)) if count}
        aside.update(left_out)
    return Labels(whole if settings.entropy is None else calibrated(whole, settings.entropy), runs, aside)


def check_asked(step: Step, reader: Reader, queries: Sequence[Query]) -> None:
    """ValueError, before the reader is trained, where it cannot give a signal that its round asks for, or hold an answer."""
    signals = _signals(step.config)
    check_signals(reader, signals)
    if any(signal.reads_answers for signal in signals):
        check_targets(reader, queries, step.config.read.prompts)


def _signals(config: Config) -> list[ReaderSignal]:
    return [ReaderSignal(one.signal, one.attention) for one in config.label.teachers if one.kind == "fid"]


def fid_teacher(job: Job, step: Step, reader: Reader) -> FidTeacher:
    """The round's own reader as a teacher."""
    settings, prompts = step.config.label, step.config.read.prompts
    signals = _signals(step.config)
    return FidTeacher(reader, prompts, batch=settings.batch, accelerator=job.accelerator, signals=signals)


def reader_answers(job: Job, step: Step, candidates: Run, reader: Reader) -> dict[str, str]:
    """The reader's answers to the dev and test questions that have answers, by question."""
    read, prepared = step.config.read, job.prepared
    measured = [query for split in ("dev", "test") for query in prepared.splits.get(split, []) if query.answers]
    asked = prepared.groups(candidates, measured, read.evaluate_passages or read.phases[-1].passages)
    found = answer_groups(reader, asked, read.prompts, batch=step.config.label.batch, accelerator=job.accelerator)
    return dict(sorted(found.items()))


def looked_at(job: Job, step: Step, labels: Run, reader: Reader) -> dict[str, list[Any]]:
    """Where the reader looked in the first passages of some test questions, or of dev questions where there are none."""
    splits = job.prepared.splits
    shown = job.prepared.groups(labels, (splits.get("test") or splits["dev"])[:MOST_MAPS], depth=6)
    teacher = fid_teacher(job, step, reader)
    maps = {group.query.id: teacher.looked_at(group) for group in shown if group.passages}
    # a slow tokenizer does not tell where its tokens stand
    return {query: looked for query, looked in maps.items() if looked}


def teacher_names(config: Config) -> str:
    """The teachers of a round, for the model card."""
    named = {"bm25": "BM25", "answers": "answer strings", "run": "scores in"}
    texts = []
    for teacher in config.label.teachers:
        source = teacher.model or teacher.scores
        text = named.get(teacher.kind, teacher.kind.replace("_", "-")) + (f" `{source}`" if source else "")
        fid = f"Fusion-in-Decoder reader from `{config.read.model}`, its signal {teacher.signal}"
        texts.append(fid if teacher.kind == "fid" else text)
    return " + ".join(texts) + (f", fused by {config.label.fuse}" if len(texts) > 1 else "")


def check_files(config: Config, prepared: Prepared) -> None:
    """ValueError where a file of scores, of any round, could not be trained on: read early, as its round may be late.

    A file that is not there yet, as what is retrieved has to be scored first, is left to its label stage.
    """
    rounds = [config.of_round(number) for number in range(1, config.rounds + 1)]
    marked: dict[str, int] = {}
    for file, squashed in dict.fromkeys(
        (one.scores, one.squashed) for settings in rounds for one in settings.label.teachers
    ):
        if file is not None and (file.startswith("hf:") or Path(file).exists()):
            found = _read_scores(file, squashed, prepared)
            _check_pairs(found.run, file, prepared)
            marked[file] = len(found.grades)
    for settings in rounds:
        counts = [marked.get(one.scores) for one in settings.label.teachers if one.scores is not None]
        if marks_of(settings) == "scores" and not any(n is None or n for n in counts):
            raise ValueError(
                "distil.positives is 'scores', and the files of scores mark no positive: expected such as FlagEmbedding's "
                "`pos`; give another file, or set it to 'answers' or 'qrels'"
            )


def _file_scores(job: Job, step: Step, settings: TeacherSettings, candidates: Run, aside: Counter[str]) -> Run:
    """The scores in a file: its own lists where it is the only teacher, else those of the candidates.

    `aside` counts what is not used. ValueError where no train or no dev question has two scored passages.
    """
    assert settings.scores is not None
    prepared, label = job.prepared, step.config.label
    found = _read_scores(settings.scores, settings.squashed, prepared)
    alone = len(label.teachers) == 1
    run = cut(found.run, label.depth, known_positives(job, step)) if alone else within(found.run, candidates)
    _check_pairs(run, settings.scores, prepared, "" if alone else " among the candidates")
    aside.update({reason: one.count for reason, one in found.aside.items()})
    return run


def _read_scores(file: str, squashed: bool, prepared: Prepared) -> TeacherScores:
    """What a file says of the questions; ValueError where a sigmoid has squashed it and nobody said so."""
    found = read_scores(file, prepared.queries, prepared.corpus)
    if not squashed:
        check_raw(found.run.scores, file)
    return found


def _check_pairs(run: Run, file: str, prepared: Prepared, where: str = "") -> None:
    for split in ("train", "dev"):
        if not any(query.id in run and len(run.of(query.id)[0]) > 1 for query in prepared.splits[split]):
            raise ValueError(
                f"{file} scores two passages{where} of none of the {len(prepared.splits[split])} {split} questions, "
                "expected that of some: give a file that scores them"
            )


def _made_scores(job: Job, step: Step, number: int, name: str, candidates: Run) -> tuple[Run, Counter[str]]:
    """What a teacher that the run does not train says, and the replies of a judge by their kind."""
    settings = step.config.label.teachers[number]
    with client_of(job, settings, _folder(step, number) / PARTS / LEDGER.format(job.accelerator.process_index)) as client:
        made = made_teacher(job, settings, client)
        counts = made.counts if isinstance(made, JudgeTeacher) else Counter[str]()
        found, replies = _scores(job, step, lambda groups: [made.score(groups)], number, name, candidates, counts=counts)
    return found[0], replies


def _asked(step: Step, number: int, malformed: int) -> dict[str, Any]:
    """What a teacher's server was asked, by all processes and attempts at this stage."""
    settings = step.config.label.teachers[number]
    assert settings.server is not None
    ledgers = (_folder(step, number) / PARTS).glob(LEDGER.format("*"))
    used = sum((Cost.read(path) for path in ledgers), Cost())
    money = settings.server.money(used.prompt_tokens, used.completion_tokens)
    return {"model": settings.model, **asdict(used), "malformed": malformed, "money": money}


def _folder(step: Step, number: int) -> Path:
    """Where the parts of a teacher's scores are."""
    return step.path if number == 0 else step.path / PARTS / str(number)


def _scores(
    job: Job, step: Step, score: Scoring, number: int, name: str, candidates: Run, *, lists: int = 1,
    counts: Counter[str] | None = None,
) -> tuple[list[Run], Counter[str]]:  # fmt: skip
    """One pass over the candidates of all questions: a Run for each of the `lists` that it finds, whole in the main process.

    `number` is the teacher's, whose folder the parts are in. Beside the Runs: what `counts`, in which the teacher counts,
    gained in all parts, those of earlier attempts too.
    """
    prepared, label, counted = job.prepared, step.config.label, Counter[str]() if counts is None else counts
    cuts = range(0, len(prepared.queries), label.queries_per_part)
    with job.bars("questions labelled", len(prepared.queries)) as bar:

        def write(part: int, path: Path) -> None:
            queries = prepared.queries[cuts[part] : cuts[part] + label.queries_per_part]
            groups = prepared.groups(candidates, queries)
            rows = [candidates.of(query.id)[0] if query.id in candidates else [] for query in queries]
            path.mkdir()
            before = counted.copy()
            for place, scores in enumerate(score(groups)):
                known = [~np.isnan(values) for values in scores]  # a judge may leave a passage without a score
                kept = [np.asarray(own)[one] for own, one in zip(rows, known, strict=True)]
                said = [values[one] for values, one in zip(scores, known, strict=True)]
                Run.build(name, [query.id for query in queries], kept, said).write(path / str(place))
            write_json(path / COUNTS, counted - before)
            bar(len(queries))

        parts = write_parts(_folder(step, number), len(cuts), write, mine=job.mine)
    job.accelerator.wait_for_everyone()
    if not job.accelerator.is_main_process:
        return [candidates] * lists, Counter()
    replies = sum((Counter(read_json(path / COUNTS)) for path in parts), Counter[str]())
    return [joined(name, [Run.read(path / str(place)) for path in parts]) for place in range(lists)], replies


def joined(name: str, runs: Sequence[Run]) -> Run:
    """Runs over different queries as one."""
    lists = [one for run in runs for one in run]
    return Run.build(
        name, [query for query, _, _ in lists], [rows for _, rows, _ in lists], [scores for *_, scores in lists]
    )
