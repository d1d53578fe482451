"""The settings of a run: one frozen section for each stage, read from YAML, every default visible.

A default is the published value (paper or released recipe, as cited) or says why it is not. Unknown keys and wrong types are
refused with the nearest name. A knob belongs here, never on the command line alone.
"""

from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
    field_validator,
    model_validator,
)

Split = Literal["train", "dev", "test"]
Signal = Literal["fid_kd", "copy"]


class Section(BaseModel):
    """A part of the config: frozen, and strict about names and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Optimiser(Section):
    """AdamW with a linear schedule: warm-up from 0, then down to 0 (FiD's released recipes)."""

    learning_rate: PositiveFloat = 1e-4
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: NonNegativeInt = 1000
    clip: PositiveFloat = 1.0


class Prepare(Section):
    """Where the corpus, the questions and the evaluation grades are. Grades of the train split are never read."""

    corpus: str
    queries: dict[Split, str]
    qrels: dict[Literal["dev", "test"], str] = {}
    candidates: str | None = None  # a run or FiD file that stands for round 0's search
    limit: dict[Split, PositiveInt] = {}  # questions kept of a split, chosen by a hash of their id


class Bm25(Section):
    """Okapi BM25 as Lucene scores it; k1 and b as Anserini tunes them for passages."""

    k1: PositiveFloat = 0.9
    b: float = Field(default=0.4, ge=0, le=1)
    stemmer: str | None = "english"
    stopwords: str | list[str] | None = "en"


class Retrieve(Section):
    """What finds candidates: before round 1 (`first`), and what joins the student after it (`later`)."""

    depth: PositiveInt = 100  # FiD-KD
    first: list[Literal["bm25", "student", "file"]] = Field(default=["bm25"], min_length=1)
    later: list[Literal["bm25", "student"]] = Field(default=["student"], min_length=1)
    bm25: Bm25 = Bm25()


class Prompts(Section):
    """The strings that the reader sees; `{question}`, `{title}` and `{text}` are filled in. Default: FiD's."""

    passage: str = "question: {question} title: {title} context: {text}"
    passage_tokens: PositiveInt = 200
    answer_tokens: PositiveInt = 50
    special_tokens: bool = False  # [CLS], [SEP] or </s> around inputs; the published readers were trained without

    @field_validator("passage")
    @classmethod
    def _holds_the_question(cls, value: str) -> str:
        return _with_fields(value, needed={"question", "text"}, optional={"title"})


class Phase(Section):
    """A part of the reader's training: how many passages a question comes with, which, and for how many steps.

    `select` top: the best of the candidates, as published. answer: only questions with an answer-bearing candidate; that
    passage, and others drawn from those without an answer (distant supervision by the answer string, no passage label).
    """

    passages: PositiveInt = 100
    select: Literal["top", "answer"] = "top"
    steps: PositiveInt = 15_000
    batch: PositiveInt = 64
    microbatch: PositiveInt | None = None  # questions of one forward pass; None: the whole batch


class Read(Section):
    """The reader: which model, its prompts, and its training."""

    model: str = "google-t5/t5-base"
    sha256: str | None = None
    decoder_layers: PositiveInt | None = None  # set: `model` is an encoder, and its first layers become the decoder
    copies: bool = False  # mix the vocabulary with attention over passage tokens
    dropout: float | None = Field(default=None, ge=0, lt=1)  # None: what the model's own config says
    frozen_layers: NonNegativeInt = 0  # lowest encoder layers, and the embeddings with them, that are not trained
    decoder_rate: PositiveFloat = 1.0  # learning rate of what is not the encoder, as a multiple
    prompts: Prompts = Prompts()
    phases: list[Phase] = Field(default=[Phase()], min_length=1)
    optimiser: Optimiser = Optimiser(learning_rate=5e-5)
    gradient_checkpointing: bool = False
    evaluate_every: PositiveInt = 500
    evaluate_passages: PositiveInt | None = None  # None: as many as the last phase
    checkpoint_every: PositiveInt = 500
    later_rounds: Literal["restart", "continue"] = "restart"  # which of the two the paper does is not known


class Label(Section):
    """The teacher's pass over the candidates of the train and dev questions."""

    teacher: Literal["fid"] = "fid"
    # G, the mean of scores before the softmax; or copy, the log of the share of attention (for readers that copy)
    signal: Signal = "fid_kd"
    depth: PositiveInt = 100
    queries_per_part: PositiveInt = 256
    batch: PositiveInt = 8  # questions of one forward pass
    require_answer: bool = False  # label only questions of which a candidate holds an answer


class StudentModel(Section):
    """The dense student; prefixes, lengths and the score are FiD's."""

    model: str = "google-bert/bert-base-uncased"
    sha256: str | None = None
    query_prefix: str = "question: "
    passage_format: str = "title: {title} context: {text}"
    query_tokens: PositiveInt = 40
    passage_tokens: PositiveInt = 200
    pooling: Literal["mean", "cls"] | None = None  # None: as the model folder says; mean for a bare encoder
    score: Literal["dot", "cosine"] = "dot"  # cosine: vectors are normalised, in the saved model too
    scale: PositiveFloat | Literal["sqrt_dim"] = "sqrt_dim"  # the score is divided by it; of a cosine, the temperature
    towers: Literal["tied", "separate"] = "tied"
    dropout: float | None = Field(default=None, ge=0, lt=1)  # None: what the model's own config says

    @field_validator("passage_format")
    @classmethod
    def _holds_text(cls, value: str) -> str:
        return _with_fields(value, needed={"text"}, optional={"title"})

    @model_validator(mode="after")
    def _cosine_has_a_temperature(self) -> "StudentModel":
        if self.score == "cosine" and self.scale == "sqrt_dim":
            raise ValueError("a cosine divided by sqrt_dim is nearly constant: set scale to a temperature such as 0.05")
        return self


class ObjectiveSettings(Section):
    """An objective of retort.losses by name, its weight, and its settings."""

    name: Literal["kl", "mse", "max_margin", "candidate_mass"] = "kl"
    coefficient: PositiveFloat = 1.0
    student_temperature: PositiveFloat = 1.0
    teacher_temperature: PositiveFloat = 1.0
    margin: float = Field(default=0.0, ge=0)


class Distil(Section):
    """The student's training on the labels."""

    student: StudentModel = StudentModel()
    objectives: list[ObjectiveSettings] = Field(default=[ObjectiveSettings()], min_length=1)
    candidates: int = Field(default=100, ge=2)  # K; one candidate alone has nothing to be ranked against
    sample: Literal["top", "random", "spread"] = "random"  # spread: the labelled best, and the rest at random
    batch: PositiveInt = 64
    steps: PositiveInt = 20_000
    optimiser: Optimiser = Optimiser()
    chunk_tokens: PositiveInt = 16_384  # padded tokens encoded at once: bounds memory, not the batch
    evaluate_every: PositiveInt = 500
    checkpoint_every: PositiveInt = 500
    patience: PositiveInt | None = None  # evaluations without a better dev value before training stops
    # what the best step is chosen by, on the dev questions: agreement with their labels, or has_answer@k in a search over
    # all their candidates together; never grades
    selection: str = Field(default="labels", pattern=r"^(labels|has_answer@[1-9]\d*)$")
    later_rounds: Literal["restart", "continue"] = "restart"


class Encode(Section):
    """The pass over the corpus."""

    passages_per_part: PositiveInt = 50_000
    batch_tokens: PositiveInt = 16_384


class Index(Section):
    """The dense index: exact by default, so that no noise of approximation enters training and evaluation."""

    kind: Literal["flat", "hnsw", "ivf"] = "flat"
    hnsw_links: PositiveInt = 32
    hnsw_search: PositiveInt = 128
    ivf_lists: PositiveInt | None = None
    ivf_probes: PositiveInt | None = None


class Evaluate(Section):
    """What is measured, and how sure it is."""

    measures: list[str] = ["nDCG@10", "RR@10", "R@1", "R@5", "R@20", "R@100"]
    answers_at: list[PositiveInt] = [1, 5, 20, 100]
    samples: PositiveInt = 10_000  # of the bootstrap and the randomisation test
    level: float = Field(default=0.95, gt=0, lt=1)
    headline: str | None = None  # the measure that decides; None: nDCG@10 with grades, else has_answer@20


class Reporting(Section):
    """How much of the evidence the report shows."""

    examples: PositiveInt = 20
    maps: int = Field(default=5, ge=0, le=20)  # the label stage keeps 20


class Compute(Section):
    """Where and in which precision to work. Not part of any key: a run may go on with other hardware."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = []


class Config(Section):
    """A whole run. `overrides` changes sections from a round on: {2: {"distil": {"steps": 100}}}."""

    seed: NonNegativeInt = 0
    rounds: PositiveInt = 2
    prepare: Prepare
    retrieve: Retrieve = Retrieve()
    read: Read = Read()
    label: Label = Label()
    distil: Distil = Distil()
    encode: Encode = Encode()
    index: Index = Index()
    evaluate: Evaluate = Evaluate()
    report: Reporting = Reporting()
    compute: Compute = Compute()
    overrides: dict[Annotated[PositiveInt, Strict(False)], dict[str, dict[str, Any]]] = {}  # JSON keys are strings

    def of_round(self, number: int) -> "Config":
        """The settings of one round: the overrides of this and of all earlier rounds applied in order."""
        values = self.model_dump(exclude={"overrides"})
        for since in sorted(self.overrides):
            if since <= number:
                values = merged(values, self.overrides[since])
        return Config.model_validate(values)


def merged(values: Mapping[Any, Any], changes: Mapping[Any, Any]) -> dict[Any, Any]:
    """`values` with `changes` laid over them, section by section (and round by round); neither argument is changed.

    >>> merged({"distil": {"steps": 5, "batch": 2}}, {"distil": {"steps": 7}})
    {'distil': {'steps': 7, 'batch': 2}}
    """
    result = dict(values)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else value
    return result


def _with_fields(value: str, *, needed: set[str], optional: set[str]) -> str:
    """`value`, a format string with all `needed` fields and no others than the `optional` ones."""
    names = {name for _, name, _, _ in Formatter().parse(value) if name is not None}
    if not needed <= names <= needed | optional:
        raise ValueError(
            f"expected the fields {sorted(needed)} and, where wanted, {sorted(optional)}; found {sorted(names)}"
        )
    return value
