"""PyTorch's own reading and writing against ours, bit for bit."""

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffbir_jax.conversion.contents import contents
from diffbir_jax.conversion.files import read_contents
from diffbir_jax.conversion.pickled_arrays import Tensor
from diffbir_jax.conversion.torch_files import read_torch
from diffbir_jax.conversion.torch_writing import STORAGES, write_torch

DTYPES = [getattr(torch, name) for name in STORAGES]
WIDE = torch.arange(120.0).reshape(10, 12)
TENSORS: dict[str, Any] = {
    **{f"{dtype}": (10 * torch.randn(3, 4)).to(dtype) for dtype in DTYPES},
    "transposed": torch.randn(3, 4).T,
    "part": WIDE[2:5, 3:9],
    "column": WIDE[:, 4],
    "same storage": WIDE.t(),
    "expanded": torch.randn(3).expand(4, 3),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.randn(2)),
    "buffer": torch.nn.Buffer(torch.randn(2)),
    "minus": torch.complex(torch.zeros(2), torch.randn(2)).conj().imag,
    "special": torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]),
}
TENSORS["with attribute"] = torch.randn(3)
TENSORS["with attribute"].note = "kept"


def bits(x: torch.Tensor) -> bytes:
    x = x.detach().resolve_neg().contiguous()
    return x.reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(found: Any, wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for key, x in wanted.items():
        array = np.asarray(found[key])
        assert array.shape == tuple(x.shape) and f"torch.{array.dtype}" == str(x.dtype), key
        assert np.ascontiguousarray(array).tobytes() == bits(x), key


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("modern", [True, False])
def test_reading(tmp_path: Path, modern: bool, protocol: int) -> None:
    path = tmp_path / "w.pth"
    value = {"state_dict": OrderedDict(TENSORS), "hyper": argparse.Namespace(lr=1), "best": np.float64(1)}
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=modern)
    read = torch.load(path, weights_only=False)["state_dict"]
    assert_same(read_contents(path).state, read)


def test_types_that_came_later(tmp_path: Path) -> None:
    tensors = {f"u{n}": torch.arange(8).to(getattr(torch, f"uint{n}"))[1:] for n in (16, 32, 64)}
    torch.save(tensors, tmp_path / "w.pth")
    found = read_contents(tmp_path / "w.pth").state
    for key, x in tensors.items():
        assert np.asarray(found[key]).tolist() == x.tolist()


def test_views_of_one_storage_stay_views(tmp_path: Path) -> None:
    torch.save({"a": WIDE, "b": WIDE[3:]}, tmp_path / "w.pth")
    found = read_contents(tmp_path / "w.pth").state
    assert np.shares_memory(np.asarray(found["a"]), np.asarray(found["b"]))


def test_trainers_files(tmp_path: Path) -> None:
    """Optimisers, schedulers and averaged models beside the weights."""
    model = torch.nn.Linear(3, 2)
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    value = {"optimizer": optimizer.state_dict(), "model": average.state_dict(), "epoch": 1}
    torch.save(value, tmp_path / "w.pth")
    assert_same(read_contents(tmp_path / "w.pth").state, average.state_dict())
    moments = read_torch(tmp_path / "w.pth")["optimizer"]["state"][0]["exp_avg"]
    assert isinstance(moments, Tensor)
    assert moments.array().tobytes() == bits(optimizer.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize("mapped", [True, False])
def test_writing(tmp_path: Path, mapped: bool) -> None:
    wanted = {key: x for key, x in TENSORS.items() if key.startswith("torch.")} | {"0d": torch.tensor(2.0)}
    torch.save(wanted, tmp_path / "theirs.pth")
    ours = {key: np.array(x) for key, x in read_contents(tmp_path / "theirs.pth").state.items()}
    write_torch(tmp_path / "ours.pth", {"params": ours, "iter": 5})
    back = torch.load(tmp_path / "ours.pth", weights_only=True, mmap=mapped)
    assert back["iter"] == 5
    assert {k: bits(x) for k, x in back["params"].items()} == {k: bits(x) for k, x in wanted.items()}
    assert all(x.dtype == wanted[key].dtype for key, x in back["params"].items())
    assert contents(tmp_path / "ours.pth", read_torch(tmp_path / "ours.pth")).state.keys() == wanted.keys()
