"""What `restore --auto` does with a photo: options of `one-step` from the estimate of its degradation, by a table.

docs/estimate.md explains the rows and has the measurements behind them. The command, the service and
`diffbir_jax.restore` decide by `decide`.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.presets import get_preset
from diffbir_jax.restoration.estimate import Estimate, estimate
from diffbir_jax.restoration.names import AUTO_VERSION
from diffbir_jax.sampling.options import Options

# A photo at its own size with no more noise than this (levels of 255), and with JPEG of at least this quality or none,
# is clean: restoring it can only take something away. Blur does not count, because stage 1 does not sharpen. Stronger
# JPEG hides noise, which then looks too weak.
CLEAN_NOISE, CLEAN_QUALITY = 1.5, 91.5
# From this scale on, a photo was enlarged: what the enlarging lacks is generated, as if it were done here.
ENLARGED = 1.7
# From this noise on, what stage 1 takes away from a photo at its own size is noise, and no texture comes back.
NOISY = 12.0
# Arguments that leave nothing to choose, or need the same choice for all photos.
NOT_AUTO = {"stage1", "stage1_only", "n_samples", "std_map", "task"}
# Arguments that ask for networks: with one of them no photo is left alone.
DECIDING = {*(each.name for each in dataclasses.fields(Options)), "lora", "fidelity_mask", "guidance_map"} - {
    *("seed", "tile", "tile_stride")
}


@dataclass(frozen=True)
class Choice:
    """What is done with a photo.

    Attributes:
        alone: the photo is left alone; the result is the photo.
        options: fields of `Options` that differ from the version's, by name; empty if it is left alone.
        why: in a few words.
        copied: the photo is left alone, and the result is its file, byte for byte.
    """

    alone: bool = False
    options: dict[str, float] = field(default_factory=dict)
    why: str = "degraded"
    copied: bool = False

    def __str__(self) -> str:
        """What is done, in words."""
        if self.alone:
            return f"left alone ({self.why})" + ("; its file is copied" if self.copied else "")
        named = ", ".join(f"{name} {value:g}" for name, value in self.options.items())
        return f"{named or 'default settings'} ({self.why})"


@dataclass(frozen=True)
class Decision:
    """What was estimated for a photo and is done with it.

    Attributes:
        choice: what is done.
        found: the estimate, or None.
        problem: why there is no estimate.
    """

    choice: Choice
    found: Estimate | None
    problem: str = ""

    def __str__(self) -> str:
        """Both in words."""
        if self.found is None:
            return f"no estimate, so it gets the usual settings: {self.problem}"
        return f"{told_as(self.found)}: {self.choice}"

    def as_record(self) -> dict[str, object]:
        """Return it in a form that JSON can hold."""
        if self.found is None:
            return {"estimate": None, "why": "no estimate"}
        return {"estimate": self.found.as_record(), **dataclasses.asdict(self.choice)}


def check_auto(version: str, given: Collection[str]) -> None:
    """Raise UserError for a version or arguments (their names) that do not go with `auto`."""
    if version != AUTO_VERSION:
        raise UserError(
            f"`auto` knows settings of `version` {AUTO_VERSION} alone, {version} is given; leave one out"
        )
    if extra := _named(NOT_AUTO & {*given}):
        raise UserError(f"`auto` chooses for each photo and knows no {extra}; leave one out")


def decide(pixels: np.ndarray, upscale: float, given: Collection[str] = ()) -> Decision:
    """Estimate how a photo was degraded and choose what is done with it.

    Args:
        pixels: (H, W, 3) RGB, as for `estimate`. A photo that is too small for an estimate gets the usual settings.
        upscale: output side / input side.
        given: names of the arguments that the user set; these win, see `kept`.
    """
    try:
        found = estimate(pixels)
    except (UserError, MemoryError) as error:
        return Decision(Choice(why="no estimate"), None, str(error) or "the memory does not suffice")
    return Decision(kept(choose(found, upscale), given), found)


def kept(choice: Choice, given: Collection[str]) -> Choice:
    """Return a choice without what the user set: that wins. A photo is not left alone if the user asks for more."""
    given = DECIDING & {*given}
    if choice.alone and given:
        return Choice(why=f"{choice.why}, but {_named(given)} given")
    return dataclasses.replace(choice, options={k: v for k, v in choice.options.items() if k not in given})


def _named(names: Collection[str]) -> str:
    """Names of arguments in a message; `console.errors.as_flags` makes flags of them."""
    return ", ".join(f"`{name}`" for name in sorted(names))


def told_as(found: Estimate) -> str:
    """Return an estimate in words."""
    quality = "no JPEG" if found.quality >= 99.5 else f"JPEG {found.quality:.0f}"
    return f"blur {found.blur:.1f}, noise {found.noise:.1f}, {quality}, scale {found.scale:.1f}"


def choose(found: Estimate, upscale: float) -> Choice:
    """Return what to do with a photo, by the first row of the table that fits:

    | photo | done |
    |---|---|
    | was enlarged (scale of 1.7 or more) | detail of the version for the upscale times the scale |
    | at its own size, without noise, JPEG of 91.5 or more | left alone |
    | at its own size, noise of 12 levels or more | texture 0 |
    | any other | the version's settings |

    Args:
        found: the estimate of the photo.
        upscale: output side / input side.
    """
    if found.scale >= ENLARGED:
        return Choice(options=more_detail(found.scale, upscale), why=f"was enlarged x{found.scale:.1f}")
    if upscale != 1.0:
        return Choice(why=f"as for any photo at upscale {upscale:g}")
    if found.noise <= CLEAN_NOISE and found.quality >= CLEAN_QUALITY:
        return Choice(alone=True, why="clean")
    if found.noise >= NOISY:
        return Choice(options={"texture": 0.0}, why="noisy")
    return Choice()


def more_detail(scale: float, upscale: float) -> dict[str, float]:
    """Return the detail that a photo lacks which was enlarged before; nothing if the upscale alone asks for it."""
    preset = get_preset(AUTO_VERSION)
    detail = preset.detail(upscale * scale)
    return {"detail": round(detail, 2)} if detail > preset.detail(upscale) else {}
