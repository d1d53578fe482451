"""The steps of a run: which stage of which round reads what, where it writes, and the key that says whether it is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retort.config import Config, TeacherSettings, load
from retort.data import fingerprint
from retort.distil.method import Method
from retort.losses import build
from retort.store import MANIFEST, StageFolder, key_of, read_json
from retort.teachers.fid.signals import ReaderSignal

# Raise a stage's version when what it writes changes for the same settings: folders of another version are refused.
VERSIONS = {
    "prepare": 2,
    "read": 2,
    "label": 4,
    "distil": 3,
    "encode": 1,
    "index": 1,
    "retrieve": 1,
    "evaluate": 2,
    "report": 1,
}


@dataclass(frozen=True)
class Step:
    """One stage of one round: its config, its folder with the wanted key, and the names of the steps that it reads."""

    name: str
    stage: str
    round: int
    config: Config
    folder: StageFolder
    inputs: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The folder of the stage."""
        return self.folder.path


def finished_run(root: Path) -> tuple[dict[str, Step], int]:
    """The steps of the finished run in `root` and its best round, 0 for the untouched student.

    The run is taken as it stands, also where its sources have moved. ValueError where it is not finished.
    """
    if not (root / "prepare" / MANIFEST).is_file():
        raise ValueError(f"{root} holds no run, expected config.json and prepare/ there: give the folder of `retort run`")
    known = {str(file.parent.relative_to(root)): read_json(file)["key"] for file in root.rglob(MANIFEST)}
    steps = plan(load(root / "config.json"), root, known=known)
    best = steps["report"].folder.manifest()["best_round"]
    if best:
        steps[f"round-{best}/distil"].folder.manifest()  # may be in training again, with other settings
    return steps, best


def plan(config: Config, root: Path, *, known: Mapping[str, str] | None = None) -> dict[str, Step]:
    """All steps of a run in `root` by name ("round-1/read"), in the order in which they run.

    `known` gives keys of steps that are taken as they are: a finished run can be used where its sources are not at hand.
    """
    steps: dict[str, Step] = {}

    def add(stage: str, number: int, inputs: Sequence[str]) -> str:
        settings = config if stage == "prepare" else config.of_round(number)  # prepare looks at all rounds
        name = stage if stage in ("prepare", "report") else f"round-{number}/{stage}"
        keys = [steps[before].folder.key for before in inputs]
        key = (known or {}).get(name) or key_of(_section(settings, stage, number), keys, VERSIONS[stage])
        steps[name] = Step(name, stage, number, settings, StageFolder(root / name, key, VERSIONS[stage]), tuple(inputs))
        return name

    prepare = add("prepare", 0, [])
    encode = add("encode", 0, [prepare])
    retrieve = add("retrieve", 0, [add("index", 0, [encode])])
    evaluate = [add("evaluate", 0, [retrieve])]
    read = distil = ""
    for number in range(1, config.rounds + 1):
        settings = config.of_round(number)
        reads = []
        if settings.label.reads:
            earlier = [read] if read and settings.read.later_rounds == "continue" else []
            reads = [read := add("read", number, [prepare, retrieve, *earlier])]
        label = add("label", number, [*reads, retrieve])
        earlier = [distil] if distil and settings.distil.later_rounds == "continue" else []
        distil = add("distil", number, [label, *earlier])
        stored = stored_round(settings, number)
        encode = add("encode", number, [distil, *([] if stored is None else [f"round-{stored}/index"])])
        retrieve = add("retrieve", number, [add("index", number, [encode])])
        evaluate.append(add("evaluate", number, [retrieve, label, *evaluate]))
    add("report", config.rounds, evaluate)
    return steps


def refresh_of(config: Config, number: int) -> Literal["full", "keep", "rerank", "auto"]:
    """What a round does about the vectors of the passages: as `encode.refresh` says, or keep them as they are.

    Round 0 has none yet. Where the query side alone is trained, they cannot go stale.
    """
    if number == 0:
        return "full"
    return config.encode.refresh if config.distil.student.query_side is None else "keep"


def stored_round(config: Config, number: int) -> int | None:
    """The round whose passage vectors a round may keep: the one before; None where it encodes the corpus anew.

    Where the query side alone is trained: that of the student it starts from, whose passage tower it shares.
    """
    refresh = refresh_of(config, number)
    if refresh == "full":
        return None
    return 0 if refresh == "keep" and config.distil.later_rounds == "restart" else number - 1


def rerank_depth(config: Config) -> int:
    """How many passages that stored vectors find are ranked by fresh ones: L."""
    return config.encode.rerank_depth or 2 * config.retrieve.depth


def sources(config: Config) -> list[str]:
    """What the prepare stage reads."""
    asked = config.prepare
    listed = asked.candidates.values() if isinstance(asked.candidates, dict) else [asked.candidates]
    return [asked.corpus, *asked.queries.values(), *asked.qrels.values(), *filter(None, [*listed, asked.positives])]


def reads(config: Config) -> frozenset[str]:
    """What the objectives of a round, and the drawing of candidates, read of them: "positive", "ranks"."""
    drawn = {"positive"} if config.distil.sample == "positive" else set()
    return Method(objectives=build(config.distil.objectives)).reads | drawn


def answered_splits(config: Config) -> set[str]:
    """The splits of which every question must have answers.

    train and dev for a reader, for positives, or for the choice of a model; test too where labels come of reading answers.
    """
    rounds = [config.of_round(number) for number in range(1, config.rounds + 1)]
    trained = any(
        settings.label.reads
        or any(teacher.kind == "answers" for teacher in settings.label.teachers)
        or settings.label.require_answer
        or settings.distil.selection != "labels"
        or (settings.distil.positives == "answers" and "positive" in reads(settings))
        for settings in rounds
    )
    labelled = any(_reads_answers(teacher) for settings in rounds for teacher in settings.label.teachers)
    return ({"train", "dev"} if trained else set()) | ({"test"} if labelled else set())


def _reads_answers(teacher: TeacherSettings) -> bool:
    """Whether a model is fed the answer, so that it cannot label a question that has none."""
    if teacher.kind == "fid":
        return ReaderSignal(teacher.signal, teacher.attention).reads_answers
    return teacher.kind in ("language_model", "remote") and teacher.language.reads_answers


def marks_of(config: Config) -> Literal["qrels", "scores"] | None:
    """Who marked the positives that an objective of a round reads: grades, or a teacher's file of scores.

    None where answers tell them, and where nothing reads positives.
    """
    positives = config.distil.positives
    return positives if positives != "answers" and "positive" in reads(config) else None


def only_graded(config: Config) -> set[str]:
    """The splits of which questions without grades are left out: those that could not be trained on, or measured."""
    train = any(marks_of(config.of_round(number)) == "qrels" for number in range(1, config.rounds + 1))
    return ({"train"} if train else set()) | ({*config.prepare.qrels} if config.prepare.ungraded == "drop" else set())


def models_of(config: Config) -> list[str]:
    """The models that label without being trained by the run."""
    return [teacher.model for teacher in config.label.teachers if teacher.model and teacher.server is None]


def score_files(config: Config) -> list[str]:
    """The files of teacher scores that the label stage reads."""
    return [teacher.scores for teacher in config.label.teachers if teacher.scores]


def _section(config: Config, stage: str, number: int) -> dict[str, Any]:
    """The settings that decide what a stage writes: its own section, and what it takes from others."""
    whole = config.model_dump(mode="json")
    section = {stage: whole[stage], "round": number}
    if stage == "prepare":
        section["questions"] = [sorted(answered_splits(config)), sorted(only_graded(config))]
        section["sources"] = {source: fingerprint(source) for source in sources(config)}
    if stage in ("read", "distil", "index", "evaluate"):
        section["seed"] = config.seed
    if stage == "label":
        section["prompts"] = whole["read"]["prompts"]
        section["label"] = {**whole["label"], "require_answer": None}  # only distil asks
        for teacher in section["label"]["teachers"]:  # where a server is, and how patiently it is asked, changes no label
            teacher["server"] = teacher["server"] and teacher["server"]["extra"]
        section["positives"] = marks_of(config)
        section["models"] = {name: fingerprint(name) for name in models_of(config)}
        section["scores"] = {file: fingerprint(file) for file in score_files(config)}
    if stage == "distil":
        section["require_answer"] = config.label.require_answer
    if stage == "encode" and refresh_of(config, number) in ("full", "keep"):
        section["encode"] = {name: whole["encode"][name] for name in ("passages_per_part", "batch_tokens")}
    elif stage == "encode":
        section["rerank_depth"] = rerank_depth(config)
    if stage == "encode" and number == 0:
        section["student"] = whole["distil"]["student"]
    if stage == "index" and number == 0:
        section["bm25"] = whole["retrieve"]["bm25"]
    return section
