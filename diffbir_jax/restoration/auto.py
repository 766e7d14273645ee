"""What `restore --auto` does with a photo: options of `one-step` from the estimate of its degradation, by a table.

docs/estimate.md explains the rows and has the measurements behind them.
"""

from dataclasses import dataclass, field

from diffbir_jax.models.presets import get_preset
from diffbir_jax.restoration.estimate import Estimate
from diffbir_jax.restoration.names import AUTO_VERSION

# A photo at its own size with no more than these is clean: restoring it can only take something away.
CLEAN_BLUR, CLEAN_NOISE, CLEAN_QUALITY, CLEAN_SCALE = 0.7, 1.5, 93.0, 1.2
# From this scale on, a photo was enlarged: what the enlarging lacks is generated, as if it were done here.
ENLARGED = 1.5


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
    """Return what to do with a photo, by the table:

    | photo | done |
    |---|---|
    | clean, at its own size | left alone |
    | enlarged before (scale of 1.5 or more) | detail as for the upscale times the scale |
    | any other | the version's settings |

    Args:
        estimate: of the photo.
        upscale: output side / input side.
    """
    if upscale == 1.0 and is_clean(estimate):
        return Choice(alone=True, why="clean")
    whole = min(upscale * estimate.scale, 4.0)
    if estimate.scale >= ENLARGED:
        preset = get_preset(AUTO_VERSION)
        detail = round(preset.detail(whole), 2)
        if detail > round(preset.detail(upscale), 2):
            return Choice(options={"detail": detail}, why=f"was enlarged {estimate.scale:.1f} times")
    return Choice()


def is_clean(estimate: Estimate) -> bool:
    """Whether an estimate shows no degradation worth a change."""
    return (
        estimate.blur <= CLEAN_BLUR
        and estimate.noise <= CLEAN_NOISE
        and estimate.quality >= CLEAN_QUALITY
        and estimate.scale <= CLEAN_SCALE
    )
