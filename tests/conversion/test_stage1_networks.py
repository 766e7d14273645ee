"""Networks of other tools as stage 1: from their checkpoints to restored photos. tests/peers compares their values."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.conversion.architectures import REALESRGAN, SRVGG, SWINIR
from diffbir_jax.conversion.engine import convert
from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.srvgg import SRVGG as Network
from diffbir_jax.models.srvgg import SRVGGConfig
from diffbir_jax.models.swinir import SwinIR, SwinIRConfig
from tests.command import run, save
from tests.conversion import made, small

OFFICIAL = SwinIRConfig(12, 1, 2, 2, unshuffle=1, num_feat=8)
KINDS = {
    "SwinIR x3": (SWINIR, replace(OFFICIAL, upsampler="pixelshuffle", scale=3)),
    "SwinIR JPEG": (SWINIR, replace(OFFICIAL, upsampler="none", window=7)),
    "SwinIR of DiffBIR": (SWINIR, replace(OFFICIAL, unshuffle=8)),
    "x2plus": (REALESRGAN, BSRNetConfig(num_feat=8, num_blocks=1, growth=4, scale=2, unshuffle=2)),
    "SRVGG": (SRVGG, SRVGGConfig(8, 1)),
}


@pytest.mark.filterwarnings("ignore:.*right for a network of your own")
@pytest.mark.parametrize("name", KINDS)
def test_photos_of_odd_sizes_and_more_than_a_tile(inputs, tmp_path, name):
    """Tiles follow what each network's sides are multiples of, in presets that were made for another one."""
    kind, config = KINDS[name]
    (entry,) = convert_file(made.write(tmp_path / "w.pth", {"params": small.weights(kind, config)}), tmp_path)
    save(inputs / "a.png", (45, 61))
    file = tmp_path / f"{entry.module}.safetensors"
    tile = ("--tile", "64", "--tile-stride", "32")
    assert run(inputs, "--stage1", str(file), "--stage1-only", "--upscale", "3", *tile) == 0
    with Image.open("out/a.png") as result:
        assert result.size == (183, 135) or result.size == (135, 183)


@pytest.mark.parametrize("config", SWINIR.others + (OFFICIAL, replace(OFFICIAL, unshuffle=2, scale=2)))
def test_every_head_enlarges_by_its_scale(config):
    config = replace(config, embed_dim=16, num_layers=1, depth=1, num_heads=2)
    side = config.multiple
    params = SWINIR.abstract(config)
    image = jax.ShapeDtypeStruct((1, side, 2 * side, 3), jnp.float32)
    shape = jax.eval_shape(SwinIR(config).apply, {"params": params}, image).shape
    assert shape == (1, config.scale * side, 2 * config.scale * side, 3)


def test_channels_become_pixels_in_pytorchs_order():
    """Channel c r^2 + i r + j goes to row i and column j of colour c; the enlarged input is added."""
    config = SRVGGConfig(num_feat=4, num_conv=1, scale=3)
    target = SRVGG.abstract(config)
    state = {key: np.zeros_like(x) for key, x in small.weights(SRVGG, config).items()}
    state["body.4.bias"] = np.arange(27, dtype=np.float32)
    params = convert(state, list(SRVGG.rules(config)), target)
    lq = np.random.default_rng(0).random((1, 2, 2, 3), np.float32)
    out = np.asarray(Network(config).apply({"params": params}, lq))
    block = np.arange(27, dtype=np.float32).reshape(3, 3, 3).transpose(1, 2, 0)
    np.testing.assert_allclose(out[0, 3:, :3] - block, np.broadcast_to(lq[0, 1, 0], (3, 3, 3)), atol=1e-5)


def test_slopes_belong_to_their_channels():
    config = SRVGGConfig(num_feat=2, num_conv=1, scale=1)
    state = {key: np.zeros_like(x) for key, x in small.weights(SRVGG, config).items()}
    state["body.0.bias"] = np.float32([-1, 2])
    state["body.1.weight"] = np.float32([0.5, 7])
    for i in range(2):
        state["body.2.weight"][i, i, 1, 1] = state["body.4.weight"][i, i, 1, 1] = -1
    state["body.3.weight"] = np.float32([7, 0.25])
    params = convert(state, list(SRVGG.rules(config)), SRVGG.abstract(config))
    out = np.asarray(Network(config).apply({"params": params}, np.zeros((1, 1, 1, 3), np.float32)))
    np.testing.assert_allclose(out[0, 0, 0], [-0.5, 0.5, 0])
