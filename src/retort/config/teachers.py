"""The settings of teachers: the reader, its prompts and its training; and who labels the candidates."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from retort.config.fields import Optimiser, Section, unread, with_fields
from retort.config.language import Heads, Judge, LanguageModel, ServerSettings

Signal = Literal["fid_kd", "adist", "copy", "pdist", "emdr2", "loop"]
TeacherKind = Literal[
    "fid", "bm25", "answers", "cross_encoder", "retriever", "run", "language_model", "remote", "judge"
]  # fmt: skip
REMOTE = ("remote", "judge")
READER_RATE = 5e-5
READ_BY: dict[str, tuple[str, ...]] = {  # settings that only some kinds of teachers read
    "sha256": ("cross_encoder", "retriever", "language_model"),
    "language": ("language_model", "remote"),
    "judge": ("judge",),
    "passage_format": ("cross_encoder", "retriever", "judge"),
    "tokens": ("cross_encoder", "retriever", "language_model"),
    "words": REMOTE,
    "signal": ("fid",),
    "attention": ("fid",),
    "squashed": ("cross_encoder", "run"),
}
Part = Literal["question", "title", "prefix", "separators"]  # of a passage string, as `Prompts.passage` joins it


class AttentionSettings(Section):
    """What of the reader's cross-attention is a passage's score; None: as the signal has it (`passage_scores` says more)."""

    position: Literal["first", "all", "answer"] | None = None  # the decoder positions that look
    # what counts: scores as they are, or shares of the attention
    stage: Literal["pre_softmax", "post_softmax"] | None = None
    # mean, sum, max or topN (the highest N, their sum over N) of a passage's tokens
    tokens: str | None = Field(default=None, pattern=r"^(mean|sum|max|top[1-9]\d*)$")
    value_norm: bool | None = None  # each token's is multiplied by the length of its value vector (Atlas)
    exclude: list[Part] = []  # parts of the passage strings of which no token counts
    heads: Heads | None = None  # those that count, by layer of the decoder; None: all


class Prompts(Section):
    """The strings that the reader sees; `{question}`, `{title}` and `{text}` are filled in, `{answer}` in its target.

    Default: FiD's. Atlas's targets are "<extra_id_0> {answer}".
    """

    passage: str = "question: {question} title: {title} context: {text}"  # one passage's input
    answer: str = "{answer}"  # what a reader is trained to write and what signals feed it; taken off what it writes
    passage_tokens: PositiveInt = 200  # of that input: what is longer is cut
    answer_tokens: PositiveInt = 50  # the most that a reader writes; a target is never cut
    special_tokens: bool = False  # [CLS], [SEP] or </s> around inputs; the published readers were trained without

    @field_validator("passage")
    @classmethod
    def _holds_the_question(cls, value: str) -> str:
        return with_fields(value, needed={"question", "text"}, optional={"title"})

    @field_validator("answer")
    @classmethod
    def _holds_the_answer(cls, value: str) -> str:
        if value.count("{answer}") != 1:
            raise ValueError(f"expected {{answer}} once; found it {value.count('{answer}')} times")
        return with_fields(value, needed={"answer"}, optional=set())


class Phase(Section):
    """A part of the reader's training: how many passages a question comes with, which, and for how many steps.

    `select` top: the best of the candidates, as published. answer: only questions with an answer-bearing candidate; that
    passage, and others drawn from those without an answer (distant supervision by the answer string, no passage label).
    """

    passages: PositiveInt = 100
    select: Literal["top", "answer"] = "top"
    steps: PositiveInt = 15_000
    batch: PositiveInt = 64  # questions of a step
    microbatch: PositiveInt | None = None  # questions of one forward pass; None: the whole batch


class Read(Section):
    """The reader: which model, its prompts, and its training."""

    model: str = "google-t5/t5-base"  # an encoder-decoder of Hugging Face: its id, a folder, or package:NAME/PATH
    sha256: str | None = None  # of model.safetensors in a folder or package: others are refused
    decoder_layers: PositiveInt | None = None  # set: `model` is a BERT encoder, and its first layers become the decoder
    copies: bool = False  # mix the vocabulary with attention over passage tokens
    dropout: float | None = Field(default=None, ge=0, lt=1)  # None: what the model's own config says
    frozen_layers: NonNegativeInt = 0  # lowest encoder layers, and the embeddings with them, that are not trained
    decoder_rate: PositiveFloat = 1.0  # learning rate of what is not the encoder, as a multiple
    prompts: Prompts = Prompts()
    phases: list[Phase] = Field(default=[Phase()], min_length=1)
    optimiser: Optimiser = Optimiser(learning_rate=READER_RATE)  # its rate, where none is given, is FiD's for T5-base
    gradient_checkpointing: bool = False  # less memory for a third more work
    evaluate_every: PositiveInt = 500  # steps; the reader that answers best is kept
    evaluate_passages: PositiveInt | None = None  # None: as many as the last phase
    checkpoint_every: PositiveInt = 500  # steps that a kill loses at most
    later_rounds: Literal["restart", "continue"] = "restart"  # which of the two the paper does is not known

    @field_validator("optimiser", mode="before")
    @classmethod
    def _keeps_its_rate(cls, given: object) -> object:
        return {"learning_rate": READER_RATE, **given} if isinstance(given, dict) else given


class TeacherSettings(Section):
    """One teacher. fid: the reader that the run trains. The others need no training.

    bm25: the run's own first search. answers: whether a passage holds an answer; worth something beside another teacher.
    cross_encoder: `model` reads question and passage together. retriever: `model` is a sentence-transformers retriever.
    language_model: `model` is a causal one, asked as `language` says. remote, judge: `model` behind `server`, asked for
    likelihoods as `language` says, or for its judgement.
    run: `scores` is a file (Run, TREC, ColBERT, FlagEmbedding, sentence-transformers, ...); where it is the only teacher its
    lists are the candidates too.
    """

    kind: TeacherKind = "fid"
    model: str | None = None  # as read.model, of the kind's own sort; remote, judge: the name that the server knows
    sha256: str | None = None  # of model.safetensors in a folder or package: others are refused
    scores: str | None = None  # of kind run
    server: ServerSettings | None = None  # remote, judge
    language: LanguageModel = LanguageModel()  # language_model, remote
    judge: Judge = Judge()  # judge
    passage_format: str = "{title} {text}"  # cross_encoder, retriever, judge
    tokens: PositiveInt = 256  # of question and passage together; of a retriever's or language model's passage
    words: PositiveInt | None = None  # remote, judge: of a passage's text; None: all
    # of fid. By attention: fid_kd, the paper's G; adist, Atlas's; copy, the log of the share (for readers that copy). By how
    # likely the first answer is: pdist, given each passage alone; emdr2, its sum over tokens; loop, given all but that one
    signal: Signal = "fid_kd"
    attention: AttentionSettings = AttentionSettings()  # of fid
    weight: PositiveFloat = 1.0  # among several teachers
    squashed: bool = False  # cross_encoder, run: take scores that a sigmoid has squashed all the same

    @field_validator("passage_format")
    @classmethod
    def _holds_text(cls, value: str) -> str:
        return with_fields(value, needed={"text"}, optional={"title"})

    @model_validator(mode="after")
    def _names_its_source(self) -> "TeacherSettings":
        wanted = None if self.kind in ("fid", "bm25", "answers") else "scores" if self.kind == "run" else "model"
        for name in ("model", "scores"):
            if (getattr(self, name) is None) == (name == wanted):
                raise ValueError(f"a {self.kind} teacher takes {wanted or 'neither model nor scores'}: look at `{name}`")
        return self

    @model_validator(mode="after")
    def _is_where_it_says(self) -> "TeacherSettings":
        if (self.server is not None) != (self.kind in REMOTE):
            needed = "takes a server: give `server.base_url`" if self.kind in REMOTE else "takes no server: take it out"
            raise ValueError(f"a {self.kind} teacher {needed}")
        if self.kind == "remote" and self.language.signal == "attention":
            raise ValueError(
                "no server tells where a model looks: take the signal answer or question, or kind language_model"
            )
        asked = self.language.model_dump(exclude_defaults=True, exclude={"signal", "prompt"})
        if self.kind == "remote" and asked:
            raise ValueError(f"a remote teacher reads signal and prompt of `language`, not {sorted(asked)}: take them out")
        return self

    @model_validator(mode="after")
    def _reads_what_is_set(self) -> "TeacherSettings":
        if name := unread(self, self.kind, READ_BY):
            raise ValueError(
                f"`{name}` is a setting of {' and '.join(READ_BY[name])} teachers, and kind is {self.kind!r}: take it out"
            )
        if self.signal in ("pdist", "emdr2", "loop") and self.attention != AttentionSettings():
            raise ValueError(f"signal {self.signal!r} is a likelihood and has no attention settings: take `attention` out")
        return self


class Label(Section):
    """The teachers' pass over the candidates of all questions. Several teachers' scores are fused."""

    teachers: list[TeacherSettings] = Field(default=[TeacherSettings()], min_length=1)
    # of several teachers: the weighted mean of z-scores within a question, or of 1 / (60 + rank)
    fuse: Literal["z_score", "reciprocal_rank"] = "z_score"
    entropy: PositiveFloat | None = None  # nats that each question's softmax is brought to; None: scores as they are
    depth: PositiveInt = 100  # candidates of a question that are labelled
    queries_per_part: PositiveInt = 256  # what a kill loses at most
    batch: PositiveInt = 8  # fid: questions of one forward pass
    require_answer: bool = False  # train and choose on questions of which a candidate holds an answer

    @property
    def reads(self) -> bool:
        """Whether the run trains a reader."""
        return any(teacher.kind == "fid" for teacher in self.teachers)
