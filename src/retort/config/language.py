"""The settings of teachers that are language models: here or behind a server, asked for likelihoods or a judgement."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Strict, model_validator

from retort.config.fields import Section

# of each layer that counts, from 0, those of its heads that do; none named: all of them. The keys of JSON are strings
Heads = Annotated[dict[Annotated[NonNegativeInt, Strict(False)], list[NonNegativeInt]], Field(min_length=1)]
# how a server is told the form of a reply, where it takes one: response_format, or the fields of vLLM and SGLang
Grammar = Literal["none", "json_schema", "regex"]


class LanguagePrompt(Section):
    """Format strings: `head`, one `passage` after the other, `tail`, and what is `scored` behind them."""

    passage: str = "{title}\n{text}"
    tail: str
    scored: str
    head: str = ""


class LanguageModel(Section):
    """What a causal language model says of a passage, and how it is asked (kinds language_model and remote).

    answer: how likely the first answer is, given question and passage. question: how likely the question is, given the
    passage. attention: how much of it falls on the passage, of all in one prompt (language_model alone).
    """

    signal: Literal["answer", "question", "attention"] = "answer"
    prompt: LanguagePrompt | None = None  # None: the signal's own
    chat: bool = False  # language_model: in the user's turn of the tokeniser's template
    chat_options: dict[str, Any] = {}  # of that template, such as {enable_thinking: false}
    end_token: bool = False  # language_model, answer and question: the scored text ends there
    looking: Literal["question", "last", "answer"] = "question"  # attention: the tokens that look back
    calibrated: bool = True  # attention: less that of a question without content
    heads: Heads | None = None  # attention: those that count, by layer; None: all

    @property
    def reads_answers(self) -> bool:
        """Whether an answer is fed to the model."""
        return self.signal == "answer" or (self.signal == "attention" and self.looking == "answer")


class Price(Section):
    """What a million tokens cost, in any currency."""

    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)


class ServerSettings(Section):
    """An OpenAI-compatible server, and how patiently it is asked, by all processes together.

    `key_variable` names the variable that holds the key. A failed request is made again after `first_wait_seconds`, then
    twice that and so on, up to `longest_wait_seconds`; a server that asks for a longer wait is given up.
    """

    base_url: str  # up to and without /completions
    key_variable: str | None = None
    timeout_seconds: PositiveFloat = 120.0  # of a whole request
    retries: NonNegativeInt = 6  # of one request
    first_wait_seconds: NonNegativeFloat = 1.0
    longest_wait_seconds: PositiveFloat = 120.0
    in_flight: PositiveInt = 8  # requests at the same time
    requests_per_minute: PositiveFloat | None = None  # None: as many as it answers
    price_per_million: Price | None = None  # tokens; with it the cost is told as money too
    extra: dict[str, Any] = {}  # fields of every request

    def money(self, prompt_tokens: float | int, completion_tokens: float | int) -> float | None:
        """What so many tokens cost, in the currency of the prices; None without prices."""
        price = self.price_per_million
        return price and (price.prompt * prompt_tokens + price.completion * completion_tokens) / 1e6


class Judge(Section):
    """How a language model judges passages: a grade for each, or a ranking of up to `window` together."""

    form: Literal["grades", "ranking"] = "ranking"
    scale: PositiveInt = 3  # grades: from 0 to this, 100 at most; with `expected` 9
    expected: bool = False  # grades: the mean over the probabilities that the server gives the grades
    window: PositiveInt = 10  # ranking: passages of one request, 3 at least
    repeats: PositiveInt = 2  # of grades 1. Each shows the passages in another order, every second the one before reversed
    attempts: PositiveInt = 3  # replies to one request, until one has the form
    # of a passage whose replies all lack the form: the run ends, or it stays without a label
    failed: Literal["refuse", "skip"] = "refuse"
    temperature: float = Field(default=0.0, ge=0)  # of the model's answers
    grammar: Grammar = "none"  # how a server is told the form, where it takes one (docs/signals.md)

    @model_validator(mode="before")
    @classmethod
    def _graded_once(cls, given: object) -> object:
        return {"repeats": 1, **given} if isinstance(given, dict) and given.get("form") == "grades" else given

    @model_validator(mode="after")
    def _repeats_differ(self) -> "Judge":
        if self.repeats > 1 and self.form == "grades" and not self.temperature:
            raise ValueError("repeated grades at temperature 0 are the same: set temperature, or repeats to 1")
        return self
