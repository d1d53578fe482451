"""What can be known to fail is refused before it costs time: in the config, around it, in the questions, in the candidates.

Each function raises ValueError (FileNotFoundError for a source) that says what was found, what was expected and what to do.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec

from retort import compute
from retort.config import Config, Distil, Index, Negatives
from retort.data import check_source
from retort.evaluation.measure_names import check_measures
from retort.evidence import headline, measures_of
from retort.losses.objectives import CLDRD
from retort.making import check_teacher, server_of
from retort.model_checks import check_models, placed_at
from retort.plan import Step, marks_of, reads, rerank_depth, score_files, sources, stored_round
from retort.prepared import Prepared
from retort.records import Corpus, Qrels, Query, Run
from retort.text import AnswerMatcher

ROUNDS_ONLY = ("read", "label", "distil", "encode", "index", "retrieve")  # what differs between rounds
# settings of a student that its passage vectors depend on
PASSAGE_SIDE = (
    "kind", "model", "sha256", "passage_format", "passage_tokens", "pooling", "score", "sparse_pooling", "dimension",
    "skip_punctuation",
)  # fmt: skip
INDEXES = {"dense": ("flat", "hnsw", "ivf"), "sparse": ("flat", "seismic"), "late_interaction": ("flat", "hnsw", "ivf")}

APPROXIMATE = ("hnsw", "ivf", "seismic")  # what the settings of each begin with


def check_config(config: Config) -> None:
    """Refuse what the config alone shows, and models in folders and packages that are not there."""
    if config.budget is not None:
        raise ValueError("the config has a budget that has not chosen yet: take what `retort.budget.settled` makes of it")
    splits = config.prepare.queries
    if "train" not in splits or "dev" not in splits:
        raise ValueError(f"prepare.queries names {sorted(splits)}, expected train and dev: dev questions select models")
    if unasked := sorted(set(config.prepare.qrels) - set(splits)):
        raise ValueError(f"prepare.qrels names {unasked}, which prepare.queries does not: give the questions too")
    if "file" in config.retrieve.first and config.prepare.candidates is None:
        raise ValueError("retrieve.first holds 'file' but prepare.candidates is not set: name the file of candidates")
    if config.prepare.candidates is not None and "file" not in config.retrieve.first:
        raise ValueError(f"prepare.candidates is set but retrieve.first is {config.retrieve.first}: add 'file' to it")
    if isinstance(config.prepare.candidates, dict) and (unasked := sorted(set(config.prepare.candidates) - set(splits))):
        raise ValueError(f"prepare.candidates names {unasked}, which prepare.queries does not: give the questions too")
    for since, sections in config.overrides.items():
        if fixed := sorted(set(sections) - set(ROUNDS_ONLY)):
            raise ValueError(f"overrides.{since} changes {fixed}, expected sections of a round, {ROUNDS_ONLY}: move it up")
    _check_index(config)  # of round 0
    for number in range(1, config.rounds + 1):
        _check_round(config.of_round(number))
        _check_topics(config.of_round(number).distil, config.of_round(number - 1).distil)
        _check_refresh(config, number)


def check_start(steps: Mapping[str, Step], names: Sequence[str], *, force: bool) -> None:
    """Refuse what the steps that are to be built, `names`, will miss: earlier steps, sources, models, keys, questions.

    Nothing is loaded or removed here, and steps that are done are not looked at.
    """
    todo = [steps[name] for name in names if force or steps[name].folder.state() != "done"]
    built = {step.name for step in todo}
    for step in todo:
        step.folder.check_version(force=force)
        for before in step.inputs:
            if before not in built and (state := steps[before].folder.state()) != "done":
                raise ValueError(
                    f"{step.name} needs {before}, which is {state}: run `retort {_command(steps[before])}` first, or "
                    "`retort run` for all that is missing"
                )
        _check_around(step)
    if "prepare" not in built:
        prepared = Prepared(steps["prepare"].path)
        for step in todo:
            if step.stage in ("evaluate", "report"):
                check_questions(step.config, prepared)


def check_questions(config: Config, prepared: Prepared) -> None:
    """Refuse dev and test questions that the measures asked for cannot be computed on."""
    for split in ("dev", "test"):
        queries, grades = prepared.splits.get(split, []), prepared.qrels(split)
        if split in config.prepare.queries and len(queries) < 2:
            raise ValueError(f"found {len(queries)} {split} question, expected 2 at least: a mean needs several; give more")
        missing = [query.id for query in queries if grades is not None and query.id not in grades.grades]
        if missing and config.evaluate.measures:
            raise ValueError(
                f"{split} query {missing[0]!r} has no grades in the qrels ({len(missing)} of {len(queries)} have none), "
                f"expected some for each: take such questions out, or prepare.qrels.{split}"
            )
        if queries:
            measures_of(split, config, prepared)
    headline(config, prepared)


def check_grades(qrels: Iterable[tuple[str, Qrels]], corpus: Corpus) -> None:
    """Refuse grades, each with its source, of passages that the corpus does not hold."""
    for source, grades in qrels:
        try:
            corpus.rows([passage for judged in grades.grades.values() for passage in judged])
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error


def check_candidates(candidates: Run, prepared: Prepared, config: Config) -> None:
    """Refuse candidates from which nothing can be learnt, before a reader is trained on them."""
    settings, with_answer, without = config.label, config.label.require_answer, False
    if config.distil.positives == "answers" and "positive" in reads(config):
        with_answer = without = True

    def teaches(query: Query) -> bool:
        rows = candidates.of(query.id)[0][: settings.depth].tolist() if query.id in candidates else []
        matches = AnswerMatcher(query.answers).matches
        held = [matches(prepared.corpus[row].text) for row in rows] if with_answer else []
        return len(rows) > 1 and (not with_answer or any(held)) and not (without and all(held))

    if any(teacher.signal == "loop" for teacher in settings.teachers):
        single = [
            q.id for q in prepared.queries if q.id in candidates and len(candidates.of(q.id)[0][: settings.depth]) == 1
        ]
        if single:
            raise ValueError(
                f"{len(single)} questions have one candidate, among them {single[:5]}: the signal loop leaves one out of "
                "several, expected two for each; add 'student' to retrieve.first, which finds some for all, take these "
                "questions out, or take pdist"
            )
    for split in ("train", "dev"):
        if not any(map(teaches, prepared.splits[split])):
            wanted = "two candidates" + with_answer * ", one of them with an answer" + without * " and one without"
            raise ValueError(
                f"none of the {len(prepared.splits[split])} {split} questions has {wanted} within label.depth "
                f"{settings.depth}: expected that of some, since one passage leaves nothing to rank; look at the run "
                f"{candidates.name!r}"
            )


def _check_round(config: Config) -> None:
    """The settings of one round."""
    models = {f"label.teachers.{number}": teacher for number, teacher in enumerate(config.label.teachers)}
    models = {place: teacher for place, teacher in models.items() if teacher.server is None}
    models |= {"distil.student": config.distil.student, **({"read": config.read} if config.label.reads else {})}
    for place, section in models.items():
        if section.model is not None:
            with placed_at(place):
                compute.model_path(section.model, section.sha256)
    if marks_of(config) == "qrels" and (config.prepare.positives is None or "dev" not in config.prepare.qrels):
        raise ValueError(
            "distil.positives is 'qrels' and an objective reads positives: expected prepare.positives (grades of train "
            "questions) and prepare.qrels.dev; give both, or set distil.positives to 'answers'"
        )
    if config.distil.positives == "scores" and not any(teacher.scores for teacher in config.label.teachers):
        raise ValueError(
            "distil.positives is 'scores', but no teacher is a file of scores: give one of kind run, or change it"
        )
    if config.distil.negatives.system == "file" and config.prepare.candidates is None:
        raise ValueError("distil.negatives.system is 'file', but prepare.candidates is not set: name the file of candidates")
    _check_objectives(config)
    _check_unused(config.distil, reads(config))
    _check_index(config)
    for number, teacher in enumerate(config.label.teachers):
        with placed_at(f"label.teachers.{number}"):
            check_teacher(teacher)
    depth = min(config.distil.candidates, config.label.depth, config.retrieve.depth)
    if depth < 2:
        raise ValueError(
            f"retrieve.depth {config.retrieve.depth}, label.depth {config.label.depth}, distil.candidates "
            f"{config.distil.candidates}: expected 2 at least of each, as one candidate leaves nothing to rank; raise it"
        )
    asked = [*config.evaluate.measures, *([config.evaluate.headline] if config.evaluate.headline else [])]
    if asked:
        check_measures(asked)


def _check_objectives(config: Config) -> None:
    """EMDR2 takes its labels for log-likelihoods of the answer, as they are; CL-DRD ranks those that a step draws."""
    for one in config.distil.objectives:
        head, drawn = (one.heads or CLDRD().heads)[-1], config.distil.candidates
        if one.name == "cl_drd" and head >= drawn:
            raise ValueError(
                f"the objective cl_drd tells the teacher's first {head} from the rest, and distil.candidates is {drawn}: "
                "expected more candidates, or fewer in `heads`"
            )
        if one.name == "emdr2":
            teachers = [(teacher.kind, teacher.signal) for teacher in config.label.teachers]
            stored = [kind for kind, _ in teachers] == ["run"]  # the labels of an earlier run
            raw = not config.label.entropy and one.teacher_temperature in (None, 1.0)
            if not (stored or teachers == [("fid", "emdr2")]) or not raw:
                raise ValueError(
                    f"the objective emdr2 reads log-likelihoods, and the teachers are {teachers}: expected the one teacher "
                    "{kind: fid, signal: emdr2}, no label.entropy and no teacher_temperature; or take kl"
                )


def _check_index(config: Config) -> None:
    """An index that suits the vectors of the student, is installed, and reads what is set."""
    kind, suited = config.index.kind, INDEXES[config.distil.student.kind]
    if kind not in suited:
        raise ValueError(
            f"index.kind is {kind!r} and the student is {config.distil.student.kind}: expected one of {', '.join(suited)}"
        )
    if kind == "seismic" and find_spec("seismic") is None:
        raise ValueError("index.kind is 'seismic', which needs Seismic: pip install 'retort-ir[seismic]'")
    for name, value in config.index:
        owner = name.split("_")[0]
        idle = kind != owner if owner in APPROXIMATE else name != "kind" and config.distil.student.kind != "late_interaction"
        if idle and value != Index.model_fields[name].default:
            raise ValueError(
                f"index.{name} is {value}, which an index of kind {kind!r} for a student of kind "
                f"{config.distil.student.kind} does not read: leave it out, or change index.kind"
            )


def _check_refresh(config: Config, number: int) -> None:
    """What a round that may keep passage vectors asks of the round that has them, and of its own depths."""
    settings = config.of_round(number)
    stored, encode, depth = stored_round(settings, number), settings.encode, rerank_depth(settings)
    if stored is None:
        return
    before = config.of_round(stored)
    was, now = before.distil.student, settings.distil.student
    if changed := [name for name in PASSAGE_SIDE if getattr(was, name) != getattr(now, name)]:
        raise ValueError(
            f"in round {number} the passage vectors of round {stored} may stay, whose student had another {changed[0]} "
            f"({getattr(was, changed[0])!r}): leave it as it was, or train both sides with encode.refresh 'full'"
        )
    if now.query_side is not None and {encode.refresh, before.encode.refresh if stored else "full"} != {"full"}:
        raise ValueError(
            f"student.query_side in round {number} keeps passage vectors, which have to be those of the student that it "
            f"starts from: expected encode.refresh 'full' in rounds {stored} and {number}; set it under overrides"
        )
    if now.query_side is None and depth < (least := max(settings.retrieve.depth, encode.probe_depth + 1)):
        raise ValueError(
            f"encode.rerank_depth is {depth}, expected {least} at least: retrieve.depth ({settings.retrieve.depth}) are "
            f"asked for, and which are the first encode.probe_depth ({encode.probe_depth}) has to be open; raise it"
        )


def _check_topics(distil: Distil, before: Distil) -> None:
    """Topics are of the vectors of the student before, one of each passage."""
    for kind in (before.student.kind, distil.student.kind):
        if distil.batches == "topics" and kind != "dense":
            raise ValueError(
                f"distil.batches is 'topics' and the student, or that of the round before, is {kind}: expected a dense one"
            )
    if distil.batches == "random" and distil.topics is not None:
        raise ValueError("distil.topics is set and distil.batches is 'random': set it to 'topics', or unset the number")


def _check_unused(distil: Distil, needed: frozenset[str]) -> None:
    """Settings of the distil section that nothing would read, which a user surely meant otherwise."""
    if distil.student.kind == "late_interaction" and any(one.name in ("flops", "l1") for one in distil.objectives):
        raise ValueError(
            "flops and l1 are of vectors over a vocabulary; the student is one of late interaction: leave them out"
        )
    if distil.ranks_every is not None and "ranks" not in needed:
        raise ValueError(
            "distil.ranks_every is set, but no objective reads ranks: expected ckl with alpha above 0; unset it"
        )
    if distil.negatives.system != "student" and distil.negatives.window is None:
        raise ValueError(
            f"distil.negatives.system is {distil.negatives.system!r} without a window: expected distil.negatives.window, "
            "how far down its ranking negatives may stand"
        )
    if distil.negatives != Negatives() and "positive" not in needed:
        raise ValueError(
            "distil.negatives is set, but nothing reads positives: expected an objective such as ckl, or sample: positive"
        )


def _check_around(step: Step) -> None:
    """What a step takes from outside the run: files, models, and keys of servers from the environment."""
    for file in _files(step):
        check_source(file)
    check_models(step)
    for teacher in step.config.label.teachers if step.stage == "label" else ():
        if teacher.server is not None:
            server_of(teacher).key()


def _files(step: Step) -> list[str]:
    """The user's files that a step reads."""
    if step.stage == "prepare":
        return sources(step.config)
    return score_files(step.config) if step.stage == "label" else []


def _command(step: Step) -> str:
    return f"{step.stage} CONFIG" + (f" --round {step.round}" if step.name.startswith("round-") else "")
