"""The settings of the student: which kind of model, how it reads, how it scores."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from retort.config.fields import Section, unread, with_fields

READ_BY = {  # settings that only one kind of student reads
    **dict.fromkeys(("pooling", "score", "query_side", "lora_rank"), ("dense",)),
    **dict.fromkeys(("sparse_pooling", "inference_free"), ("sparse",)),
    **dict.fromkeys(("dimension", "query_expansion", "skip_punctuation"), ("late_interaction",)),
}


class StudentModel(Section):
    """The student. Prefixes, lengths and the dense score are FiD's; the other kinds' settings are SPLADE's and ColBERT's."""

    kind: Literal["dense", "sparse", "late_interaction"] = "dense"
    # of sentence-transformers or Hugging Face: its id, a folder, or package:NAME/PATH
    model: str = "google-bert/bert-base-uncased"
    sha256: str | None = None  # of model.safetensors in a folder or package: others are refused
    query_prefix: str = "question: "  # before each question
    passage_format: str = "title: {title} context: {text}"
    query_tokens: PositiveInt = 40  # what is longer is cut
    passage_tokens: PositiveInt = 200  # what is longer is cut
    pooling: Literal["mean", "cls"] | None = None  # dense. None: as the model folder says; mean for a bare encoder
    score: Literal["dot", "cosine"] = "dot"  # dense. cosine: vectors are normalised, in the saved model too
    # the score is divided by it; a cosine needs one, its temperature. None: sqrt_dim for a dense student, else 1
    scale: PositiveFloat | Literal["sqrt_dim"] | None = None
    towers: Literal["tied", "separate"] = "tied"  # one model for questions and passages, or two that start alike
    dropout: float | None = Field(default=None, ge=0, lt=1)  # None: what the model's own config says
    # dense: what of the query side is trained while passages keep their stored vectors (Atlas): its whole tower, a matrix
    # behind it, or low-rank changes of its self-attention; None: both sides are trained
    query_side: Literal["full", "linear", "lora"] | None = None
    lora_rank: PositiveInt = 8  # dense, of query_side lora
    frozen_layers: NonNegativeInt = 0  # lowest encoder layers, and the embeddings with them, that are not trained
    sparse_pooling: Literal["max", "sum"] = "max"  # sparse: over the tokens of a text (SPLADE v2 and ++: max; v1: sum)
    inference_free: bool = False  # sparse: a query's weights are looked up by token, without an encoder
    dimension: PositiveInt = 128  # late_interaction: of a token's vector; a model that has a projection keeps its own
    query_expansion: bool = True  # late_interaction: queries are filled up with [MASK], whose vectors are scored too
    skip_punctuation: bool = True  # late_interaction: punctuation of a passage are not scored

    @field_validator("passage_format")
    @classmethod
    def _holds_text(cls, value: str) -> str:
        return with_fields(value, needed={"text"}, optional={"title"})

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "StudentModel":
        if self.inference_free and self.towers == "separate":
            raise ValueError("inference_free queries have no tower to be separate: leave towers at 'tied'")
        if name := unread(self, self.kind, READ_BY):
            raise ValueError(
                f"{name} is a setting of {READ_BY[name][0]} students, and kind is {self.kind!r}: take it out, or set kind"
            )
        return self

    @model_validator(mode="after")
    def _cosine_has_a_temperature(self) -> "StudentModel":
        if self.score == "cosine" and self.scale in (None, "sqrt_dim"):
            raise ValueError("a cosine divided by sqrt_dim is nearly constant: set scale to a temperature such as 0.05")
        return self
