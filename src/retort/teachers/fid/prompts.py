"""What the reader is shown: passage strings and targets as token ids. FiD's formats are the defaults of config.Prompts."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from retort.config import Prompts
from retort.records import Group
from retort.teachers.fid.model import IGNORED, Reader, end_token


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
    rows = reader.tokenizer(
        strings, truncation=True, max_length=prompts.passage_tokens, add_special_tokens=prompts.special_tokens
    )["input_ids"]
    length = max(1, *map(len, rows))  # type: ignore[arg-type]
    ids = torch.full((len(groups), most, length), int(reader.tokenizer.pad_token_id))  # type: ignore[arg-type]
    mask = torch.zeros_like(ids)
    places = [(b, k) for b, group in enumerate(groups) for k in range(len(group.passages))]
    for (b, k), row in zip(places, rows, strict=True):  # type: ignore[arg-type]
        ids[b, k, : len(row)] = torch.tensor(row)
        mask[b, k, : len(row)] = 1
    return ids, mask


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
