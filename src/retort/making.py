"""Teachers made from their settings: those that a run does not train. Between labelling and the families."""

from pathlib import Path

from retort.config import Judge, LanguageModel, ServerSettings, TeacherSettings
from retort.job import Job
from retort.records import Teacher
from retort.teachers.answers import AnswersTeacher
from retort.teachers.causal.loading import load_causal
from retort.teachers.causal.prompts import Prompt
from retort.teachers.causal.teacher import CausalTeacher
from retort.teachers.cross_encoder import CrossEncoderTeacher
from retort.teachers.loading import load_cross_encoder, load_retriever
from retort.teachers.remote.cache import AnswerCache
from retort.teachers.remote.client import Client
from retort.teachers.remote.forms import Form, Grades, Ranking
from retort.teachers.remote.judge import JudgeTeacher
from retort.teachers.remote.likelihood import RemoteLikelihoodTeacher
from retort.teachers.remote.server import Server
from retort.teachers.retriever import RetrieverTeacher

ANSWERS = "remote_answers"  # in the run's folder, not in a stage's: what was paid for outlives a changed config


def made_teacher(job: Job, settings: TeacherSettings) -> Teacher:
    """A teacher on the device of the job. ValueError: no model there, or not one of this kind; a server's key is missing."""
    if settings.kind == "answers":
        return AnswersTeacher()
    assert settings.model is not None
    device = job.accelerator.device
    if settings.server is not None:
        client = _client(job.root / ANSWERS, settings.server, settings.model, job.accelerator.process_index)
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


def _client(folder: Path, settings: ServerSettings, model: str, writer: int) -> Client:
    return Client(Server(model=model, **settings.model_dump()), cache=AnswerCache(folder, writer=writer))


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
        return Ranking(window=chosen.window)
    return Grades(scale=chosen.scale, expected=chosen.expected)


def _prompt(asked: LanguageModel) -> Prompt | None:
    return Prompt(**asked.prompt.model_dump()) if asked.prompt else None
