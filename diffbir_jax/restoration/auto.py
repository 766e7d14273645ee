"""What `restore --auto` does with a photo: options of `one-step` from the estimate of its degradation, by a table.

docs/estimate.md explains the rows and has the measurements behind them.
"""

from dataclasses import dataclass, field

from diffbir_jax.models.presets import get_preset
from diffbir_jax.restoration.estimate import Estimate
from diffbir_jax.restoration.names import AUTO_VERSION

# A photo at its own size with no more noise than this (levels of 255), and with JPEG of at least this quality or none,
# is clean: restoring it can only take something away. Blur does not count, because stage 1 does not sharpen. Stronger
# JPEG hides noise, which then looks too weak.
CLEAN_NOISE, CLEAN_QUALITY = 1.5, 91.5
# From this scale on, a photo was enlarged: what the enlarging lacks is generated, as if it were done here.
ENLARGED = 1.7
# From this noise on, what stage 1 takes away from a photo at its own size is noise, and no texture comes back.
NOISY = 12.0


@dataclass(frozen=True)
class Choice:
    """What is done with a photo.

    Attributes:
        alone: the photo is left alone; the result is the photo.
        options: fields of `Options` that differ from the version's, by name; empty if it is left alone.
        why: in a few words.
    """

    alone: bool = False
    options: dict[str, float] = field(default_factory=dict)
    why: str = "degraded"

    def __str__(self) -> str:
        """What is done, in words."""
        if self.alone:
            return f"left alone ({self.why})"
        named = ", ".join(f"{name} {value:g}" for name, value in self.options.items())
        return f"{named or 'default settings'} ({self.why})"


def told_as(estimate: Estimate) -> str:
    """Return an estimate in words."""
    quality = "no JPEG" if estimate.quality >= 99.5 else f"JPEG {estimate.quality:.0f}"
    return f"blur {estimate.blur:.1f}, noise {estimate.noise:.1f}, {quality}, scale {estimate.scale:.1f}"


def choose(estimate: Estimate, upscale: float) -> Choice:
    """Return what to do with a photo, by the first row of the table that fits:

    | photo | done |
    |---|---|
    | was enlarged (scale of 1.7 or more) | detail of the version for the upscale times the scale |
    | at its own size, without noise, JPEG of 91.5 or more | left alone |
    | at its own size, noise of 12 levels or more | texture 0 |
    | any other | the version's settings |

    Args:
        estimate: of the photo.
        upscale: output side / input side.
    """
    if estimate.scale >= ENLARGED:
        return Choice(options=more_detail(estimate.scale, upscale), why=f"was enlarged x{estimate.scale:.1f}")
    if upscale != 1.0:
        return Choice(why=f"as for any photo at upscale {upscale:g}")
    if estimate.noise <= CLEAN_NOISE and estimate.quality >= CLEAN_QUALITY:
        return Choice(alone=True, why="clean")
    if estimate.noise >= NOISY:
        return Choice(options={"texture": 0.0}, why="noisy")
    return Choice()


def more_detail(scale: float, upscale: float) -> dict[str, float]:
    """Return the detail that a photo lacks which was enlarged before; nothing if the upscale alone asks for it."""
    preset = get_preset(AUTO_VERSION)
    detail = preset.detail(upscale * scale)
    return {"detail": round(detail, 2)} if detail > preset.detail(upscale) else {}
