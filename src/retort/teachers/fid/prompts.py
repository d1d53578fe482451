"""What the reader is shown, and what it writes: passage strings and targets as token ids, answers out of token ids.

FiD's formats are the defaults of config.Prompts.
"""

from collections.abc import Iterable, Sequence
from string import Formatter
from typing import Any, cast, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import BatchEncoding

from retort.config import Part, Prompts
from retort.records import Group, Passage, Query
from retort.teachers.fid.decoding import IGNORED
from retort.teachers.fid.fitting import positions
from retort.teachers.fid.model import Reader, end_token
from retort.teachers.tokenizers import padding_token


def passage_strings(group: Group, prompts: Prompts) -> list[str]:
    """One string for each passage, with the question repeated in each (FiD, section 3).

    >>> from retort.records import Passage, Query
    >>> passage_strings(Group(Query("q", "who?"), (Passage("p", "Snow", "It fell."),)), Prompts())
    ['question: who? title: Snow context: It fell.']
    """
    return [
        prompts.passage.format(question=group.query.text, title=passage.title, text=passage.text)
        for passage in group.passages
    ]


def tokenise_passages(
    reader: Reader, groups: Sequence[Group], prompts: Prompts
) -> tuple[Int[Tensor, "B K L"], Int[Tensor, "B K L"]]:
    """Ids and mask of all strings, padded on the right to the longest; groups with fewer passages get empty ones.

    ValueError where every group is empty.
    """
    most = max((len(group.passages) for group in groups), default=0)
    if most == 0:
        raise ValueError(f"{len(groups)} groups without any passage: retrieve candidates for the questions first")
    strings = [string for group in groups for string in passage_strings(group, prompts)]
    rows = _tokenised(reader, strings, prompts)["input_ids"]
    length = max(1, *map(len, rows))  # type: ignore[arg-type]
    ids = torch.full((len(groups), most, length), padding_token(reader.tokenizer))
    mask = torch.zeros_like(ids)
    places = [(b, k) for b, group in enumerate(groups) for k in range(len(group.passages))]
    for (b, k), row in zip(places, rows, strict=True):  # type: ignore[arg-type]
        ids[b, k, : len(row)] = torch.tensor(row)
        mask[b, k, : len(row)] = 1
    return ids, mask


def parts_of(reader: Reader, groups: Sequence[Group], prompts: Prompts) -> dict[Part, Bool[Tensor, "B K L"]]:
    """Which tokens of `tokenise_passages` are the question's, the title's, the format's own words, or special tokens.

    A token belongs where its first character that is no space lies. What is none of them is the passage's text.
    """
    strings = [string for group in groups for string in passage_strings(group, prompts)]
    tokens = spans(reader, strings, prompts)
    shown = [(b, k, group.query.text, passage) for b, group in enumerate(groups) for k, passage in enumerate(group.passages)]
    shape = (len(groups), max(len(group.passages) for group in groups), max(1, *map(len, tokens)))
    found: dict[str, Tensor] = {part: torch.zeros(shape, dtype=torch.bool) for part in get_args(Part)}
    for (b, k, question, passage), string, places in zip(shown, strings, tokens, strict=True):
        owners = _owners(question, passage, prompts.passage)
        for place, (start, end) in enumerate(places):
            inside = next((at for at in range(start, end) if not string[at].isspace()), None)
            part = "separators" if inside is None else owners[inside]
            if part in found:
                found[part][b, k, place] = True
    return cast(dict[Part, Tensor], found)


def spans(reader: Reader, strings: Sequence[str], prompts: Prompts) -> list[list[tuple[int, int]]]:
    """Where in its string each token of `tokenise_passages` begins and ends; nowhere, (0, 0), for special tokens.

    Only a fast tokenizer knows.
    """
    return cast(list, _tokenised(reader, strings, prompts, return_offsets_mapping=True)["offset_mapping"])


def _tokenised(reader: Reader, strings: Sequence[str], prompts: Prompts, **options: Any) -> BatchEncoding:  # noqa: ANN401 (the tokeniser's own)
    length, special = prompts.passage_tokens, prompts.special_tokens
    return reader.tokenizer(list(strings), truncation=True, max_length=length, add_special_tokens=special, **options)


def _owners(question: str, passage: Passage, template: str) -> list[str]:
    """For each character of a passage string, the part that it comes from; "text" for the passage's own."""
    values = {"question": question, "title": passage.title, "text": passage.text}
    owners: list[str] = []
    for literal, field, _, _ in Formatter().parse(template):
        owners += ["prefix"] * len(literal)
        if field is not None:
            owners += [field] * len(values[field])
    return owners


def tokenise_targets(reader: Reader, answers: Sequence[str], prompts: Prompts) -> Int[Tensor, "B T"]:
    """Target ids of whole answers as `Prompts.answer` has them, each ended by the end token exactly once, -100 behind it."""
    end = end_token(reader)
    texts = [prompts.answer.format(answer=answer) for answer in answers]
    ended = [[*row, end] for row in reader.tokenizer(texts, add_special_tokens=False)["input_ids"]]  # type: ignore[misc]
    targets = torch.full((len(ended), max(map(len, ended))), IGNORED)
    for target, row in zip(targets, ended, strict=True):
        target[: len(row)] = torch.tensor(row)
    return targets


def trained_on(query: Query) -> tuple[str, ...]:
    """The answers that a reader may be trained on: the target that the data names, else all. Signals read the first."""
    return query.answers if query.target is None else (query.target,)


def check_targets(reader: Reader, queries: Iterable[Query], prompts: Prompts) -> None:
    """ValueError where a target is longer than the decoder has positions, with its question's id."""
    most = positions(reader.model.config, "decoder")
    if most is None:
        return
    for query in queries:
        for answer in trained_on(query):
            # hardly any token is shorter than a byte, so that few answers have to be tokenised
            if len(prompts.answer.format(answer=answer).encode()) + 2 <= most:
                continue
            if (tokens := tokenise_targets(reader, [answer], prompts).shape[1]) > most:
                raise ValueError(
                    f"the answer {answer[:40]!r}... of question {query.id!r} has {tokens} tokens with its end, but the "
                    f"reader's decoder has {most} positions: shorten it, leave the question out, or take a reader of "
                    "relative positions, such as T5"
                )


def answers_in(reader: Reader, tokens: Int[Tensor, "B T"], prompts: Prompts) -> list[str]:
    """The answers that generated ids spell, without special tokens and without what `Prompts.answer` puts around them."""
    before, _, behind = prompts.answer.partition("{answer}")
    around = [reader.tokenizer(part.format(), add_special_tokens=False)["input_ids"] for part in (before, behind)]
    first, last = (str(reader.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in around)
    texts = reader.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip().removeprefix(first).removesuffix(last).strip() for text in texts]
