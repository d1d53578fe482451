"""What a server was used for: requests, retries, tokens. Counted on disk at once, so that a kill loses nothing of it."""

import json
import os
import threading
import weakref
from dataclasses import asdict, dataclass, fields
from pathlib import Path

BYTES = 512  # of a ledger's file, always: room for six counts of any length


@dataclass(frozen=True)
class Cost:
    """What was used; tokens as the server counts them, 0 where it does not. Costs add up.

    >>> Cost(requests=1, prompt_tokens=90) + Cost(requests=1, retries=1)
    Cost(requests=2, retries=1, cache_hits=0, prompt_tokens=90, completion_tokens=0, seconds=0.0)
    """

    requests: int = 0  # sent, those that failed among them
    retries: int = 0
    cache_hits: int = 0  # asked, and answered without a request
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0  # from first to last answer of each call, by the wall clock

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @classmethod
    def used(cls, usage: object) -> "Cost":
        """The tokens that the `usage` of an answer counts. What is no whole number counts 0: the answer is paid for anyhow.

        >>> Cost.used({"prompt_tokens": 90, "completion_tokens": "3"}) == Cost(prompt_tokens=90)
        True
        """
        said = usage if isinstance(usage, dict) else {}
        counts = {name: said.get(name) for name in ("prompt_tokens", "completion_tokens")}
        return cls(**{name: count for name, count in counts.items() if type(count) is int and count >= 0})

    @classmethod
    def read(cls, path: Path) -> "Cost":
        """What a ledger at `path` has counted."""
        text = path.read_text().strip()
        return cls(**json.loads(text)) if text else cls()  # a kill may come before the first count


class Ledger:
    """The `cost` so far, counted on from what the file at `path` says; None: only held. Threads may share it.

    The file is written over in one system call, always of the same length: a kill leaves the count before it or after it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.cost = Cost()
        self._lock = threading.Lock()
        self._file: int | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            weakref.finalize(self, os.close, self._file)
            self.cost = Cost.read(path)

    def add(self, cost: Cost) -> None:
        """Count on."""
        with self._lock:
            self.cost += cost
            if self._file is not None:
                os.pwrite(self._file, json.dumps(asdict(self.cost)).ljust(BYTES).encode(), 0)
