"""The stages one after the other, on whole images and without packs, tiles or a plan: what packs are compared with."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.imaging.bytes import to_bytes
from diffbir_jax.imaging.colour import wavelet_colour
from diffbir_jax.restoration.generator import Context, Generator, apply_jit
from diffbir_jax.sampling.guidance import held, latent_weight, pixel_weight
from diffbir_jax.sampling.layout import Conditioned
from diffbir_jax.sampling.loop import image_keys, sample
from diffbir_jax.sampling.options import Options


def stage1(generator: Generator, lq: Any) -> jax.Array:
    """The restoration module's output for (B, H, W, 3) in [0, 1]."""
    preset, (height, width) = generator.preset, lq.shape[1:3]
    assert preset.rm is not None
    out = apply_jit(
        preset.make_rm(generator.dtype), generator.params["rm"], pad(generator, lq, preset.rm.multiple)
    )
    return out[:, : height * preset.rm.scale, : width * preset.rm.scale]


def stage2(
    generator: Generator,
    clean: jax.Array,
    options: Options,
    indices: Sequence[int] | None = None,
    context: Context | None = None,
    noise: jax.Array | None = None,
    mask: jax.Array | None = None,
    start: jax.Array | None = None,
) -> jax.Array:
    """Results (B, H, W, 3) in about [-1, 1] of stage-1 images in [0, 1]; `noise` as in `Generator.steered`.

    `start` (B, H, W, 3) in [0, 1] is what sampling starts from in place of them.
    """
    generator.check(options, context)
    keys = image_keys(options.seed, range(len(clean)) if indices is None else indices)
    mask = None if mask is None else pad(generator, mask)
    target = 2.0 * pad(generator, clean) - 1.0
    begin = None if start is None else encode(generator, 2.0 * pad(generator, start) - 1.0)
    z = sample(*sampling(generator, target, options, keys, context, noise, mask, begin))
    return decode(generator, z)[:, : clean.shape[1], : clean.shape[2]]


def sampling(
    generator: Generator,
    target: jax.Array,
    options: Options,
    keys: jax.Array,
    context: Context | None = None,
    noise: jax.Array | None = None,
    mask: jax.Array | None = None,
    start: jax.Array | None = None,
) -> Any:
    """The arguments of `sample` for padded stage-1 images in [-1, 1]; `start` are latents."""
    condition = encode(generator, target)
    loss, size = options.guidance_loss, (condition.shape[1], condition.shape[2])
    rgb = options.guidance_space == "rgb"
    weight = pixel_weight(loss, target, mask) if rgb else latent_weight(loss, target, size, mask)
    encoder = generator.encoder
    hint = None if encoder is None else apply_jit(encoder, generator.params["condition"], target)
    return generator.steered(
        Conditioned(condition, weight, target, None, hint, start), options, keys, context, noise
    )


def reconstruct(generator: Generator, clean: jax.Array) -> jax.Array:
    """The autoencoder's image in about [-1, 1] of (B, H, W, 3) in [0, 1]."""
    z = encode(generator, 2.0 * pad(generator, clean) - 1.0)
    return decode(generator, z)[:, : clean.shape[1], : clean.shape[2]]


def finish(generator: Generator, generated: jax.Array, clean: jax.Array) -> np.ndarray:
    """(B, H, W, 3) uint8 of results in [-1, 1], in the colours of stage-1 images in [0, 1]."""
    corrected = wavelet_colour((generated + 1.0) / 2.0, clean, generator.preset.colour_levels)
    return np.asarray(to_bytes(corrected, clean.shape[1:3]))


def fidelity(generator: Generator, clean: jax.Array, options: Options, mask: jax.Array) -> jax.Array:
    """W (B, H, W, 1) of stage-1 images in [0, 1]."""
    weight = held(options.guidance_loss, 2.0 * pad(generator, clean) - 1.0, pad(generator, mask))
    return weight[:, : clean.shape[1], : clean.shape[2]]


def encode(generator: Generator, image: jax.Array) -> jax.Array:
    """Scaled latents of (B, H, W, 3) in [-1, 1]."""
    vae = generator.preset.make_vae(generator.dtype)
    mean, _ = apply_jit(vae, generator.params["vae"], image, method="encode")
    return generator.preset.vae.scale_factor * mean


def decode(generator: Generator, z: jax.Array) -> jax.Array:
    """Images in about [-1, 1] of scaled latents."""
    vae = generator.preset.make_vae(generator.dtype)
    return apply_jit(vae, generator.params["vae"], z / generator.preset.vae.scale_factor, method="decode")


def pad(generator: Generator, image: Any, multiple: int | None = None) -> jax.Array:
    """Pad sides to multiples, as the preset pads; by default to its own multiple."""
    pads = [(-n) % (multiple or generator.preset.multiple) for n in image.shape[1:3]]
    widths = ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0))
    return jnp.pad(image, widths, mode=generator.preset.padding)
