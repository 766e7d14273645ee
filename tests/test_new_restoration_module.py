"""The worked example of CONTRIBUTING.md, run as it stands there: a network becomes stage 1 by three additions."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from diffbir_jax.cli import convert_weights, sample
from diffbir_jax.conversion import families, to_torch
from diffbir_jax.models import restoration_families
from tests.micro import picture

ROOT = Path(__file__).parents[1]
LAYERS = {"model.0": (4, 3), "model.2": (4, 4), "model.4": (3, 4)}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the example defines; what it adds to the tables goes with the test."""
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES)
    monkeypatch.setitem(restoration_families.RESTORATION_FAMILIES, "dncnn", None)
    monkeypatch.setitem(to_torch.ARCHITECTURES, "dncnn", None)
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## A new restoration module")[1].split("\n## ")[0]
    names: dict[str, Any] = {"__name__": "dncnn"}
    # Dataclasses look their module up.
    monkeypatch.setitem(sys.modules, "dncnn", ModuleType("dncnn"))
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    return names


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    state = {}
    for key, (out, channels) in LAYERS.items():
        state[f"{key}.weight"] = rng.standard_normal((out, channels, 3, 3)).astype(np.float32) / 5
        state[f"{key}.bias"] = rng.standard_normal(out).astype(np.float32) / 20
    save_file(state, tmp_path / "dncnn.safetensors")
    return tmp_path / "dncnn.safetensors"


def test_the_example_holds(example: dict[str, Any], checkpoint: Path, tmp_path: Path) -> None:
    weights, back = tmp_path / "weights", tmp_path / "back"
    assert convert_weights.main(["--input", str(checkpoint), "--output", str(weights)]) == 0
    Image.fromarray(picture(96, 64)).save(tmp_path / "a.png")
    command = [
        "--input",
        str(tmp_path / "a.png"),
        "--output",
        str(tmp_path / "out"),
        "--weights",
        str(weights),
    ]
    with pytest.raises(SystemExit) as exit:
        sample.main([*command, "--stage1", "dncnn", "--stage1-only", "--upscale", "1"])
    assert exit.value.code == 0
    result = np.asarray(Image.open(tmp_path / "out" / "a.png")).astype(float)
    assert result.shape == (96, 64, 3)
    wanted = 255 * np.clip(reference(picture(96, 64) / 255.0, load_file(checkpoint)), 0, 1)
    assert np.abs(result - wanted).max() <= 0.51
    command = [
        "--input",
        str(weights / "dncnn.safetensors"),
        "--output",
        str(back),
        "--to-torch",
        "safetensors",
    ]
    assert convert_weights.main(command) == 0
    for key, value in load_file(checkpoint).items():
        np.testing.assert_array_equal(load_file(back / "dncnn.safetensors")[key], value)


def reference(image: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """DnCNN by sums over shifted images."""
    x = image
    for i, key in enumerate(LAYERS):
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
        x = np.einsum("hwcij,ocij->hwo", windows, state[f"{key}.weight"]) + state[f"{key}.bias"]
        x = np.maximum(x, 0) if i < len(LAYERS) - 1 else x
    return image - x
