"""Validation of stage 2 by what it is for: held-out images are restored, and compared with what they came from."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import HostBatch, split
from diffbir_jax.imaging.bytes import to_bytes
from diffbir_jax.imaging.colour import wavelet_colour
from diffbir_jax.metrics.fidelity import psnr, ssim
from diffbir_jax.models.apply import Params
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.restoration.generator import Generator, apply_jit
from diffbir_jax.sampling.options import Options
from diffbir_jax.training.config import Section
from diffbir_jax.training.report import tile_grid
from diffbir_jax.training.sources import to_unit
from diffbir_jax.weights.loading import stored

# (EMA params, frozen) -> (metrics, picture (H, W, 3) uint8), as `Objective.validate`.
Validate = Callable[[Params, Params], tuple[dict[str, float], np.ndarray]]
# Images restored at once: guidance through the decoder keeps the activations of each, beside the training state.
TOGETHER = 2
# Rows of the picture.
SHOWN = 8


def restoration(
    preset: Preset, dtype: Any, sampling: Section, batch: HostBatch, rest: dict[str, Params] | None = None
) -> Validate:
    """Return the validation that restores held-out images as `sample.py` does, but for enlarging small ones.

    Noise is that of the seed of the options and of each image's place in the batch, so it is always the same.

    Args:
        preset: of the networks, with the restoration module of the run, or none.
        dtype: what networks compute in.
        sampling: `images`, how many of the batch are restored, at least 1; see also `sampling_options`.
        batch: `lq` and `hq` (B, H, W, 3) uint8 or float32 in [0, 1], B at least `images`.
        rest: parameters, on the host, of networks that are not among the frozen ones of a step.

    Returns:
        (params, frozen) -> (`psnr` in dB and `ssim` of the results to `hq`, means over the images, and the same of the
        stage-1 images as `psnr_stage1` and `ssim_stage1`; a picture with the columns lq, stage 1, result, hq).

    Raises:
        ValueError: there are not so many images, or the preset cannot sample so.
    """
    options, held = sampling_options(preset, sampling), len(batch["lq"])
    if not 1 <= sampling.images <= held:
        raise UserError(
            f"config.sampling.images is {sampling.images}, allowed are 0 to {held}, the held-out images that there are "
            "(config.data.validation_size)"
        )
    Generator(preset, {}, dtype).check(options)
    images = {name: batch[name][: sampling.images] for name in ("lq", "hq")}
    lq, hq = (np.asarray(_bytes(to_unit(images[name]))) for name in ("lq", "hq"))

    def validate(params: Params, frozen: Params) -> tuple[dict[str, float], np.ndarray]:
        networks = {**stored(rest or {}, dtype), **frozen, **params}
        stage1, result = restore(Generator(preset, networks, dtype), options, images["lq"])
        values = _fidelity(result, hq) | {f"{name}_stage1": x for name, x in _fidelity(stage1, hq).items()}
        return values, tile_grid([column[:SHOWN] / 255.0 for column in (lq, stage1, result, hq)])

    return validate


def sampling_options(preset: Preset, sampling: Section) -> Options:
    """Return the preset's operating point with what is given of `steps`, `guidance_scale` and `cfg_scale`.

    Raises:
        ValueError: a value is out of its range.
    """
    given = {name: sampling[name] for name in ("steps", "guidance_scale", "cfg_scale")}
    return replace(default_options(preset.name), **{name: x for name, x in given.items() if x is not None})


def restore(generator: Generator, options: Options, lq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take images through both stages at their own size.

    Args:
        generator: the networks, "rm" among them if the preset has one, and "condition" if the control has an encoder.
        options: how to sample.
        lq: (B, H, W, 3) uint8 or float32 in [0, 1]; sides are multiples of the restoration module's.

    Returns:
        Stage-1 images and results, (B, H, W, 3) uint8 each.
    """
    found = []
    for part in split({"lq": lq, "index": np.arange(len(lq))}, TOGETHER):
        clean = _stage1(generator, to_unit(part["lq"]))
        generated = generator.stage2(clean, options, part["index"].tolist())
        found.append((_bytes(clean), _corrected(generated, clean, generator.preset.colour_levels)))
    stage1, result = (np.concatenate(parts) for parts in zip(*found))
    return stage1, result


def both(losses: Validate, restored: Validate) -> Validate:
    """Return the validation that has the metrics of two, and the picture of the second."""

    def validate(params: Params, frozen: Params) -> tuple[dict[str, float], np.ndarray]:
        values, _ = losses(params, frozen)
        more, picture = restored(params, frozen)
        return values | more, picture

    return validate


def _stage1(generator: Generator, lq: jax.Array) -> jax.Array:
    """(B, H, W, 3) float32 in about [0, 1] of such images."""
    if generator.preset.rm is None:
        return lq
    module = generator.preset.make_rm(generator.dtype)
    return apply_jit(module, generator.params["rm"], lq).astype(jnp.float32)


@partial(jax.jit, static_argnames="levels")
def _corrected(generated: jax.Array, clean: jax.Array, levels: int) -> jax.Array:
    """The result, (B, H, W, 3) uint8, of the decoder's output in [-1, 1], in the colours of stage 1."""
    return _bytes(wavelet_colour((generated + 1.0) / 2.0, clean, levels))


def _bytes(images: jax.Array) -> jax.Array:
    return to_bytes(images, images.shape[1:3])


def _fidelity(images: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean PSNR and SSIM of (B, H, W, 3) uint8 images."""
    return {
        metric.__name__: float(np.mean([metric(image, hq) for image, hq in zip(images, truth)]))
        for metric in (psnr, ssim)
    }
