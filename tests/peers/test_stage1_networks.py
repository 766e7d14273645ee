"""Networks that people use as stage 1, by spandrel: its state dicts are converted, and the results compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.SwinIR import SwinIR

from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.conversion.to_torch import export_files
from diffbir_jax.models.restoration_families import RESTORATION_FAMILIES, restoration_config
from diffbir_jax.weights.safetensors import load_weights, read_metadata
from tests.peers.compare import image, nchw

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid", "ignore:.*right for a network of your own")
TOLERANCE = 1e-5  # of the largest value
SMALL = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "mlp_ratio": 2.0}


def swinir(upsampler: str, scale: int, **more: Any) -> SwinIR:
    return SwinIR(**{**SMALL, "window_size": 8, "upsampler": upsampler, "upscale": scale, **more})


def esrgan(scale: int, shuffle: int | None = None) -> ESRGAN:
    inputs = 3 * (shuffle or 1) ** 2
    total = scale * (shuffle or 1)
    return ESRGAN(in_nc=inputs, num_filters=16, num_blocks=2, scale=total, shuffle_factor=shuffle)


NETWORKS = {
    **{f"classical x{n}": lambda n=n: swinir("pixelshuffle", n) for n in (2, 3, 4, 8)},
    **{f"lightweight x{n}": lambda n=n: swinir("pixelshuffledirect", n) for n in (2, 3, 4)},
    **{f"real x{n}": lambda n=n: swinir("nearest+conv", n) for n in (2, 4)},
    "real-large x4": lambda: swinir("nearest+conv", 4, resi_connection="3conv"),
    "denoise": lambda: swinir("", 1),
    "jpeg": lambda: swinir("", 1, window_size=7, img_size=42, img_range=255.0),
    **{f"ESRGAN x{n}": lambda n=n: esrgan(n) for n in (2, 4)},
    "x2plus": lambda: esrgan(2, 2),
    "general-x4v3": lambda: Compact(num_feat=16, num_conv=3, upscale=4),
    "anime x2": lambda: Compact(num_feat=16, num_conv=2, upscale=2),
}


def randomised(peer: torch.nn.Module) -> torch.nn.Module:
    """Every weight away from zero, so that each one counts."""
    generator = torch.Generator().manual_seed(0)
    for x in peer.parameters():
        fan = x[0].numel() if x.ndim > 1 else 16
        x.data = torch.randn(x.shape, generator=generator) / fan**0.5 + (
            1.0 if x.ndim == 1 and (x == 1).all() else 0
        )
    return peer.eval()


def renamed(state: Mapping[str, torch.Tensor], blocks: int, doublings: int) -> dict[str, torch.Tensor]:
    """ESRGAN's old names as those of Real-ESRGAN."""
    names = {"model.0": "conv_first", f"model.1.sub.{blocks}": "conv_body"}
    names |= {f"model.{3 * i}": f"conv_up{i}" for i in range(1, 1 + doublings)}
    names |= {f"model.{3 * doublings + 2}": "conv_hr", f"model.{3 * doublings + 4}": "conv_last"}
    new = {}
    for key, x in state.items():
        name, kind = key.rsplit(".", 1)
        inner = name.replace("model.1.sub.", "body.").replace(".RDB", ".rdb").removesuffix(".0")
        new[f"{names.get(name, inner)}.{kind}"] = x
    return new


def converted(path: Path, state: Mapping[str, torch.Tensor], folder: Path) -> Path:
    torch.save({"params_ema": dict(state)}, path)
    (entry,) = convert_file(path, folder)
    return folder / f"{entry.module}.safetensors"


def ours(path: Path, lq: np.ndarray) -> np.ndarray:
    config = restoration_config(read_metadata(path))
    module = RESTORATION_FAMILIES[read_metadata(path)["family"]].module(config)
    shapes = jax.eval_shape(module.init, jax.random.key(0), lq)["params"]
    return np.asarray(jax.jit(module.apply)({"params": load_weights(path, shapes)}, lq))


def assert_close(found: np.ndarray, peer: torch.nn.Module, lq: np.ndarray) -> None:
    with torch.inference_mode():
        wanted = peer(nchw(lq)).numpy().transpose(0, 2, 3, 1)
    assert found.shape == wanted.shape
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    print(f"relative error {error:.1e}")
    assert error <= TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
def test_parity(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    peer, lq = randomised(NETWORKS[name]()), image(28, 42) if name == "jpeg" else image(24, 32)
    state = peer.state_dict()
    if name == "x2plus":  # published under the new names only
        state = renamed(state, blocks=2, doublings=2)
    path = converted(tmp_path / "w.pth", state, tmp_path / "out")
    assert_close(ours(path, lq), peer, lq)


@pytest.mark.parametrize("name", ["classical x3", "lightweight x4", "real x4", "general-x4v3", "x2plus"])
def test_the_way_back(tmp_path: Path, name: str) -> None:
    """spandrel recognises what leaves again, and it computes the same."""
    peer, lq = randomised(NETWORKS[name]()), image(24, 32)
    state = renamed(peer.state_dict(), 2, 2) if name == "x2plus" else peer.state_dict()
    path = converted(tmp_path / "w.pth", state, tmp_path / "out")
    (entry,) = export_files(path, tmp_path / "back")
    back = torch.load(tmp_path / "back" / f"{entry.module}.pth", weights_only=True)
    with torch.inference_mode():
        again = ModelLoader().load_from_state_dict(back).model.eval()(nchw(lq))
        wanted = peer(nchw(lq))
    assert (again - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
