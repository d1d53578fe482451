"""What a source looked like when it was read, so that a changed file makes the stages after it stale."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from retort.data.formats import BUILDERS

WHOLE_BYTES = 64_000_000  # files up to this size are told apart by their content, larger ones by size and time of change


def fingerprint(source: str) -> str:
    """16 hex digits that change when the content behind `source` does; of a hub data set, its name alone.

    A source that does not exist has a fingerprint too: reading it is what fails, with a clear error.
    """
    digest = hashlib.sha256(source.encode())
    if source.partition(":")[0] in BUILDERS:
        digest.update(platform.python_version().encode())
        for package in ("numpy", "scipy", "torch", "transformers", "retort-ir"):
            digest.update(f"{package}={_version(package)}".encode())
    path = Path(source)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode())
            digest.update(_content(file))
    return digest.hexdigest()[:16]


def _content(file: Path) -> bytes:
    facts = file.stat()
    if facts.st_size <= WHOLE_BYTES:
        return hashlib.sha256(file.read_bytes()).digest()
    return f"{facts.st_size} {facts.st_mtime_ns}".encode()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
