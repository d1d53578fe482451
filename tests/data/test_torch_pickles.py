"""torch checkpoints read as data: the ancestors' layouts come back whole, and nothing of a file is ever run."""

import argparse
import collections
import pickle

import pytest
import torch

from malicious import Malicious
from retort.data.torch_pickles import read_torch

CHECKPOINT = {
    "step": 7,
    "model": collections.OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.ones(2, dtype=torch.float16)),
    "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    "scheduler": None,
    "opt": argparse.Namespace(name="best", text_maxlength=200, lr=0.5, flags=[True, None], device=torch.device("cpu")),
}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_comes_back_with_its_command_line_as_a_dict(tmp_path, zipped):
    torch.save(CHECKPOINT, tmp_path / "model.pth.tar", _use_new_zipfile_serialization=zipped)
    found = read_torch(tmp_path / "model.pth.tar")
    assert {name: found[name] for name in ("step", "scheduler")} == {"step": 7, "scheduler": None}
    assert found["opt"] == vars(CHECKPOINT["opt"])
    assert isinstance(found["opt"], dict)
    assert all(torch.equal(found["model"][name], value) for name, value in CHECKPOINT["model"].items())
    assert found["optimizer"]["param_groups"] == CHECKPOINT["optimizer"]["param_groups"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["whole", "value", "namespace"])
def test_code_in_a_checkpoint_is_refused_by_name_and_never_run(tmp_path, zipped, place):
    victim = tmp_path / "was-run"
    code = Malicious(f"touch {victim}")
    value = {"whole": code, "value": {"model": {"a": code}}, "namespace": {"opt": argparse.Namespace(name=code)}}[place]
    torch.save(value, tmp_path / "model.pth.tar", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"model.pth.tar names (posix|os|nt)\.system, expected tensors.* can run code"):
        read_torch(tmp_path / "model.pth.tar")
    assert not victim.exists()


def test_a_class_of_ones_own_is_refused_by_name(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "whole_model.bin")
    with pytest.raises(ValueError, match=r"names torch\.nn\.modules\.linear\.Linear"):
        read_torch(tmp_path / "whole_model.bin")


def test_a_namespace_cannot_be_called_with_what_the_file_wants(tmp_path):
    """REDUCE on the one class that is let in beside torch's own makes a dict of plain values at most."""
    payload = b"\x80\x02cargparse\nNamespace\n]\x85R."  # Namespace([])
    (tmp_path / "f.bin").write_bytes(payload)
    with pytest.raises(ValueError, match=r"f\.bin"):
        read_torch(tmp_path / "f.bin")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_that_torch_did_not_write_is_refused(tmp_path, protocol):
    (tmp_path / "f.bin").write_bytes(pickle.dumps({"a": Malicious("false")}, protocol=protocol))
    with pytest.raises(ValueError, match=r"f\.bin"):
        read_torch(tmp_path / "f.bin")


@pytest.mark.parametrize("length", [0, 10, 400])
def test_a_file_that_breaks_off_is_refused(tmp_path, length):
    torch.save(CHECKPOINT, tmp_path / "whole.bin")
    (tmp_path / "f.bin").write_bytes((tmp_path / "whole.bin").read_bytes()[:length])
    with pytest.raises(ValueError, match=r"f\.bin (is no whole file of torch.save|cannot be read as data)"):
        read_torch(tmp_path / "f.bin")


def test_nothing_stays_let_in_afterwards(tmp_path):
    torch.save(CHECKPOINT, tmp_path / "model.pth.tar")
    before = set(torch.serialization.get_safe_globals())
    read_torch(tmp_path / "model.pth.tar")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError, match="argparse"):
        torch.load(tmp_path / "model.pth.tar", weights_only=True)
