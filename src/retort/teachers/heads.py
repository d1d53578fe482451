"""Which attention heads of a model count: one form for readers and for causal language models."""

from collections.abc import Collection, Mapping, Sequence

Heads = Mapping[int, Sequence[int]]  # of each layer that counts, from 0, those of its heads that do; empty: all of them


def heads_of(layer: int, heads: Heads | None, count: int) -> list[int]:
    """Those of a layer's `count` heads that count; without `heads` all of them. ValueError for one that is not there.

    >>> [heads_of(layer, {0: [3, 1], 2: []}, 4) for layer in (0, 1, 2)]
    [[3, 1], [], [0, 1, 2, 3]]
    """
    if heads is not None and layer not in heads:
        return []
    chosen = list((heads or {}).get(layer, ())) or list(range(count))
    if not 0 <= min(chosen) <= max(chosen) < count:
        raise ValueError(f"heads {chosen} of layer {layer} are asked for, it has {count}: choose from 0 to {count - 1}")
    return chosen


def check_layers(heads: Heads | None, found: Collection[int]) -> None:
    """ValueError where `heads` names no layer, or one that is not among those `found` with attention."""
    if heads is not None and (not heads or not set(heads) <= set(found)):
        raise ValueError(
            f"heads of layers {sorted(heads)} are asked for, attention is in layers {sorted(found)}: choose from these, or "
            "leave heads out for all"
        )
