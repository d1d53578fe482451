"""Answers of a server on disk, so that no request is paid for twice: an append-only file of JSON lines for each process.

A line is written in one system call when its answer is there. What a kill leaves of one is dropped at the next start.
"""

import errno
import fcntl
import hashlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retort.store import disk_watched

Answer = Mapping[str, Any]


def request_key(endpoint: str, body: Mapping[str, Any]) -> str:
    """64 hex digits of what is asked of which model; not of where, and of no key: a server may move.

    >>> a, b = {"model": "m", "prompt": "a"}, {"prompt": "a", "model": "m"}
    >>> request_key("completions", a) == request_key("completions", b)
    True
    """
    return hashlib.sha256(json.dumps([endpoint, body], sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """Answers by request key in `folder`: all that any process has written are read, `writer` (its number) adds its own.

    Only keys and places are held in memory. Threads may share it. BlockingIOError where another process writes the same
    file; ValueError names a line that is no JSON, except the last, which a kill has torn.
    """

    def __init__(self, folder: Path, *, writer: int = 0) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int, int]] = {}  # open file, first byte, bytes
        self._closing: list[Callable[[], object]] = []
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"answers-{writer}.jsonl"
        self._own = self._opened(own, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            fcntl.flock(self._own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process writes {own}: wait for it, or stop it first") from None
        for path in sorted(set(folder.glob("answers-*.jsonl")) - {own}):
            self._indexed(path, self._opened(path, os.O_RDONLY))
        self._end = self._indexed(own, self._own)  # last: what it asked again stands here
        os.ftruncate(self._own, self._end)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Answer:
        file, start, length = self._places[key]
        return json.loads(os.pread(file, length, start))["answer"]

    def __setitem__(self, key: str, answer: Answer) -> None:
        line = json.dumps({"key": key, "answer": answer}).encode() + b"\n"
        with self._lock, disk_watched(self.folder):
            written = 0
            try:
                written = os.write(self._own, line)
                if written < len(line):
                    raise OSError(errno.ENOSPC, "No space left on device")
            finally:
                if written < len(line):
                    os.ftruncate(self._own, self._end)  # so that the next line does not follow half of this one
            self._places[key] = (self._own, self._end, len(line))
            self._end += len(line)

    def close(self) -> None:
        """Free the files for another cache in this process; the end of the process, or of this object, frees them too."""
        for closed in self._closing:
            closed()

    def _opened(self, path: Path, flags: int) -> int:
        """The number of an open file, which is closed when this cache is no longer used."""
        file = os.open(path, flags, 0o644)
        self._closing.append(weakref.finalize(self, os.close, file))
        return file

    def _indexed(self, path: Path, file: int) -> int:
        """Where the whole lines of a file end, after a look at each."""
        end = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._places[json.loads(line)["key"]] = (file, end, len(line))
                except (ValueError, KeyError, TypeError):
                    raise ValueError(
                        f"{path}:{number}: no answer of a server, expected JSON with key and answer: remove the line, "
                        "and its request is made again"
                    ) from None
                end += len(line)
        return end
