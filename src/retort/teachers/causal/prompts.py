"""What a causal language model is shown: prompts around passages, and what is scored behind them, as token ids.

A prompt is a head, the passages and a tail, behind a start token or in the user's turn of a chat template. It and what is
scored behind it are tokenised apart, so that a question has the same target tokens with each passage. Passages, questions
and answers are plain text: what looks like a control token in them does not become one.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from retort.config.fields import with_fields
from retort.records import Passage, Query
from retort.text import passage_text

Signal = Literal["answer", "question", "attention"]
BREAK = "\n\n"  # between the parts of a prompt
USER_TURN = "RETORT-USER-TURN"  # stands for the user's words while a template is cut in two


@dataclass(frozen=True)
class Prompt:
    """Format strings: `head`, one `passage` after the other, `tail`, then what is `scored`.

    `passage` has `{text}` and, where wanted, `{title}`; `{question}` stands in head or tail; scored is `{answer}` or
    `{question}`, with the space that parts it from the prompt (left out where a chat template parts them).
    """

    passage: str
    tail: str
    scored: str
    head: str = ""

    def __post_init__(self) -> None:
        with_fields(self.passage, needed={"text"}, optional={"title"})
        with_fields(self.head, needed=set(), optional={"question"})
        with_fields(self.tail, needed=set(), optional={"question"})
        with_fields(self.scored, needed={"answer"} if "{answer}" in self.scored else {"question"}, optional=set())

    def check(self, signal: Signal) -> None:
        """ValueError where the question is missing in the prompt, or where it gives away what is scored."""
        found = [name for name in ("head", "tail", "scored") if "{question}" in getattr(self, name)]
        fitting = {"answer": (["tail"], ["head"], ["head", "tail"]), "question": (["scored"],), "attention": (["tail"],)}
        if found not in fitting[signal]:
            raise ValueError(
                f"the prompt of signal {signal} holds {{question}} in {' and '.join(found) or 'no part'}, expected it in "
                f"{' or '.join(' and '.join(parts) for parts in fitting[signal])}: write the prompt so"
            )


PROMPTS: Mapping[Signal, Prompt] = {
    "answer": Prompt("{title}\n{text}", "Question: {question}\nAnswer:", " {answer}"),
    "question": Prompt("{title}\n{text}", "Please write a question that this passage answers.\nQuestion:", " {question}"),
    "attention": Prompt(
        "{title}\n{text}",
        "Please answer this question from the paragraphs above.\nQuestion: {question}\nAnswer:",
        " {answer}",
        head="Here are some paragraphs:",
    ),
}


@dataclass(frozen=True)
class Frame:
    """What stands around a prompt: token ids before and after it, and spaces that its first token takes in."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    lead: str = ""
    chat: bool = False


@dataclass(frozen=True)
class Layout:
    """A prompt as token ids, the positions that each passage takes up in it, and those of the question in its tail."""

    ids: list[int]
    passages: list[range]
    question: range


def plain_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """The start token, where the tokenizer puts one before a text. An end token is left out, since the text goes on."""
    special: list[int] = list(tokenizer("")["input_ids"])  # type: ignore[arg-type]
    return Frame(before=(special[0],) if special and special[0] == tokenizer.bos_token_id else ())


def chat_frame(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any] | None = None) -> Frame:
    """The user's turn and the beginning of the assistant's, as the tokenizer's own chat template writes them.

    `options` go to the template, for example {"enable_thinking": False}. ValueError where there is no template, or where it
    does not write the user's words once.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            "a chat prompt is asked for, but the tokenizer has no chat template: give an instruction-tuned model, or leave "
            "chat out"
        )
    turns = [{"role": "user", "content": USER_TURN}]
    written = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **(options or {})))
    if written.count(USER_TURN) != 1:
        raise ValueError(
            f"the chat template writes the user's turn {written.count(USER_TURN)} times, expected once: leave chat out and "
            "write the turns into the prompt"
        )
    before, after = written.split(USER_TURN)
    start = before.rstrip(" ")  # "[INST] word": the space belongs to the word's token
    ids: list[int] = list(tokenizer(start, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]
    after_ids, _ = pieces(tokenizer, after, behind="\n", control=True)
    return Frame(tuple(ids), tuple(after_ids), before[len(start) :], chat=True)


def laid_out(
    tokenizer: PreTrainedTokenizerBase, frame: Frame, prompt: Prompt, question: str, passages: Sequence[Passage], tokens: int
) -> Layout:
    """The prompt of a question and its passages, the text of each cut to `tokens`.

    A token belongs to the part in which it ends; the breaks between parts belong to none.
    """
    before, asked, behind = prompt.tail.partition("{question}")
    introduction = before.format()
    tail = introduction + (question if asked else "") + behind.format(question=question)
    shown = [passage_text(replace(one, text=cut(tokenizer, one.text, tokens)), prompt.passage) for one in passages]
    text, starts = frame.lead + prompt.head.format(question=question), []
    for part in (*shown, tail):
        text += BREAK if part and text.strip() else ""
        starts.append(len(text))
        text += part
    ids, ends = pieces(tokenizer, text, behind="\n" if frame.chat else "")

    def positions(start: int, characters: int) -> range:
        first = len(frame.before)
        return range(first + bisect_right(ends, start), first + bisect_right(ends, start + characters))

    return Layout(
        [*frame.before, *ids, *frame.after],
        [positions(start, len(part)) for start, part in zip(starts[:-1], shown, strict=True)],
        positions(starts[-1] + len(introduction), len(question) if asked else 0),
    )


def continuation(
    tokenizer: PreTrainedTokenizerBase, frame: Frame, scored: str, query: Query, *, end_token: bool = False
) -> list[int]:
    """The ids of what is scored behind a prompt: the first answer of the query, as readers are trained on it, or its text.

    With `end_token` the model must also foretell that nothing follows, which a model without such training does badly.
    ValueError where the query has no answer and `scored` asks for it, where no token is left, or no end token known.
    """
    if "{answer}" in scored and not query.answers:
        raise ValueError(
            f"question {query.id!r} has no answer, and the teacher reads it: give questions with answers, or label by the "
            "signal question, or by attention from the question"
        )
    text = scored.format(answer=query.answers[0] if query.answers else "", question=query.text)
    ids, _ = pieces(tokenizer, text.lstrip() if frame.chat else text, behind="\n")
    if not ids:
        raise ValueError(f"question {query.id!r}: {text!r} has no token to be scored; give it an answer, or leave it out")
    if not end_token:
        return ids
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the end token is to be scored, but the tokenizer names none: set its eos_token, or end_token: false"
        )
    return [*ids, int(tokenizer.eos_token_id)]  # type: ignore[arg-type]


def pieces(
    tokenizer: PreTrainedTokenizerBase, text: str, *, behind: str = "", control: bool = False
) -> tuple[list[int], list[int]]:
    """The ids of `text` as they are where it stands behind `behind`, and for each the character of `text` that it ends at.

    Some tokenizers take the beginning of a string for the beginning of a word, so that a text in the middle is not
    tokenised as one alone. Where a token would span the border, it is tokenised alone after all. Control tokens are read as
    such with `control` only.
    """
    whole = tokenizer(behind + text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=not control)
    spans: list[tuple[int, int]] = whole["offset_mapping"]  # type: ignore[assignment]
    kept = [(i, start, end - len(behind)) for i, (start, end) in enumerate(spans) if end > len(behind)]
    if behind and any(start < len(behind) for _, start, _ in kept):
        return pieces(tokenizer, text, control=control)
    ids: list[int] = whole["input_ids"]  # type: ignore[assignment]
    return [ids[i] for i, _, _ in kept], [end for _, _, end in kept]


def cut(tokenizer: PreTrainedTokenizerBase, text: str, tokens: int) -> str:
    """The beginning of `text` that its first `tokens` tokens cover."""
    _, ends = pieces(tokenizer, text)
    return text if len(ends) <= tokens else text[: ends[tokens - 1]]
