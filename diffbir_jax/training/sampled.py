"""Validation of stage 2 by restoration: held-out images are restored and compared with their originals."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.section import Section
from diffbir_jax.data.batches import HostBatch
from diffbir_jax.imaging.bytes import to_depth
from diffbir_jax.metrics.fidelity import psnr, ssim
from diffbir_jax.models.apply import Params
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration.candidates import default_plan
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.restoration.generator import Generator
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sampling.options import Options
from diffbir_jax.training.report import tile_grid
from diffbir_jax.weights.loading import stored

# (EMA params, frozen) -> (metrics, picture (H, W, 3) uint8), as `Objective.validate`.
Validate = Callable[[Params, Params], tuple[dict[str, float], np.ndarray]]
# Images restored at once. Guidance keeps the decoder's activations of each image, beside the training state.
TOGETHER = 2
# Output pixels that may wait for a batch. This is more than any two images have, so a batch is always filled.
PIXELS = 2**30
# Rows of the picture.
SHOWN = 8


def restoration(
    preset: Preset,
    dtype: DTypeLike,
    sampling: Section,
    batch: HostBatch,
    rest: dict[str, Params] | None = None,
) -> Validate:
    """Return the validation that restores held-out images like `diffbir restore`, but without enlarging small ones.

    The noise depends on the seed of the options and on an image's index in the batch. So it is the same every time.

    Args:
        preset: the preset, with the run's restoration module or with none.
        dtype: compute dtype of the networks.
        sampling: `images`, the number of images to restore, at least 1; see also `sampling_options`.
        batch: `lq` and `hq` (B, H, W, 3) uint8 or float32 in [0, 1], B at least `images`.
        rest: host parameters of networks that are not among the step's frozen networks.

    Returns:
        (params, frozen) -> (metrics, picture). The metrics are `psnr` (dB) and `ssim` of the results to `hq`, averaged
        over the images; `psnr_stage1` and `ssim_stage1` are the same for the stage-1 images. The picture has the
        columns lq, stage 1, result, hq.

    Raises:
        ValueError: the batch has fewer images, or the preset does not allow these sampling options.
    """
    options, held = sampling_options(preset, sampling), len(batch["lq"])
    if not 1 <= sampling.images <= held:
        raise UserError(
            f"config.sampling.images is {sampling.images}, allowed are 0 to {held}, the held-out images that there are "
            "(config.data.validation_size)"
        )
    Generator(preset, {}, dtype).check(options)
    lq, hq = (_bytes(np.asarray(batch[name][: sampling.images])) for name in ("lq", "hq"))
    # Validation judges stage 2. So it must run on small crops, and also where users would get stage 1 alone.
    preset = replace(preset, min_side=1, meant_from=0.0, all_detail_from=1.0)

    def validate(params: Params, frozen: Params) -> tuple[dict[str, float], np.ndarray]:
        networks = {**stored(rest or {}, dtype), **frozen, **params}
        stage1, result = restore(Restorer(preset, networks, dtype), options, lq)
        values = _fidelity(result, hq) | {f"{name}_stage1": x for name, x in _fidelity(stage1, hq).items()}
        return values, tile_grid([column[:SHOWN] / 255.0 for column in (lq, stage1, result, hq)])

    return validate


def sampling_options(preset: Preset, sampling: Section) -> Options:
    """Return the preset's default options, with `steps`, `guidance_scale` and `cfg_scale` replaced where given.

    Raises:
        ValueError: a value is out of its range.
    """
    given = {name: sampling[name] for name in ("steps", "guidance_scale", "cfg_scale")}
    return replace(default_options(preset.name), **{name: x for name, x in given.items() if x is not None})


def restore(restorer: Restorer, options: Options, lq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take images through both stages at their own size.

    Args:
        restorer: the networks; its preset enlarges no image.
        options: sampling options.
        lq: (B, H, W, 3) uint8.

    Returns:
        Stage-1 images and results, (B, H, W, 3) uint8 each.
    """
    plan = default_plan(restorer.preset, options).with_batch(TOGETHER)
    requests = [Request(image, index) for index, image in enumerate(lq)]
    outcomes = restorer.restore_many(requests, 1.0, options, plan=replace(plan, pixels=PIXELS))
    results = [outcome.all()[0] for outcome in sorted(outcomes, key=lambda outcome: outcome.position)]
    return np.stack([result.stage1 for result in results]), np.stack([result.image for result in results])


def both(losses: Validate, restored: Validate) -> Validate:
    """Return the validation with the metrics of both and the picture of the second."""

    def validate(params: Params, frozen: Params) -> tuple[dict[str, float], np.ndarray]:
        values, _ = losses(params, frozen)
        more, picture = restored(params, frozen)
        return values | more, picture

    return validate


def _bytes(images: np.ndarray) -> np.ndarray:
    """Convert (B, H, W, 3) uint8 or float32 in [0, 1] to uint8."""
    return images if images.dtype == np.uint8 else np.stack([to_depth(image, np.uint8) for image in images])


def _fidelity(images: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean PSNR and SSIM of (B, H, W, 3) uint8 images."""
    return {
        metric.__name__: float(np.mean([metric(image, hq) for image, hq in zip(images, truth)]))
        for metric in (psnr, ssim)
    }
