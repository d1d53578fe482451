"""A trained reader as a Teacher: its signals for groups of candidates, its answers, and where it looked."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float32

from retort.config import Prompts
from retort.records import Group
from retort.teachers.fid.attention import token_scores
from retort.teachers.fid.encoding import encode_passages
from retort.teachers.fid.fitting import check_lengths
from retort.teachers.fid.model import Reader
from retort.teachers.fid.prompts import (
    answers_in,
    check_targets,
    passage_strings,
    spans,
    tokenise_passages,
    trained_on,
)
from retort.teachers.fid.signals import Encodings, ReaderSignal, check_signals


class FidTeacher:
    """Scores candidates by signals of a trained reader, raw and without dropout.

    What each signal is: `TeacherSettings.signal` and `attention`. Of several answers the first is read, or the target that
    the data names. ValueError for a signal that the reader's tokenizer cannot give, and strings longer than its positions.
    """

    def __init__(
        self,
        reader: Reader,
        prompts: Prompts,
        *,
        batch: int,
        accelerator: Accelerator,
        signals: Sequence[ReaderSignal] = (ReaderSignal(),),
    ) -> None:
        check_signals(reader, signals)
        check_lengths(reader.model.config, prompts, f"the reader, a {type(reader.model).__name__},")
        self._reader = reader.to(accelerator.device).eval()
        self._prompts, self._batch, self._accelerator, self._wanted = prompts, batch, accelerator, tuple(signals)

    def score(self, groups: Sequence[Group]) -> list[Float32[np.ndarray, "K"]]:
        """The first signal of each passage of each group. Errors as `signals` has them."""
        return self.signals(groups)[0]

    def signals(self, groups: Sequence[Group]) -> list[list[Float32[np.ndarray, "K"]]]:
        """For each signal, its score of each passage of each group; passages are encoded once for all of them.

        ValueError, with the question's id, where a score is not finite, where a question has no answer that a signal reads,
        or one too long for the decoder, and where `loop` would leave no passage to read.
        """
        self._check(groups)
        scores = [[np.empty(0, np.float32)] * len(groups) for _ in self._wanted]
        for rows in _batches(groups, self._batch):
            encodings = Encodings(self._reader, [groups[row] for row in rows], self._prompts, self._accelerator.device)
            for found, signal in zip(scores, self._wanted, strict=True):
                with torch.no_grad(), self._accelerator.autocast():
                    values = encodings.scores(signal).float().cpu().numpy()
                for row, one in zip(rows, values, strict=True):
                    found[row] = one[: len(groups[row].passages)]
        for found, signal in zip(scores, self._wanted, strict=True):
            _check_finite(groups, found, signal)
        return scores

    def _check(self, groups: Sequence[Group]) -> None:
        asked = [group for group in groups if group.passages]
        reading = [signal.name for signal in self._wanted if signal.reads_answers]
        without = [group.query.id for group in asked if not trained_on(group.query)]
        if reading and without:
            raise ValueError(
                f"the signals {reading} read an answer, and {len(without)} questions have none, among them {without[:5]}: "
                "give answers, or take a signal that reads none (fid_kd, copy)"
            )
        single = [group.query.id for group in asked if len(group.passages) == 1]
        if single and "loop" in reading:
            raise ValueError(
                f"loop leaves one passage out, and {len(single)} questions have one only, among them {single[:5]}, so that "
                "nothing would be left to read: give two candidates or more to each question, or take pdist"
            )
        if reading:
            check_targets(self._reader, (group.query for group in asked), self._prompts)

    def looked_at(self, group: Group) -> list[tuple[list[str], list[float]]]:
        """For each passage, its string in pieces, one a token, and the first-step score of each: a heat-map's data.

        The pieces joined are the string that the reader saw, special tokens aside. Empty where the tokenizer is a slow one,
        which cannot tell where its tokens stand.
        """
        if not self._reader.tokenizer.is_fast:
            return []
        strings = passage_strings(group, self._prompts)
        ids, mask = tokenise_passages(self._reader, [group], self._prompts)
        device = self._accelerator.device
        with torch.no_grad(), self._accelerator.autocast():
            states = encode_passages(self._reader.model, ids.to(device), mask.to(device))
            scores = token_scores(self._reader.model, states, mask.to(device)).float().cpu()[0, 0]
        shown = []
        for string, places, values in zip(
            strings, spans(self._reader, strings, self._prompts), scores.tolist(), strict=True
        ):
            real = [(end, value) for (start, end), value in zip(places, values, strict=False) if end > start]
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
        texts = answers_in(reader, tokens, prompts)
        answers += [(mine[row].query.id, text) for row, text in zip(rows, texts, strict=True)]
    reader.train(training)
    return dict(gather_object(answers) if accelerator.num_processes > 1 else answers)


def _check_finite(groups: Sequence[Group], scores: Sequence[np.ndarray], signal: ReaderSignal) -> None:
    for group, values in zip(groups, scores, strict=True):
        if not np.isfinite(values).all():
            raise ValueError(
                f"the reader's {signal.name} of a passage of question {group.query.id!r} is not finite ({values}): label in "
                "float32, and let some token of each passage count"
            )


def _batches(groups: Sequence[Group], batch: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar cost: groups with passages, by their length in characters."""
    lengths = [sum(len(passage.text) for passage in group.passages) for group in groups]
    order = sorted((row for row, group in enumerate(groups) if group.passages), key=lambda row: (lengths[row], row))
    for at in range(0, len(order), batch):
        yield order[at : at + batch]
