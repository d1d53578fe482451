"""A trained reader as a Teacher: G for groups of candidates, its answers, and where it looked."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float, Float32, Int
from torch import Tensor

from retort.config import Prompts, Signal
from retort.records import Group
from retort.teachers.fid.attention import first_step_scores, passage_scores
from retort.teachers.fid.encoding import encode_passages
from retort.teachers.fid.model import Reader
from retort.teachers.fid.prompts import passage_strings, tokenise_passages


class FidTeacher:
    """Scores candidates by the reader's cross-attention, raw, without dropout and without the answer.

    `signal` fid_kd: FiD-KD's label G. copy: the log of the share of attention that falls on the passage, mean over heads and
    layers; of a reader that copies by one decoder layer, the log-probability that a copied first word comes from there.
    """

    def __init__(
        self, reader: Reader, prompts: Prompts, *, batch: int, accelerator: Accelerator, signal: Signal = "fid_kd"
    ) -> None:
        self._reader = reader.to(accelerator.device).eval()
        self._prompts, self._batch, self._accelerator, self._signal = prompts, batch, accelerator, signal

    def score(self, groups: Sequence[Group]) -> list[Float32[np.ndarray, "K"]]:
        """The signal of each passage of each group. ValueError where a score is not finite, with the question's id."""
        scores: list[np.ndarray] = [np.empty(0, np.float32)] * len(groups)
        for rows in _batches(groups, self._batch):
            ids, mask = tokenise_passages(self._reader, [groups[row] for row in rows], self._prompts)
            device = self._accelerator.device
            with torch.no_grad(), self._accelerator.autocast():
                found = self._signals(ids.to(device), mask.to(device)).float().cpu().numpy()
            for row, values in zip(rows, found, strict=True):
                scores[row] = values[: len(groups[row].passages)]
        for group, values in zip(groups, scores, strict=True):
            if not np.isfinite(values).all():
                raise ValueError(f"the reader scores a passage of question {group.query.id!r} {values}: label in float32")
        return scores

    def _signals(self, ids: Int[Tensor, "B K L"], mask: Int[Tensor, "B K L"]) -> Float[Tensor, "B K"]:
        if self._signal == "fid_kd":
            return passage_scores(self._reader.model, ids, mask)
        share = passage_scores(self._reader.model, ids, mask, stage="post_softmax", tokens="sum")
        # below 1e-38 float32 cannot tell a share from 0, of which there is no log
        return share.clamp(min=torch.finfo(share.dtype).tiny).log()

    def looked_at(self, group: Group) -> list[tuple[list[str], list[float]]]:
        """For each passage, its string in pieces, one a token, and the first-step score of each: a heat-map's data.

        The pieces joined are the string that the reader saw, special tokens aside.
        """
        strings = passage_strings(group, self._prompts)
        ids, mask = tokenise_passages(self._reader, [group], self._prompts)
        device = self._accelerator.device
        with torch.no_grad(), self._accelerator.autocast():
            states = encode_passages(self._reader.model, ids.to(device), mask.to(device))
            scores = first_step_scores(self._reader.model, states, mask.to(device)).float().cpu()[0]
        offsets = self._reader.tokenizer(
            strings,
            truncation=True,
            max_length=self._prompts.passage_tokens,
            add_special_tokens=self._prompts.special_tokens,
            return_offsets_mapping=True,
        )["offset_mapping"]
        shown = []
        for string, spans, values in zip(strings, offsets, scores.tolist(), strict=True):  # type: ignore[arg-type]
            real = [(end, value) for (start, end), value in zip(spans, values, strict=False) if end > start]
            cuts = [0, *(end for end, _ in real)]
            pieces = [string[before:end] for before, end in pairwise(cuts)]
            shown.append((pieces, [value for _, value in real]))
        return shown


def answer_groups(
    reader: Reader, groups: Sequence[Group], prompts: Prompts, *, batch: int, accelerator: Accelerator
) -> dict[str, str]:
    """The reader's greedy answer to each question, by query id. Groups are shared out among the processes."""
    training = reader.training
    reader.eval()
    mine = groups[accelerator.process_index :: accelerator.num_processes]
    answers: list[tuple[str, str]] = []
    for rows in _batches(mine, batch):
        ids, mask = tokenise_passages(reader, [mine[row] for row in rows], prompts)
        with accelerator.autocast():
            tokens = reader.generate(
                ids.to(accelerator.device), mask.to(accelerator.device), max_tokens=prompts.answer_tokens
            )
        texts = reader.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        answers += [(mine[row].query.id, text.strip()) for row, text in zip(rows, texts, strict=True)]
    reader.train(training)
    return dict(gather_object(answers) if accelerator.num_processes > 1 else answers)


def _batches(groups: Sequence[Group], batch: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar cost: groups with passages, by their length in characters."""
    lengths = [sum(len(passage.text) for passage in group.passages) for group in groups]
    order = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: (lengths[row], row))
    for at in range(0, len(order), batch):
        yield order[at : at + batch]
