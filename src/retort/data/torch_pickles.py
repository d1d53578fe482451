"""Checkpoints that torch.save wrote, read as data: tensors and plain values. Code in one is refused by name, never run.

torch's own weights-only loader builds tensors, dicts, lists, strings and numbers, and nothing else. The one more thing that
the ancestors' checkpoints hold, their command line (argparse.Namespace), becomes a dict; that class is not even imported.
"""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals


class Options(dict[str, Any]):
    """A command line as the dict of its values: what stands in a checkpoint for an argparse.Namespace."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state)


def read_torch(path: Path) -> Any:  # noqa: ANN401 (whatever was saved)
    """What torch.save put at `path`, its tensors on the CPU and, in files of torch 1.6 and later, not read until used.

    ValueError: a class or function that is neither a tensor's part nor a Namespace, by its name; no whole file.
    """
    try:
        with safe_globals([(Options, "argparse.Namespace")]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how torch comments on pickles of another protocol, before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"names {named[1]}" if named else f"cannot be read as data ({str(error).splitlines()[-1]:.120})"
        raise ValueError(
            f"{path} {what}, expected tensors, plain values and argparse.Namespace; anything else in a pickle can run code, "
            "and is not read: if you trust the file, load it where it was made and save its state dict alone"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"{path} is no whole file of torch.save ({f'{type(error).__name__}: {error}':.120}): fetch it again"
        ) from error
