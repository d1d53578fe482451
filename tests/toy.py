"""A toy task for readers: where a thing is, in questions whose answer stands in one of their passages."""

import sys
from pathlib import Path

from retort.compute import accelerator
from retort.config import Compute, Optimiser, Phase, Prompts, Read
from retort.records import Group, Passage, Query
from retort.teachers.fid.loading import load_reader
from retort.teachers.fid.model import Reader
from retort.teachers.fid.training import ReaderData, train_reader

THINGS = ["cat", "dog", "bird", "fish", "queen", "king", "book", "ship"]
PLACES = ["river", "house", "moon", "lake", "city", "road", "sea", "hill"]


def toy_groups(count: int = 8) -> list[Group]:
    """Question i asks for thing i; the passage that says it stands at place i % 4 among four, the others say other things.

    Odd questions have two answers, of which one stands nowhere.
    """
    groups = []
    for i in range(count):
        order = [(i + 1 + k) % 8 for k in range(3)]
        order.insert(i % 4, i)
        passages = tuple(Passage(f"p{i}{j}", THINGS[j], f"the {THINGS[j]} is in the {PLACES[j]}") for j in order)
        answers = (PLACES[i], f"the old {PLACES[i]}") if i % 2 else (PLACES[i],)
        groups.append(Group(Query(f"q{i}", f"where is the {THINGS[i]} ?", answers), passages))
    return groups


def toy_settings(*, steps: int = 6, passages: int = 3, batch: int = 4, rate: float = 3e-3, **changes: object) -> Read:
    """Short training: evaluated every 2 steps, a checkpoint every 2 steps."""
    phase = {"passages": passages, "batch": batch, "steps": steps}
    phases = changes.pop("phases", [Phase(**phase)])
    return Read(
        phases=phases,
        prompts=Prompts(passage="{question} {title} {text}", passage_tokens=30, answer_tokens=6),
        optimiser=Optimiser(learning_rate=rate, warmup_steps=1),
        **{"evaluate_every": 2, "checkpoint_every": 2, "evaluate_passages": 4} | changes,
    )


def toy_training(
    reader: Reader, folder: Path, settings: Read, *, seed: int = 0, data: ReaderData | None = None, **more: object
):
    """What `train_reader` gives on the toy task, in float32 on the CPU."""
    engine = accelerator(Compute(device="cpu", precision="float32"))
    data = data or ReaderData(toy_groups(), toy_groups())
    return train_reader(reader, data, settings, seed=seed, folder=folder, accelerator=engine, **more)


def train_saved(start: Path, folder: Path) -> None:
    """A short training, over two phases, of the reader saved in `start`; batches divide over one, two or three processes."""
    phases = [Phase(passages=2, select="answer", batch=6, steps=2, microbatch=1), Phase(passages=3, batch=6, steps=2)]
    toy_training(load_reader(start), folder, toy_settings(phases=phases, gradient_checkpointing=True))


if __name__ == "__main__":
    train_saved(Path(sys.argv[1]), Path(sys.argv[2]))
