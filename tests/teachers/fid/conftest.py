"""What several test files of the reader share: the tiny tokeniser, the readers, random passages, the golden T5."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from retort.teachers.fid.loading import load_t5
from tiny import READERS, tiny_reader, tiny_tokenizer

GOLDEN = Path(__file__).parents[2] / "reference" / "golden"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def readers(tokenizer):
    """One reader of each kind, and one that copies; tests do not change them."""
    plain = {kind: tiny_reader(kind, tokenizer) for kind in READERS}
    return plain | {"copying": tiny_reader("bert", tokenizer, copies=True)}


@pytest.fixture
def passages():
    """Ids and mask of 2 questions with 4 passages of different lengths."""
    lengths = torch.tensor([[7, 3, 5, 1], [2, 7, 4, 6]])
    mask = (torch.arange(7) < lengths[..., None]).long()
    ids = torch.randint(5, 200, mask.shape, generator=torch.Generator().manual_seed(0))
    return ids * mask, mask


@pytest.fixture(scope="session")
def golden():
    """The published implementation's numbers on the tiny T5 (methods 9.2)."""
    return json.loads((GOLDEN / "ref_fid_v302.json").read_text())


@pytest.fixture(scope="session")
def golden_weights():
    with np.load(GOLDEN / "tiny_t5.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="session")
def golden_t5(golden, golden_weights):
    return load_t5(golden_weights, golden["cfg"])


@pytest.fixture(scope="session")
def golden_inputs(golden):
    return torch.tensor(golden["ids"]), torch.tensor(golden["mask"])


@pytest.fixture(scope="session")
def atlas():
    """Atlas's signals on the same weights (methods 9.3)."""
    return json.loads((GOLDEN / "ref_atlas.json").read_text())


@pytest.fixture
def _no_grad():
    with torch.no_grad():
        yield
