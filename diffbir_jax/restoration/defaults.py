"""The operating point (default options) of each version, as its authors chose them."""

import dataclasses
import difflib
from collections.abc import Sequence

from diffbir_jax.console.errors import UserError
from diffbir_jax.sampling.options import Options

_V2 = Options(
    steps=50, cfg_scale=4.0, neg_prompt="low quality, blurry, low-resolution, noisy, unsharp, weird textures"
)
DEFAULTS = {
    "tiny": Options(steps=10, start=0.4, guidance_scale=10.0, guidance_loss="paper", guidance_space="latent"),
    "one-step": Options(
        steps=1,
        start=0.4,
        start_noise=0.05,  # half of what it was trained with: fewer differences between seeds, and no worse
        start_point="input",
        texture=1.0,
        guidance_loss="paper",
        guidance_space="latent",
    ),
    "v1": _V2,
    "v2": _V2,
    "v2.1": Options(
        sampler="edm_dpm++_3m_sde",
        steps=10,
        cfg_scale=8.0,
        pos_prompt=(
            "Cinematic, High Contrast, highly detailed, taken using a Canon EOS R camera, hyper detailed photo - "
            "realistic maximum detail, 32k, Color Grading, ultra HD, extreme meticulous detailing, skin pore "
            "detailing, hyper sharpness, perfect without deformations."
        ),
        neg_prompt=(
            "painting, oil painting, illustration, drawing, art, sketch, oil painting, cartoon, CG Style, 3D render, "
            "unreal engine, blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg "
            "artifacts, deformed, lowres, over-smooth."
        ),
    ),
    **dict.fromkeys(("hypir", "osediff", "osediff-face", "pisa-sr"), Options(steps=1)),
    "s3diff": Options(
        steps=1,
        cfg_scale=1.07,
        pos_prompt=(
            "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."
        ),
        neg_prompt=(
            "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, oversmooth"
        ),
    ),
}


def default_options(preset: str) -> Options:
    """Return the operating point of a preset, by its name; for one without its own, `Options()`."""
    return DEFAULTS.get(preset, Options())


def options_of(preset: str, given: dict[str, object], beside: Sequence[str] = ()) -> Options:
    """Return the operating point of a preset with other values by name.

    Args:
        preset: its name.
        given: values by the names of fields of `Options`.
        beside: other names that a caller may have meant.

    Raises:
        UserError: an unknown name, or a value out of range.
    """
    names = [field.name for field in dataclasses.fields(Options)]
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, [*beside, *names], 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join([*beside, *names])}"
            raise UserError(f"there is no option {name!r}; {hint}")
    return dataclasses.replace(default_options(preset), **given)
