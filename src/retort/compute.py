"""Device, precision, processes, checkpoints: every fact about the hardware, and every world-size factor, is here.

The engine is accelerate: the same code runs in one process, under `accelerate launch` and under `torchrun`.
"""

import hashlib
import importlib.util
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, broadcast, set_seed
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import Module, ModuleList, Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from retort.config import Compute
from retort.store import read_json, remove, restored, write_atomic

Item = TypeVar("Item")
PATIENCE = timedelta(days=7)


def accelerator(settings: Compute, *, tracking: Path | None = None) -> Accelerator:
    """The process group, device and precision of this run. Trackers, where asked for, write under `tracking`.

    Warns where the threads of its processes crowd the cores. ValueError where the GPU that is asked for is not there,
    ImportError where a tracker is not installed.
    """
    on_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("compute.device is 'cuda' and torch sees no GPU: install a CUDA build of torch, or set it to auto")
    if missing := sorted(set(settings.trackers) - set(map(str, get_available_trackers()))):  # accelerate would drop them
        raise ImportError(f"compute.trackers names {missing}, which is not here: pip install {' '.join(missing)}")
    engine = Accelerator(
        cpu=on_cpu,
        mixed_precision="bf16" if _bfloat16(settings.precision, on_cpu=on_cpu) else "no",
        log_with=list(settings.trackers) if tracking and settings.trackers else None,
        project_dir=str(tracking) if tracking else None,
        step_scheduler_with_optimizer=False,  # else every schedule advances once per process at each step
        # of a process that waits: the main one alone reads, indexes and searches corpora, which may take hours
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or engine.num_processes)
    if on_cpu and engine.is_main_process and (trouble := crowding(here, torch.get_num_threads(), os.cpu_count() or 1)):
        warnings.warn(trouble, stacklevel=2)
    return engine


def crowding(processes: int, threads: int, cores: int) -> str | None:
    """What is wrong where processes have more threads together than there are cores, in a sentence, or None."""
    if processes * threads <= cores:
        return None
    way_out = f"set OMP_NUM_THREADS={cores // processes}" if processes <= cores else f"start {cores} processes at most"
    return f"{processes} processes with {threads} threads each share {cores} cores, and wait for each other: {way_out}"


def _bfloat16(precision: str, *, on_cpu: bool) -> bool:
    """Whether to compute in bfloat16. auto: where the hardware multiplies it natively.

    Measured with MiniLM: 2.7x faster than float32 on a CPU with AVX-512 bf16, over 100x slower on one with AVX2 only.
    """
    if precision != "auto":
        return precision == "bfloat16"
    return torch.cpu._is_avx512_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported(including_emulation=False)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch, alike in every process: what differs between processes is the data they take."""
    set_seed(seed)


def share(items: Sequence[Item], accelerator: Accelerator) -> Sequence[Item]:
    """The items of this process out of those of all: every world-th one. ValueError where they do not divide evenly.

    Even shares make the mean over processes of the processes' means the mean over the whole batch.
    """
    if len(items) % accelerator.num_processes:
        raise ValueError(
            f"a batch of {len(items)} does not divide over {accelerator.num_processes} processes: set the batch to a "
            "multiple of their number"
        )
    return items[accelerator.process_index :: accelerator.num_processes]


def mine(count: int, accelerator: Accelerator | None) -> Int64[Tensor, "m"]:
    """The numbers of those of `count` things that this process does: every world-th one.

    All of them where not each process would have one, or where there is no accelerator.
    """
    if accelerator is None or count < accelerator.num_processes:
        return torch.arange(count)
    return torch.arange(accelerator.process_index, count, accelerator.num_processes)


def of_all(rows: Float[Tensor, "m ..."], count: int, accelerator: Accelerator | None) -> Float[Tensor, "n ..."]:
    """The rows of all `count` things in their order, from the rows that each process has of its own (`mine`).

    Every process gets the same rows, and is to make the same loss of them. The gradient of a process's own rows comes back
    times the number of processes, so that `mean_gradients`, whose mean is over parts that add up, gives that of the loss.
    A second axis may differ in length between processes: it is filled up with zeros.
    """
    if accelerator is None or accelerator.num_processes == 1 or count < accelerator.num_processes:
        return rows
    return cast(Tensor, _OfAll.apply(rows, count, accelerator))


class _OfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int, accelerator: Accelerator) -> Tensor:  # noqa: ANN401 (torch's)
        ctx.rows, ctx.world, ctx.kept = mine(count, accelerator), accelerator.num_processes, rows.shape[:2]
        padded = rows
        for axis in range(min(2, rows.dim())):
            padded = cast(Tensor, accelerator.pad_across_processes(padded, dim=axis))
        together = cast(Tensor, accelerator.gather(padded.contiguous()))
        # process p has the things p, p + world, ...: thing i stands in row i // world of process i % world
        return together.unflatten(0, (ctx.world, -1)).transpose(0, 1).flatten(0, 1)[:count]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401 (torch's)
        own = gradients[0][ctx.rows.to(gradients[0].device)]
        return ctx.world * (own[:, : ctx.kept[1]] if len(ctx.kept) > 1 else own), None, None


def server_limits(in_flight: int, per_minute: float | None, accelerator: Accelerator) -> tuple[int, float | None]:
    """The part of this process in the requests that a server may have at a time, and in a minute, from all of them together.

    At a time each has one at least.
    """
    own = len(range(accelerator.process_index, in_flight, accelerator.num_processes))
    return max(1, own), per_minute and per_minute / accelerator.num_processes


def batch_rows(count: int, batch: int, step: int, seed: int) -> Int64[np.ndarray, "batch"]:
    """The rows of a data set of `count` that optimiser step `step` (from 0) trains on: a new order in every epoch.

    A pure function of its arguments, so that a resumed run meets the same data. An epoch's last batch is filled up from
    the next epoch's order.

    >>> sorted(np.concatenate([batch_rows(4, 2, step, seed=0) for step in (0, 1)]).tolist())
    [0, 1, 2, 3]
    """
    places = np.arange(step * batch, (step + 1) * batch)
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in set((places // count).tolist())}
    return np.asarray([orders[place // count][place % count] for place in places.tolist()], np.int64)


def linear_schedule(optimiser: Optimizer, *, warmup_steps: int, steps: int) -> LambdaLR:
    """The learning rate's factor: up from 0 over `warmup_steps`, then down to 0 at `steps` (FiD)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return max(0.0, (steps - step) / max(1, steps - warmup_steps))

    return LambdaLR(optimiser, factor)


def freeze_lowest(encoder: Module, layers: int, setting: str) -> None:
    """The lowest `layers` of an encoder, and its embeddings with them, get no gradient; with 0 all stays as it is.

    Embeddings are words, positions, segments and their layer norm, as T5, BART and BERT name them. ValueError, which names
    `setting`: it has fewer layers.
    """
    if not layers:
        return
    blocks = next(module for module in encoder.modules() if isinstance(module, ModuleList) and len(module) > 0)
    if layers > len(blocks):
        raise ValueError(f"{setting} is {layers}, the encoder has {len(blocks)} layers")
    blocks[:layers].requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        if "embed" in name:
            parameter.requires_grad_(False)


def mean_gradients(parameters: Iterable[Parameter], accelerator: Accelerator) -> None:
    """Every gradient becomes its mean over the processes, in place: of losses that were multiplied by their number, the sum.

    For models that are trained without a DistributedDataParallel wrapper, because their gradient is made in several
    backward passes (gradient caching) and must be exchanged once. The gradients travel as one flat tensor.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if accelerator.num_processes == 1 or not gradients:
        return
    flat = cast(Tensor, accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduction="mean"))
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def of_main_process(value: float, accelerator: Accelerator) -> float:
    """The main process's value in every process, so that all of them decide alike."""
    return float(cast(Tensor, broadcast(torch.tensor(value, dtype=torch.float64, device=accelerator.device))))


@contextmanager
def tracked(accelerator: Accelerator, name: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Trackers that were asked for are open inside, under the run `name` with its flattened settings; closed afterwards."""
    accelerator.init_trackers(name, config=_flat(settings))
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers = []


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of "a.b" names with values that every tracker takes."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str | int | float) else json.dumps(value)
    return flat


def save_checkpoint(accelerator: Accelerator, folder: Path, position: Mapping[str, Any]) -> None:
    """Model, optimiser, schedule and random states of all processes with the `position` reached, atomically."""
    accelerator.wait_for_everyone()
    temporary = folder.with_name(f".{folder.name}.state")  # not write_atomic's own name, which it empties first
    main = accelerator.is_main_process
    try:
        with write_atomic(folder) if main else nullcontext(folder) as whole:
            accelerator.save_state(str(temporary), safe_serialization=False)
            accelerator.wait_for_everyone()
            if main:
                temporary.rename(whole)
                (whole / "position.json").write_text(json.dumps(position))
    finally:
        remove(temporary) if main else None
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, folder: Path) -> dict[str, Any] | None:
    """The position that the checkpoint in `folder` reached, its state restored; None where there is no checkpoint."""
    if accelerator.is_main_process:
        restored(folder)
    accelerator.wait_for_everyone()
    if not (folder / "position.json").exists():
        return None
    accelerator.load_state(str(folder))
    return read_json(folder / "position.json")


def model_path(name: str, sha256: str | None = None) -> str:
    """What transformers loads for `name`: a folder, "package:NAME/sub" inside an installed package, or a hub id.

    ValueError where a folder or package is not there, or where the model file's sha256 is not the pinned one.
    """
    if name.startswith("package:"):
        package, _, inner = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ValueError(
                f"model {name!r}: package {package!r} is not installed: pip install {package.replace('_', '-')}"
            )
        name = str(Path(spec.origin).parent / inner)
    folder = Path(name)
    if folder.is_absolute() or name.startswith((".", "~")) or folder.exists():
        folder = folder.expanduser()
        if not (folder / "config.json").exists() and not (folder / "modules.json").exists():
            raise ValueError(f"model {name!r}: no config.json or modules.json there: give a model folder or a hub id")
        if sha256 is not None:
            _check_weights(folder / "model.safetensors", sha256)
        return str(folder)
    if sha256 is not None:
        raise ValueError(f"model {name!r} is no folder here, so its pinned sha256 cannot be checked: fetch it, or unset it")
    return name


def _check_weights(file: Path, sha256: str) -> None:
    if not file.exists():
        raise ValueError(f"{file} is not there, so its pinned sha256 cannot be checked: save the model as safetensors")
    with file.open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(f"{file} has sha256 {found}, expected {sha256}: it is not the pinned model")
