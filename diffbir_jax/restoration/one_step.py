"""Published one-step restorers in the pipeline: preparation of inputs, their model, and the colours of results."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.diffusion.schedule import Schedule
from diffbir_jax.imaging.canvas import from_depth, resize_float
from diffbir_jax.imaging.colour import adain_colour, host_wavelet_colour
from diffbir_jax.imaging.preparation import by_bicubic, by_bilinear, by_pillow
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.lora import adapted
from diffbir_jax.models.modulation import matrices_of, unet_part, vae_part
from diffbir_jax.models.one_step import OneStep
from diffbir_jax.models.presets import Preset
from diffbir_jax.sampling.onestep import blended_prediction, one_step
from diffbir_jax.sampling.options import NOT_ONE_STEP, ONE_STEP_ONLY, Options
from diffbir_jax.sampling.tables import LinearStep

# Which passes of the UNet PiSA-SR's sliders ask for: with both LoRAs, with the first, or with each.
Passes = Literal["both", "pixel", "each"]
PARTS = {"unet": unet_part, "vae": vae_part}
run = jax.jit(apply, static_argnums=0)


def check(preset: Preset, options: Options) -> None:
    """Raise UserError for options that mean nothing to a preset: one-step restorers have no sampler."""
    usual = Options(steps=1)
    names = ONE_STEP_ONLY if preset.one_step is None else NOT_ONE_STEP
    changed = [name for name in names if getattr(options, name) != getattr(usual, name)]
    if preset.one_step is not None and not preset.one_step.sliders:
        changed += [name for name in ("pixel", "semantic") if getattr(options, name) is not None]
    if preset.one_step is not None and preset.one_step.coefficient is None and options.coeff_t is not None:
        changed += ["coeff_t"]
    if changed:
        listed = ", ".join(f"`{name}`" for name in changed)
        raise UserError(f"version {preset.name} has no {listed}; leave that out, or take another version")


def prepare(
    preset: Preset, image: np.ndarray, upscale: float, output: tuple[int, int], work: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Enlarge an input as a restorer does.

    Args:
        preset: with a `one_step`.
        image: (H, W, 3) uint8, uint16 or float32.
        upscale: output side / input side.
        output: sides of the result.
        work: sides of what the networks see, without padding.

    Returns:
        (*work, 3) float32 in about [0, 1]; and the same with the result's sides, if colours come from that.
    """
    method = preset.one_step
    assert method is not None
    if method.enlarge == "pillow":
        found = from_depth(by_pillow(image, max(output) / max(image.shape[:2]), preset.min_side))
        return found, None
    enlarged = {"bicubic": by_bicubic, "bilinear": by_bilinear}[method.enlarge](image, output, upscale)
    return (enlarged, None) if work == output else (resize_float(enlarged, work), enlarged)


def finish(
    method: OneStep,
    image: np.ndarray,
    clean: np.ndarray,
    reference: np.ndarray | None,
    output: tuple[int, int],
) -> np.ndarray:
    """Give a decoded image the result's sides and the input's colours.

    Args:
        method: the restorer.
        image: (*work, 3) float32, decoded.
        clean: (*work, 3), what the networks saw.
        reference: the input with the result's sides; None: colours come from `clean`, before resizing.
        output: sides of the result.

    Returns:
        (*output, 3) float32 in about [0, 1].
    """
    image = image.clip(0.0, 1.0) if method.clip else image
    if reference is not None:
        return _coloured(method, resize_float(image, output), reference)
    return resize_float(_coloured(method, image, clean), output)


def _coloured(method: OneStep, image: np.ndarray, style: np.ndarray) -> np.ndarray:
    correct = adain_colour if method.colour == "adain" else host_wavelet_colour
    return correct(image, np.asarray(style, np.float32))


def steps(preset: Preset, schedule: Schedule, options: Options, guidance_scale: float) -> LinearStep:
    """Return the sampler's table; `guidance_scale` is that of the images' sides."""
    method = preset.one_step
    assert method is not None
    told = method.timestep if options.model_t is None else options.model_t
    coefficient = method.coefficient if options.coeff_t is None else options.coeff_t
    return one_step(
        schedule,
        told,
        coefficient,
        cfg_scale=options.cfg_scale,
        guidance_scale=guidance_scale,
        guidance_window=(options.guidance_stop, options.guidance_start),
    )


def passes(preset: Preset, options: Options) -> Passes:
    """Return which passes of the UNet the sliders ask for."""
    pixel, semantic = sliders(options)
    if preset.one_step is None or not preset.one_step.sliders or pixel == semantic == 1.0:
        return "both"
    return "pixel" if semantic == 0.0 else "each"


def sliders(options: Options) -> tuple[float, float]:
    """Return PiSA-SR's sliders, pixel and semantic; 1 if they are not given."""
    pixel, semantic = (1.0 if x is None else x for x in (options.pixel, options.semantic))
    return pixel, semantic


@dataclass(frozen=True)
class OneStepUNet:
    """The UNet of a one-step restorer with its LoRA, as a `denoiser.Model`; equal by value."""

    preset: Preset
    dtype: DTypeLike
    passes: Passes = "both"

    def __call__(self, params: dict[str, Params], z: Array, t: Array, cond: dict[str, Array]) -> Array:
        """(B, h, w, c) latents at timesteps (B,) -> the prediction.

        `cond` has "context"; for LoRAs that depend on the image also "degrees" (B, n); for sliders also "pixel" and
        "semantic" (B,).
        """
        if self.passes == "both":
            return self._adapted(params, z, t, cond)
        pixel = self._plain(params, z, t, cond)
        both = self._adapted(params, z, t, cond) if self.passes == "each" else pixel
        rows = len(pixel) // len(z)
        strengths = (jnp.repeat(cond[name], rows)[:, None, None, None] for name in ("pixel", "semantic"))
        return blended_prediction(pixel, both, *strengths)

    def _plain(self, params: dict[str, Params], z: Array, t: Array, cond: dict[str, Array]) -> Array:
        return apply(self.preset.make_unet(self.dtype), params["unet"], z, t, cond.get("context"))

    def _adapted(self, params: dict[str, Params], z: Array, t: Array, cond: dict[str, Array]) -> Array:
        with beside(self.preset, params, "unet", cond.get("degrees")):
            return self._plain(params, z, t, cond)


@contextmanager
def beside(
    preset: Preset, params: dict[str, Params], network: Literal["unet", "vae"], degrees: Array | None
) -> Iterator[None]:
    """Within this context, a network has the LoRA that the preset keeps beside its kernels, if any.

    Args:
        preset: any.
        params: "lora" and "modulation", if the preset has them.
        network: which network.
        degrees: (B, n) of the images' degradation, for LoRAs that depend on it.
    """
    lora = params.get("lora", {}).get(network)
    if lora is None:
        yield
        return
    matrices = None
    if degrees is not None:
        matrices = apply(preset.make_modulation(), params["modulation"], degrees)[network]
    part = PARTS[network]
    with adapted(lora, 1.0, lambda path: None if matrices is None else matrices_of(matrices, part(path))):
        yield
