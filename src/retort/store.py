"""Stage folders: content keys, parts, atomic writes, and the manifest that is written last.

A stage folder is done when it holds a manifest with the wanted key; without a manifest it is unfinished and goes on; with
another key it is stale and is built again. A training's step log is cut back to where it goes on. Seconds and memory go to
cost.json, the one file whose bytes may differ between two runs of the same config.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

MANIFEST = "manifest.json"
STARTED = "started.json"
COST, BILL = "cost.json", "bill.json"  # what a stage took; what the whole run was estimated to take
PARTS = "parts"
FULL_BYTES = 1_000_000  # a disk with less than this left is full: torch and numpy then fail with errors of their own

State = Literal["done", "stale", "partial", "missing"]


class FullDiskError(OSError):
    """A write that failed because the disk is full; its message says what to do."""


def key_of(section: Mapping[str, Any], inputs: Sequence[str], version: int) -> str:
    """16 hex digits that change when a stage's settings, its inputs' keys or the format version change.

    >>> key_of({"k": 1}, ["ab"], 1) == key_of({"k": 1}, ["ab"], 1) != key_of({"k": 2}, ["ab"], 1)
    True
    """
    text = json.dumps([section, list(inputs), version], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def write_atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and is removed when it does not.

    A reader never sees half a file or folder, whenever the process is killed. OSError with what to do on a full disk.
    A folder that is replaced stands aside for a moment: `restored` brings it back after a kill at that moment.
    """
    temporary = _beside(path, "tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(temporary)
    restored(path)
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        if path.is_dir():
            path.rename(_beside(path, "old"))
        os.replace(temporary, path)
        restored(path)
    except BaseException as error:
        full = _full_disk(path, error)
        remove(temporary)
        restored(path)
        if full is None:
            raise
        raise full from error


@contextmanager
def disk_watched(folder: Path) -> Iterator[None]:
    """The block, with the error of a full disk said in full, for those writers in it that do not use `write_atomic`."""
    try:
        yield
    except FullDiskError:
        raise
    except Exception as error:
        full = _full_disk(folder, error)
        if full is None:
            raise
        raise full from error


def restored(path: Path) -> Path:
    """`path`, in one piece: where a kill interrupted `write_atomic`, the old folder comes back, or goes if the new is there.

    For a reader of a folder that is written again and again, such as a checkpoint.
    """
    old = _beside(path, "old")
    if old.exists() and not path.exists():
        old.rename(path)
    remove(old)
    return path


def write_json(path: Path, value: object) -> None:
    """`value` as indented JSON at `path`, atomically. ValueError on NaN or infinity, which JSON does not have."""
    with write_atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 (JSON is any value)
    """The value in the JSON file at `path`. ValueError that names the file where it is not JSON."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}:{error.lineno}: not JSON ({error.msg}): remove the file to have it written again"
        ) from None


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there; a folder is gone at once, never half of it when the process is killed."""
    gone = _beside(path, "gone")
    shutil.rmtree(gone, ignore_errors=True)  # what a kill left of an earlier removal
    if path.is_dir() and not path.is_symlink():
        path.rename(gone)
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class StepLog:
    """The always-on log of a training: one JSON line a step, without times, so that a resumed run leaves the same bytes.

    `active` in the one process that writes.
    """

    path: Path
    active: bool

    def truncate(self, step: int) -> None:
        """Drop what an interrupted run wrote after `step`, half a line included."""
        if not self.active or not self.path.exists():
            return
        kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
        with write_atomic(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))

    def add(self, step: int, facts: Mapping[str, float]) -> None:
        """Append the facts of `step`. ValueError on NaN, which JSON does not have."""
        if self.active:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **facts}, allow_nan=False) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def _beside(path: Path, role: str) -> Path:
    return path.with_name(f".{path.name}.{role}")


def _full_disk(path: Path, error: BaseException) -> "FullDiskError | None":
    """The error to raise where a write failed for want of space; safetensors and faiss say so in words, torch not at all."""
    free = shutil.disk_usage(path.parent).free
    told = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    if not told and not (isinstance(error, OSError | RuntimeError) and free < FULL_BYTES):
        return None
    return FullDiskError(
        errno.ENOSPC,
        f"no space left to write {path} ({free / 1e6:.0f} MB free): free some space and run the same command again; "
        "finished stages and parts are kept",
    )


@dataclass(frozen=True)
class StageFolder:
    """One stage on disk: `path`, the `key` of what is wanted there, and the format `version` that writes it."""

    path: Path
    key: str
    version: int

    def state(self) -> State:
        """Whether the wanted content is there: done, stale (other settings or inputs), partial, or missing."""
        for name, found in ((MANIFEST, "done"), (STARTED, "partial")):
            if (self.path / name).exists():
                return found if self._same(read_json(self.path / name)) else "stale"  # type: ignore[return-value]
        return "missing"

    def parts_done(self) -> tuple[int, int] | None:
        """How many parts are written and how many there will be; None for a stage without parts."""
        total = self.path / PARTS / "total.json"
        return (len(list((self.path / PARTS).glob("part-*"))), read_json(total)) if total.exists() else None

    def manifest(self) -> dict[str, Any]:
        """The facts that the stage left. ValueError where the folder is not finished."""
        if self.state() != "done":
            raise ValueError(f"{self.path} is {self.state()}, expected a finished stage: finish it with `retort run`")
        return read_json(self.path / MANIFEST)

    def open(self) -> Path:
        """The folder, ready to go on: a stale one is emptied, an unfinished one of the same key is kept as it is.

        ValueError as `check_version`.
        """
        self.check_version()
        if self.state() == "stale" or not self.path.exists():
            remove(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / STARTED).exists():
            write_json(self.path / STARTED, {"key": self.key, "version": self.version})
        return self.path

    def check_version(self, *, force: bool = False) -> None:
        """ValueError where another version of Retort wrote the folder, as its content would be lost.

        With `force` an older version's may be lost, a newer one's never.
        """
        for name in (MANIFEST, STARTED):
            found = read_json(self.path / name).get("version", 0) if (self.path / name).exists() else self.version
            if found > self.version or (found < self.version and not force):
                raise ValueError(
                    f"{self.path} was written by format version {found}, this Retort writes version {self.version}: use the "
                    f"Retort that wrote it, or {'remove the folder' if force else '--force'} to build it again"
                )

    def finish(self, facts: Mapping[str, Any]) -> None:
        """The started folder gets its manifest, last of all and at once: `started.json` becomes it."""
        write_json(self.path / STARTED, {"key": self.key, "version": self.version, **facts})
        os.replace(self.path / STARTED, self.path / MANIFEST)

    def _same(self, found: Mapping[str, Any]) -> bool:
        return found.get("key") == self.key and found.get("version") == self.version


def write_parts(
    folder: Path,
    total: int,
    write: Callable[[int, Path], None],
    *,
    ending: str = "",
    mine: Callable[[int], bool] = lambda part: True,
) -> list[Path]:
    """The paths of all parts; `write(part, path)` is called for those that are missing and `mine`.

    Parts are cut by the data, never by the number of processes, so that a run may go on with other hardware.
    """
    parts = folder / PARTS
    if mine(0):  # one process only: two would write the same temporary file
        write_json(parts / "total.json", total)
    paths = [parts / f"part-{part:05d}{ending}" for part in range(total)]
    for part, path in enumerate(paths):
        if mine(part) and not path.exists():
            with write_atomic(path) as temporary:
                write(part, temporary)
    return paths


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. BlockingIOError where another process works in it; freed when the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:  # "w" would change the file's time
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process works in {folder}: wait for it, or stop it first") from None
        yield
