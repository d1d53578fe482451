"""Teachers made from their settings: those that a run does not train. Between labelling and the families."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from retort.compute import server_limits
from retort.config import Judge, LanguageModel, TeacherSettings
from retort.job import Job
from retort.records import Teacher
from retort.teachers.answers import AnswersTeacher
from retort.teachers.causal.loading import load_causal
from retort.teachers.causal.prompts import PROMPTS, Prompt
from retort.teachers.causal.teacher import CausalTeacher
from retort.teachers.cross_encoder import CrossEncoderTeacher
from retort.teachers.loading import load_cross_encoder, load_retriever
from retort.teachers.remote.cache import AnswerCache
from retort.teachers.remote.client import Client
from retort.teachers.remote.cost import Ledger
from retort.teachers.remote.forms import Form, Grades, Ranking
from retort.teachers.remote.judge import JudgeTeacher
from retort.teachers.remote.likelihood import RemoteLikelihoodTeacher
from retort.teachers.remote.server import Server
from retort.teachers.retriever import RetrieverTeacher

ANSWERS = "remote_answers"  # in the run's folder, not in a stage's: what was paid for outlives a changed config


def made_teacher(job: Job, settings: TeacherSettings, client: Client | None = None) -> Teacher:
    """A teacher on the device of the job, or behind the server of `client`.

    ValueError: no model there, or not one of this kind; as `check_teacher`.
    """
    if settings.kind == "answers":
        return AnswersTeacher()
    assert settings.model is not None
    device = job.accelerator.device
    if settings.server is not None:
        assert client is not None
        return _judge(client, settings) if settings.kind == "judge" else _remote(client, settings)
    if settings.kind == "language_model":
        model, tokenizer = load_causal(settings.model, settings.sha256)
        asked = settings.language
        options = asked.model_dump(include={"signal", "chat", "chat_options", "end_token", "looking", "calibrated", "heads"})
        return CausalTeacher(
            model.to(device), tokenizer, prompt=_prompt(asked), tokens=settings.tokens, autocast=job.precision, **options
        )
    given = {"passage_format": settings.passage_format, "tokens": settings.tokens, "autocast": job.precision}
    if settings.kind == "retriever":
        return RetrieverTeacher(load_retriever(settings.model, settings.sha256).to(device), **given)
    cross_encoder = load_cross_encoder(settings.model, settings.sha256).to(device)
    return CrossEncoderTeacher(cross_encoder, squashed=settings.squashed, **given)


@contextmanager
def client_of(job: Job, settings: TeacherSettings, ledger: Path) -> Iterator[Client | None]:
    """What asks a teacher's server and counts in the file `ledger`, this process's own; None for a teacher without a server.

    The limits in the settings are those of all processes together: the client of this one has its part of them. Afterwards
    the file of answers is free for the next teacher. ValueError where the server's key is missing.
    """
    if settings.server is None:
        yield None
        return
    server = server_of(settings)
    in_flight, per_minute = server_limits(server.in_flight, server.requests_per_minute, job.accelerator)
    server = replace(server, in_flight=in_flight, requests_per_minute=per_minute)
    with closing(AnswerCache(job.root / ANSWERS, writer=job.accelerator.process_index)) as cache:
        yield Client(server, cache=cache, ledger=Ledger(ledger))


def check_teacher(settings: TeacherSettings) -> None:
    """Refuse what the settings of a teacher alone show: its address, prompt, form. Nothing is loaded, asked or written."""
    if settings.server is not None:
        server_of(settings)
    if settings.kind in ("language_model", "remote"):
        (_prompt(settings.language) or PROMPTS[settings.language.signal]).check(settings.language.signal)
    if settings.kind == "judge":
        _form(settings.judge)


def server_of(settings: TeacherSettings) -> Server:
    """Where a teacher's model is asked. ValueError: no plain address, or no name of a variable for the key."""
    assert settings.server is not None
    assert settings.model is not None
    return Server(model=settings.model, **settings.server.model_dump(exclude={"price_per_million"}))


def _remote(client: Client, settings: TeacherSettings) -> RemoteLikelihoodTeacher:
    asked = settings.language
    assert asked.signal != "attention"  # refused by the settings
    return RemoteLikelihoodTeacher(client, signal=asked.signal, prompt=_prompt(asked), words=settings.words)


def _judge(client: Client, settings: TeacherSettings) -> JudgeTeacher:
    chosen = settings.judge
    return JudgeTeacher(
        client, _form(chosen), repeats=chosen.repeats, attempts=chosen.attempts, failed=chosen.failed,
        temperature=chosen.temperature, passage_format=settings.passage_format, words=settings.words,
    )  # fmt: skip


def _form(chosen: Judge) -> Form:
    if chosen.form == "ranking":
        return Ranking(window=chosen.window, grammar=chosen.grammar)
    return Grades(scale=chosen.scale, expected=chosen.expected, grammar=chosen.grammar)


def _prompt(asked: LanguageModel) -> Prompt | None:
    return Prompt(**asked.prompt.model_dump()) if asked.prompt else None
