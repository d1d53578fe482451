"""How likely a causal language model finds a continuation behind a prompt: log-probabilities, token by token.

The mean over the tokens of the answer is PDist's label (Atlas, arXiv 2208.03299; REPLUG, arXiv 2301.12652, takes the
likelihood itself), over those of the question it is ART's (arXiv 2206.10658). Not here: prompts and their continuations.
"""

import inspect
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float32, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Cache, PreTrainedModel

Ids = list[int]
Side = Literal["right", "left"]
BATCH_TOKENS = 16_384  # padded tokens of one forward pass, those of shared prefixes included
LOGIT_ROWS = 256  # tokens whose logits are float32 at a time: 150 MB with a vocabulary of 150,000
WORTH = 0.9  # of the tokens; a prefix that saves less is not worth the copies of its cache


@torch.inference_mode()
def continuation_log_probs(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    continuations: Sequence[Ids],
    *,
    pad: int,
    batch_tokens: int = BATCH_TOKENS,
    padding: Side = "right",
    share_prefixes: bool = True,
) -> list[Float32[Tensor, "_"]]:
    """The log-probability of each token of each continuation, given its prompt and the tokens before it; on the CPU.

    What several rows begin with is computed once (`share_prefixes`): the beginning of all prompts, or each prompt with
    several continuations, whichever saves more. Logits are computed for the continuations only. `pad` is any token id. The
    side of the padding changes nothing; right leaves no gap behind a shared prefix, which sliding windows would count.
    The model is used as it stands: put it in eval mode. ValueError for an empty prompt or continuation.
    """
    for row, (prompt, scored) in enumerate(zip(prompts, continuations, strict=True)):
        if not prompt or not scored:
            raise ValueError(
                f"row {row} has a prompt of {len(prompt)} tokens and a continuation of {len(scored)}, expected 1 or more of "
                "each: a first token has no probability; begin the prompt with a word or a start token"
            )
    rows = [[*prompt, *scored[:-1]] for prompt, scored in zip(prompts, continuations, strict=True)]
    shared = shared_lengths(prompts, rows) if share_prefixes else [0] * len(rows)
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for prefixes, members in _blocks(model, rows, shared, pad, batch_tokens):
        lengths = [prefixes.width + len(rows[row]) - shared[row] for row, _ in members]
        for batch in batches(lengths, batch_tokens):
            chosen = [members[place] for place in batch]
            ids, mask = _padded([rows[row][shared[row] :] for row, _ in chosen], pad, padding, model.device)
            targets = [continuations[row] for row, _ in chosen]
            log_probs = _scored(model, prefixes.of([parent for _, parent in chosen]), ids, mask, targets)
            for (row, _), values in zip(chosen, log_probs, strict=True):
                found[row] = values
    return found


def shared_lengths(prompts: Sequence[Ids], rows: Sequence[Ids]) -> list[int]:
    """How many tokens at the beginning of each row (a prompt and more) are computed once for all rows that share them.

    Of three plans the one that reads the fewest tokens: nothing is shared, the beginning of all prompts, or equal prompts. A
    prompt's last token is never among them, because the first token behind the prompt is foretold from it.

    >>> shared_lengths([[7, 8, 9]] * 3, [[7, 8, 9, 1], [7, 8, 9, 2], [7, 8, 9]])
    [2, 2, 2]
    """
    most = [len(prompt) - 1 for prompt in prompts]
    nothing, common = [0] * len(rows), min([common_prefix(prompts), *most]) if prompts else 0

    def tokens_read(shared: Sequence[int]) -> int:
        prefixes = {tuple(row[:length]) for row, length in zip(rows, shared, strict=True)}
        return sum(map(len, prefixes)) + sum(len(row) - length for row, length in zip(rows, shared, strict=True))

    best = min(([common] * len(rows), most), key=tokens_read)
    return best if tokens_read(best) <= WORTH * tokens_read(nothing) else nothing


def common_prefix(sequences: Sequence[Ids]) -> int:
    """How many tokens all sequences begin with alike.

    >>> common_prefix([[1, 2, 3], [1, 2, 4, 5], [1, 2]])
    2
    """
    first, last = min(sequences), max(sequences)  # what these two share, all between them share
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Places by falling length in parts of at most `tokens` padded tokens, or of one place.

    >>> batches([3, 5, 1, 4], 9)
    [[1], [3, 0], [2]]
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    parts, at = [], 0
    while at < len(order):
        count = max(1, tokens // max(1, lengths[order[at]]))
        parts.append(order[at : at + count])
        at += count
    return parts


@dataclass(frozen=True)
class _Prefixes:
    """Keys and values of prefixes that were read, one a row, with the mask of their real tokens; None: of no token."""

    cache: Cache | None
    mask: Bool[Tensor, "n P"]

    @property
    def width(self) -> int:
        return self.mask.shape[1]

    def of(self, rows: list[int]) -> "_Prefixes":
        """Some of them, each as often as asked for, to be gone on with; a model writes into a cache."""
        chosen = torch.tensor(rows, device=self.mask.device)
        cache = deepcopy(self.cache)
        if cache is not None:
            cache.batch_select_indices(chosen)
        return _Prefixes(cache, self.mask[chosen])


def _blocks(
    model: PreTrainedModel, rows: Sequence[Ids], shared: Sequence[int], pad: int, batch_tokens: int
) -> Iterator[tuple[_Prefixes, list[tuple[int, int]]]]:
    """Prefixes that were read together, with the rows that begin with them: each its number and its prefix's place."""
    families: dict[tuple[int, ...], list[int]] = {}
    for row, length in enumerate(shared):
        families.setdefault(tuple(rows[row][:length]), []).append(row)
    alone = families.pop((), [])
    if alone:
        yield _Prefixes(None, torch.ones((1, 0), dtype=torch.bool, device=model.device)), [(row, 0) for row in alone]
    prefixes = list(families)
    for block in batches([len(prefix) for prefix in prefixes], batch_tokens):
        chosen = [prefixes[place] for place in block]
        ids, mask = _padded(chosen, pad, "left", model.device)  # so that no gap parts them from what follows
        output = forward(model, ids, mask, None, use_cache=True, logits_to_keep=1)
        if not isinstance(output.past_key_values, Cache):
            raise TypeError(
                f"{type(model).__name__} keeps no keys and values of a prefix to go on from: set share_prefixes to False"
            )
        members = [(row, place) for place, prefix in enumerate(chosen) for row in families[prefix]]
        yield _Prefixes(output.past_key_values, mask), members


def _scored(
    model: PreTrainedModel,
    prefixes: _Prefixes,
    ids: Int[Tensor, "n L"],
    mask: Bool[Tensor, "n L"],
    targets: Sequence[Ids],
) -> tuple[Float32[Tensor, "_"], ...]:
    """Log-probability of each target, foretold from the last real positions of its row, as many as there are targets."""
    counts = [len(scored) for scored in targets]
    left = mask.flip(1).cumsum(1).flip(1)  # real tokens from here to the row's end
    foretelling = mask & (left <= torch.tensor(counts, device=mask.device)[:, None])
    columns = foretelling.any(0).nonzero()[:, 0]
    whole = torch.cat([prefixes.mask, mask], dim=1)
    logits = forward(model, ids, whole, prefixes.cache, use_cache=prefixes.cache is not None, logits_to_keep=columns).logits
    wanted = torch.tensor([token for scored in targets for token in scored], device=mask.device)
    parts = zip(logits[foretelling[:, columns]].split(LOGIT_ROWS), wanted.split(LOGIT_ROWS), strict=True)
    losses = [cross_entropy(part.float(), tokens, reduction="none") for part, tokens in parts]
    return torch.cat(losses).neg().float().cpu().split(counts)


def forward(
    model: PreTrainedModel,
    ids: Int[Tensor, "n L"],
    mask: Bool[Tensor, "n S"],
    cache: Cache | None,
    **options: Any,  # noqa: ANN401 (the model's own)
) -> Any:  # noqa: ANN401 (each model's own output)
    """What the model gives for tokens that follow those in `cache`; `mask` is of all, and pads take up no position."""
    if "position_ids" in inspect.signature(model.forward).parameters:  # Bloom counts real tokens by itself
        options["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return model(input_ids=ids, attention_mask=mask.long(), past_key_values=cache, **options)


def _padded(
    rows: Sequence[Sequence[int]], pad: int, side: Side, device: torch.device
) -> tuple[Int[Tensor, "n L"], Bool[Tensor, "n L"]]:
    """Ids and mask of rows of different lengths, all padded on one side to the longest."""
    ids = torch.full((len(rows), max(map(len, rows))), pad)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(ids.shape[1] - len(row), None)
        ids[i, place] = torch.tensor(row)
        mask[i, place] = True
    return ids.to(device), mask.to(device)
