"""How likely a language model behind a server finds a given text: `/completions` with the prompt echoed, token by token.

The same prompts and signals as the local teacher's (causal/), whose scores these are where the model is the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from retort.records import Group, Passage
from retort.teachers.causal.prompts import BREAK, PROMPTS, Prompt
from retort.teachers.raw import check_finite
from retort.teachers.remote.cache import Answer
from retort.teachers.remote.client import Client, Request
from retort.teachers.remote.words import shown

NO_ECHO = (
    "expected the prompt echoed with the log-probability of each of its tokens: ask a server whose /completions takes echo "
    "with logprobs (vLLM and SGLang do; transformers serve, llama.cpp's own server and most chat services do not)"
)


@dataclass(frozen=True)
class RemoteLikelihoodTeacher:
    """The mean log-probability of the first answer given question and passage, or of the question given the passage.

    answer: PDist (Atlas, arXiv 2208.03299, section 2.2). question: ART (arXiv 2206.10658), which needs no answer. `words`
    cuts the text of each passage, since the server's tokenizer is not here. ValueError at once where the prompt does not fit
    the signal.
    """

    client: Client
    _: KW_ONLY
    signal: Literal["answer", "question"] = "answer"
    prompt: Prompt | None = None  # None: PROMPTS' own of the signal
    words: int | None = None

    def __post_init__(self) -> None:
        self._prompt.check(self.signal)

    def score(self, groups: Sequence[Group]) -> list[Float32[np.ndarray, "K"]]:
        """The signal of each passage of each group.

        ValueError names the question that has no answer where one is read. ServerError where the server cannot echo, where a
        token lies across the border of prompt and text, or as `Client.ask` says.
        """
        requests = [self._request(group, passage) for group in groups for passage in group.passages]
        means = np.array(self.client.ask(requests), np.float32)
        scores = np.split(means, np.cumsum([len(group.passages) for group in groups])[:-1]) if groups else []
        for group, found in zip(groups, scores, strict=True):
            check_finite(group, found, "remote language model")
        return scores

    @property
    def _prompt(self) -> Prompt:
        return self.prompt or PROMPTS[self.signal]

    def _request(self, group: Group, passage: Passage) -> Request[float]:
        query, prompt = group.query, self._prompt
        if "{answer}" in prompt.scored and not query.answers:
            raise ValueError(
                f"question {query.id!r} has no answer, and the teacher reads it: give questions with answers, or label by "
                "the signal question"
            )
        head, tail = prompt.head.format(question=query.text), prompt.tail.format(question=query.text)
        before = BREAK.join(part for part in (head, shown(passage, prompt.passage, self.words), tail) if part)
        scored = prompt.scored.format(question=query.text, answer=query.answers[0] if query.answers else "")
        before, scored = split_at_word(before, scored)
        body = {
            "prompt": before + scored,
            "echo": True,
            "logprobs": 1,
            "temperature": 0,
            "max_tokens": 1,  # not 0, which some servers refuse and others read as no limit; the token is not looked at
        }
        return Request("completions", body, partial(_mean_log_prob, prompt=before, scored=scored))


def split_at_word(prompt: str, scored: str) -> tuple[str, str]:
    """The two texts with the spaces between them in the second, where most tokenizers put them: " Paris" is one token.

    >>> split_at_word("Answer: ", "Paris")
    ('Answer:', ' Paris')
    """
    kept = prompt.rstrip()
    return kept, prompt[len(kept) :] + scored


def echoed_log_probs(answer: Answer, prompt: str, scored: str) -> Float32[np.ndarray, "z"]:
    """Log-probabilities of the tokens of `scored`, which the server was given behind `prompt`.

    A token counts by the character that it begins at; what the server generates behind is left out. ValueError: no
    log-probabilities, no echo, no token that begins where `scored` does, tokens that say something else than `scored`.
    """
    choice: Mapping[str, Any] = answer["choices"][0]
    found: Mapping[str, Any] = choice.get("logprobs") or {}
    tokens, values = found.get("tokens"), found.get("token_logprobs")
    if not tokens or not values or len(tokens) != len(values):
        raise ValueError(f"the answer has no log-probabilities of tokens, {NO_ECHO}")
    whole = prompt + scored
    if not str(choice.get("text", "")).startswith(whole):
        raise ValueError(f"the answer begins with {str(choice.get('text'))[:40]!r}, not with the prompt, {NO_ECHO}")
    starts = _starts(tokens, found.get("text_offset"), whole)
    chosen = [place for place, start in enumerate(starts) if len(prompt) <= start < len(whole)]
    if not chosen or starts[chosen[0]] != len(prompt):
        raise ValueError(
            f"no token begins where the scored text does, between {prompt[-20:]!r} and {scored[:20]!r}: a token lies across "
            "the border; end the prompt's tail with a sign that stands alone, as a colon, and begin `scored` with a space"
        )
    said = "".join(tokens[place] for place in chosen)
    if scored.isascii() and said != scored:  # a token may hold a part of any other sign
        raise ValueError(
            f"the tokens behind the prompt are {said!r}, expected {scored!r}: the server counts offsets otherwise"
        )
    log_probs = [values[place] for place in chosen]
    if None in log_probs:
        raise ValueError("the first scored token has no log-probability: begin the prompt with a word")
    if not np.isfinite(log_probs).all():
        raise ValueError(
            f"log-probabilities of the scored text are {log_probs[:3]}, expected numbers: look at the server's log"
        )
    return np.array(log_probs, np.float32)


def _starts(tokens: Sequence[str], offsets: Sequence[int] | None, whole: str) -> list[int]:
    """The character of `whole` that each token begins at; a start token in front, which is not in the text, is negative."""
    if not offsets or min(offsets) < 0:  # SGLang gives -1
        offsets = [0, *accumulate(map(len, tokens))][:-1]
    first = next((place for place, token in enumerate(tokens) if token and whole.startswith(token)), 0)
    return [start - offsets[first] for start in offsets]


def _mean_log_prob(answer: Answer, *, prompt: str, scored: str) -> float:
    return float(echoed_log_probs(answer, prompt, scored).mean())
