"""What a stage took beside what the bill of its run said before: the pairs of which both are known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retort.evaluation.report import Compared

MODELLED = ("encode", "read", "label", "distil")  # whose peak of memory is that of models; a search maps files besides


def compared(stage: str, planned: Mapping[str, Any], cost: Mapping[str, Any], folder: Path) -> list[Compared]:
    """Memory and disk of a finished stage, and what servers were asked in all attempts at it, each as planned and spent.

    `planned` is its line in bill.json, `cost` its cost.json. The bill of an older version may know less; nothing is compared
    that nobody measured: local tokens are not counted, money is not known without prices.
    """
    remote = cost.get("remote", [])
    money = [one["money"] for one in remote if one["money"] is not None]
    spent = {
        "memory": ("peak memory, MB", 1e6, cost["peak_mb"] if stage in MODELLED else None),
        "disk": ("disk, MB", 1e6, bytes_of(folder) / 1e6),
        "requests": ("requests to servers", 1, _total(remote, "requests")),
        "request_tokens": ("tokens of servers", 1, _total(remote, "prompt_tokens", "completion_tokens")),
        "money": ("money, at most", 1, sum(money) if money else None),
    }
    return [
        Compared(what, planned=planned[name] / unit, spent=value)
        for name, (what, unit, value) in spent.items()
        if value is not None and name in planned
    ]


def bytes_of(folder: Path) -> int:
    """How large all files in a folder are."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _total(remote: list[Mapping[str, Any]], *names: str) -> int | None:
    return sum(one[name] for one in remote for name in names) if remote else None
