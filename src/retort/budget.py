"""What the budget of a run chooses, once: the label depth. It is kept in the run's folder as budget.json.

The precision that the run was estimated in, which is the machine's and no choice, is kept beside it. A second probe may find
other speeds, so that only what is kept counts from then on; `retort plan --apply` makes it anew.
Not here: what a choice of depth costs (bill.py).
"""

from pathlib import Path
from typing import Any

from retort.bill import Bill, planned
from retort.compute import accelerator
from retort.config import Config
from retort.store import read_json, write_json

KEPT = "budget.json"


def settled(config: Config, root: Path, *, choose: bool = True) -> Config:
    """The config of a run in `root` without its budget, and with what that chose in its place.

    The first time it is chosen, and kept; unless `choose`: then the config is as given until something is kept. ValueError
    where nothing fits the budget, or where what is kept was chosen for another one.
    """
    if config.budget is None:
        return config
    file = root / KEPT
    if not file.exists() and choose:
        engine = accelerator(config.compute)
        keep(planned(config, root), root, write=engine.is_main_process)
        engine.wait_for_everyone()  # all processes take what the main one has kept
    if not file.exists():
        return config.model_copy(update={"budget": None})
    found, wanted = read_json(file), config.budget.model_dump()
    if found["budget"] != wanted:
        raise ValueError(
            f"{file} was chosen for the budget {found['budget']}, the config has {wanted}: `retort plan CONFIG --apply` "
            "chooses again, and other label depths are labelled anew"
        )
    return _chosen(config, found["depth"], found["precision"])


def keep(bill: Bill, root: Path, *, write: bool = True) -> None:
    """Leave what a bill's budget chose in `root`, over an earlier choice. ValueError where nothing fits.

    Of several processes one has to `write`, as all share the file.
    """
    if bill.depth is None:
        raise ValueError(bill.chosen() if bill.budget else "the config has no budget to choose for: give budget.hours")
    if write:
        write_json(root / KEPT, {name: bill.plain()[name] for name in ("budget", "depth", "precision")})


def kept(root: Path) -> list[str]:
    """What is kept in the folder of a run, in a line; nothing where nothing is."""
    if not (root / KEPT).exists():
        return []
    found = read_json(root / KEPT)
    return [f"kept for the run: label.depth {found['depth']}, precision {found['precision']}; --apply chooses again"]


def _chosen(config: Config, depth: int, precision: str) -> Config:
    """No round labels deeper than `depth`; the precision is that one where the config leaves it to the machine."""
    values: dict[str, Any] = config.model_dump(exclude={"budget"})
    for label in (values["label"], *(sections.get("label", {}) for sections in values["overrides"].values())):
        if "depth" in label:
            label["depth"] = min(label["depth"], depth)
    if values["compute"]["precision"] == "auto":
        values["compute"]["precision"] = precision
    return Config.model_validate(values)
