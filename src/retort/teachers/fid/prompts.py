"""What the reader is shown: passage strings and targets as token ids. FiD's formats are the defaults of config.Prompts."""

from collections.abc import Sequence
from string import Formatter
from typing import Any, cast, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import BatchEncoding

from retort.config import Part, Prompts
from retort.records import Group, Passage
from retort.teachers.fid.decoding import IGNORED
from retort.teachers.fid.model import Reader, end_token


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
    ids = torch.full((len(groups), most, length), int(reader.tokenizer.pad_token_id))  # type: ignore[arg-type]
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
    """Where in its string each token of `tokenise_passages` begins and ends; nowhere, (0, 0), for special tokens."""
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
    """Target ids, each ended by the end token exactly once, -100 behind it."""
    end = end_token(reader)
    rows = reader.tokenizer(
        list(answers), truncation=True, max_length=max(1, prompts.answer_tokens - 1), add_special_tokens=False
    )["input_ids"]
    ended = [[*row, end] for row in rows]  # type: ignore[misc]
    targets = torch.full((len(ended), max(map(len, ended))), IGNORED)
    for target, row in zip(targets, ended, strict=True):
        target[: len(row)] = torch.tensor(row)
    return targets
