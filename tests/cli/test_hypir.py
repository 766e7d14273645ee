"""HYPIR as users run it, from its published layout to a folder of results, on small networks: the golden's bytes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jax import Array
from PIL import Image
from safetensors.numpy import save_file

from diffbir_jax.cli.main import start
from diffbir_jax.conversion.engine import export
from diffbir_jax.conversion.torch_writing import write_torch
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.parity import networks
from diffbir_jax.parity.lora import HYPIR
from diffbir_jax.parity.one_step_paths import STRIDE, TILE, small_preset
from diffbir_jax.restoration import encoder_tiles
from diffbir_jax.restoration.pictures import noise_index
from tests.command import call
from tests.models.reference import GOLDEN

pytestmark = pytest.mark.slow
SALT, VALUES = "a", GOLDEN / "onestep_small.npz"
# Two tiles; in the whole set there is one of six tiles, enhance_large.
NAMES = ("enhance_small",)


def stable_diffusion() -> dict[str, np.ndarray]:
    """The goldens' base in one file."""
    parts = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "clip": "cond_stage_model."}
    state = {}
    for name, prefix in parts.items():
        network = networks.NETWORKS[name]
        rules = list(network.rules(network.config("small")))
        arrays = export(networks.weights(name, "small", SALT), rules)
        # save_file writes views as they lie.
        state |= {prefix + key: np.ascontiguousarray(x) for key, x in arrays.items()}
    return state


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """The inputs in in/, the published file and the base in weights/; drawn is what the golden was drawn."""
    monkeypatch.chdir(tmp_path)
    values = {key: x for key, x in np.load(VALUES).items() if "|enhance_" in key}
    Path("in").mkdir()
    noise = {}
    for name in NAMES:
        image = np.moveaxis(values[f"hypir|{name}|lq"][0], 0, -1)
        Image.fromarray(np.rint(255.0 * image).astype(np.uint8)).save(f"in/{name}.png")
        noise[noise_index(Path(f"{name}.png"))] = np.moveaxis(values[f"hypir|{name}|noise"], 2, -1)
    save_file(stable_diffusion(), "base.safetensors")
    write_torch(Path("HYPIR_sd2.pth"), HYPIR.by_key(HYPIR.weights(SALT)))
    monkeypatch.setitem(PRESETS, "hypir", replace(small_preset("hypir"), min_side=TILE))
    monkeypatch.setattr(encoder_tiles, "image_keys", lambda seed, indices, variant: indices[0])

    def drawn(index: int, number: Array, shape: tuple[int, ...]) -> np.ndarray:
        return noise[index][int(number)].reshape(shape)

    monkeypatch.setattr(encoder_tiles, "draw_noise", drawn)
    return values


def convert(*given: str) -> None:
    with pytest.raises(SystemExit) as end:
        start("convert", ["--input", *given, "--output", "weights"])
    assert not end.value.code


def test_a_folder_in_tiles_has_the_bytes_of_the_golden(golden: dict[str, np.ndarray]) -> None:
    """Bytes are truncated there and rounded here."""
    convert("base.safetensors")
    convert("HYPIR_sd2.pth", "--base", "weights")
    tiles = ("--tile", TILE, "--tile-stride", STRIDE)
    given = ("--input", "in", "--output", "out", "--version", "hypir", "--weights", "weights")
    assert call(*given, "--upscale", 2, *tiles) == 0
    for name in NAMES:
        wanted = np.moveaxis(golden[f"hypir|{name}|bytes"][0], 0, -1).astype(int)
        found = np.asarray(Image.open(f"out/{name}.png")).astype(int)
        assert found.shape == wanted.shape and np.abs(found - wanted).max() <= 1
        whole = np.moveaxis(golden[f"hypir|{name}|out"][0], 0, -1)
        off = np.abs(found - 255.0 * np.clip(whole, 0.0, 1.0)).max()
        assert off <= 0.5 + 255.0 * 1e-4 * np.abs(whole).max()
