"""Sides of an image and of its tiles in every stage, from the sides of the input and the result."""

from collections.abc import Sequence
from typing import NamedTuple

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.preparation import pillow_sides
from diffbir_jax.imaging.resize import at_least
from diffbir_jax.imaging.tiling import Grid, make_grid
from diffbir_jax.models.presets import Preset
from diffbir_jax.models.restoration_families import RESTORATION_FAMILIES, family_of
from diffbir_jax.restoration.plan import BATCH, FINE_FROM, STAGES, Plan, StagePlan, canvas, fitted


class Shape(NamedTuple):
    """What images must share to go through the same programs in one batch: (height, width) in pixels each.

    Attributes:
        rm: of a tile of stage 1.
        encode: of a tile of the autoencoder's first half.
        sample: of a tile of the diffusion model.
        decode: of a tile of the autoencoder's second half.
        canvas: of the canvas that images are padded to for sampling.
    """

    rm: tuple[int, int]
    encode: tuple[int, int]
    sample: tuple[int, int]
    decode: tuple[int, int]
    canvas: tuple[int, int]


class Sides(NamedTuple):
    """Sides of an image in pixels, (height, width) each.

    Attributes:
        output: of the result.
        work: in stage 2: the output's, unless that is below the preset's minimum or the upscale out of its range.
        padded: of what the networks of stage 2 see.
        lq: of stage 1's input.
        lq_padded: the same with padding.
        trained: of the result at the nearest upscale that the preset was trained for; nearly always the output's.
    """

    output: tuple[int, int]
    work: tuple[int, int]
    padded: tuple[int, int]
    lq: tuple[int, int]
    lq_padded: tuple[int, int]
    trained: tuple[int, int]


def measure(image: Sequence[int], output: tuple[int, int], preset: Preset, plan: Plan) -> tuple[Sides, Shape]:
    """Sides and shape of an image (height, width) that shall become `output`."""
    if preset.one_step is not None:
        return _measure_one_step((image[0], image[1]), output, preset, plan)
    height, width = image[:2]
    trained = _trained((height, width), output, preset)
    work = at_least(trained, preset.min_side)
    lq, multiple = _lq_sides((height, width), trained, work, preset)
    rm = [_fitted_lq(side, plan.rm.tile, multiple, preset) for side in lq]
    axes = [fitted(side, plan.sample.tile, preset.multiple) for side in work]
    padded = (axes[0][0], axes[1][0])
    sizes = {name: _tile_size(padded, getattr(plan, name).tile) for name in ("encode", "sample", "decode")}
    whole = [side if side == size else canvas(side, size) for side, size in axes]
    shape = Shape((rm[0][1], rm[1][1]), **sizes, canvas=(whole[0], whole[1]))
    return Sides(output, work, padded, lq, (rm[0][0], rm[1][0]), trained), shape


def work_sides(image: tuple[int, int], output: tuple[int, int], preset: Preset) -> tuple[int, int]:
    """Sides of what a published one-step restorer makes of an image, before padding."""
    assert preset.one_step is not None
    if preset.one_step.enlarge == "pillow":
        # From the longer side, whose rounding weighs least.
        upscale = max(output) / max(image)
        return pillow_sides(image, upscale, preset.min_side)[2]
    return at_least(output, preset.min_side)


def _measure_one_step(
    image: tuple[int, int], output: tuple[int, int], preset: Preset, plan: Plan
) -> tuple[Sides, Shape]:
    """`measure` for published one-step restorers: padded only as published, so each size has its own program."""
    work = work_sides(image, output, preset)
    height, width = (-(-side // preset.multiple) * preset.multiple for side in work)
    padded = height, width
    tiles = {name: _tile_size(padded, getattr(plan, name).tile) for name in ("encode", "sample", "decode")}
    if preset.one_step is not None and preset.one_step.square:
        tiles["sample"] = _square(padded, plan.sample.tile)
    axes = zip(padded, tiles["sample"])
    whole = [side if side == size else canvas(side, size) for side, size in axes]
    # There is no stage 1, so images of any sides may share programs there.
    shape = Shape((1, 1), **tiles, canvas=(whole[0], whole[1]))
    return Sides(output, work, padded, work, (1, 1), output), shape


def _square(sides: tuple[int, int], tile: int) -> tuple[int, int]:
    """A tile of all of a small image, else a square that is no longer than the shorter side."""
    if sides[0] * sides[1] <= tile**2:
        return sides
    side = min(tile, *sides)
    return side, side


def check_plan(plan: Plan, preset: Preset) -> None:
    """Raise ValueError unless tiles and their overlaps fall on what the networks can be cut at."""
    f = preset.vae.downsample
    steps: dict[str, tuple[int, int]] = {
        name: (preset.multiple, f) for name in ("encode", "sample", "decode")
    }
    if preset.rm is not None:
        steps["rm"] = (preset.rm.multiple, 1)
    for name, (multiple, step) in steps.items():
        tile, overlap, _ = getattr(plan, name)
        if tile < 1 or tile % multiple or not 0 <= overlap < tile or overlap % step:
            raise UserError(
                f"the plan has tiles of {tile} that overlap by {overlap} for {name}; preset {preset.name} needs "
                f"multiples of {multiple} that overlap by less, in multiples of {step}"
            )


def check_bounds(plan: Plan, preset: Preset, tiling: tuple[int, int] | None) -> None:
    """Raise UserError if a plan from a file asks for larger tiles, overlaps or batches than planners do.

    Such plans could take any memory and time.

    Args:
        plan: how images are to be cut.
        preset: the networks.
        tiling: side and stride of tiles that the options ask for, or None.
    """
    one = preset.one_step
    most = max((preset.tile, *(tiling or ()), *((one.tile, one.vae_tile) if one else ())))
    for name in STAGES:
        tile, overlap, batch = getattr(plan, name)
        asked = tiling == (tile, tile - overlap)
        if tile > most or batch > BATCH * plan.devices or (overlap > tile // 2 and not asked):
            raise UserError(
                f"the plan has tiles of {tile} that overlap by {overlap} in batches of {batch} for {name}; allowed are "
                f"tiles up to {most}, half of a tile, and {BATCH} tiles for each of {plan.devices} devices"
            )


def _fitted_lq(side: int, tile: int, multiple: int, preset: Preset) -> tuple[int, int]:
    """As `fitted`, for stage 1.

    What counts as a small side is the module's output. The published versions pad with zeros, which a restoration
    module sees as a dark border, so they get no more padding than the reference: a program per size of small images.
    """
    scale = 1 if preset.rm is None else preset.rm.scale
    if preset.padding == "constant" and scale * side < FINE_FROM and side <= tile:
        padded = min(-(-side // multiple) * multiple, tile)
        return padded, padded
    padded, size = fitted(scale * side, scale * tile, scale * multiple)
    return padded // scale, size // scale


def _trained(image: tuple[int, int], output: tuple[int, int], preset: Preset) -> tuple[int, int]:
    """Sides of the result at the upscale that both stages work at."""
    upscale = max(out / side for side, out in zip(image, output))
    if (works_at := preset.works_at(upscale)) == upscale:
        return output
    return round(image[0] * works_at), round(image[1] * works_at)


def _lq_sides(
    image: tuple[int, int], trained: tuple[int, int], work: tuple[int, int], preset: Preset
) -> tuple[tuple[int, int], int]:
    """Sides of stage 1's input, and what they are multiples of."""
    if preset.rm is None:
        return trained, 1
    if preset.rm.scale > 1:
        return image, preset.rm.multiple
    first = RESTORATION_FAMILIES[family_of(preset.rm)].enlarge_first
    return (work if first else trained), preset.rm.multiple


def _tile_size(sides: tuple[int, int], tile: int) -> tuple[int, int]:
    return min(sides[0], tile), min(sides[1], tile)


def tiles_on_canvas(shape: Shape, plan: Plan) -> int:
    """How many tiles the diffusion model sees of an image that fills its canvas."""
    return len(stage_grid(shape.canvas, shape.sample, plan.sample).starts)


def stage_grid(padded: tuple[int, int], size: tuple[int, int], plan: StagePlan) -> Grid:
    """The tiles of a padded image for a stage: whole along an axis that a tile covers."""
    # Tiles of a narrow image may be smaller than the plan's overlap; a step of theirs stays a multiple of 8.
    overlaps = [plan.overlap if plan.overlap < side else side // 16 * 8 for side in size]
    stride = [
        side if side == whole else side - overlap for side, whole, overlap in zip(size, padded, overlaps)
    ]
    return make_grid(padded, size, stride)
