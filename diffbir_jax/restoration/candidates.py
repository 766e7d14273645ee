"""The plans that may be taken for a preset: tiles and batches, before anyone looks at the memory."""

from collections.abc import Iterator
from dataclasses import replace

from diffbir_jax.models.one_step import OneStep
from diffbir_jax.models.platform import target_platform
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration.plan import BATCH, Plan, StagePlan
from diffbir_jax.sampling.options import Options

# Tile sizes to try, as shares of the preset's tile.
SHARES = (1.0, 0.75, 0.5, 0.375, 0.25)
# Most tiles in a batch per device, and pixels of a batch that keep a device busy (docs/large.md has measurements).
MOST, PIXELS = {"cpu": 4}, {"cpu": 2**17}


def default_plan(preset: Preset, options: Options, devices: int = 1) -> Plan:
    """The plan that ignores the memory: tiles of the preset's or the options' size, one per device."""
    if preset.one_step is not None:
        return _one_step_plan(preset.one_step, options, preset.one_step.vae_tile, devices)
    tile, stride = options.tiling or (preset.tile, preset.tile // 2)
    return _plan(preset, tile, stride, min(tile, preset.tile), devices)


def _one_step_plan(one_step: OneStep, options: Options, side: int, devices: int) -> Plan:
    """A plan with the published tiles, except that those of the autoencoder have `side`."""
    tile, stride = options.tiling or (one_step.tile, one_step.tile - one_step.overlap)
    # A restorer with tiles of one size in all stages keeps it so.
    side = tile if one_step.own_norms else side
    overlap = tile - stride if one_step.own_norms else min(one_step.vae_overlap, side // 8)
    vae, pixels = StagePlan(side, overlap, devices), PIXELS.get(target_platform(), 2**20)
    return Plan(
        StagePlan(1, 0, devices),
        vae,
        StagePlan(tile, tile - stride, devices),
        vae,
        devices=devices,
        pixels=pixels,
    )


def _plan(preset: Preset, tile: int, stride: int, side: int, devices: int) -> Plan:
    """A plan for diffusion tiles `stride` apart, and tiles of `side` in the other stages."""
    scale, multiple = (1, 1) if preset.rm is None else (preset.rm.scale, preset.rm.multiple)
    vae = StagePlan(side, side // 8, devices)
    lq = max(multiple, side // scale // multiple * multiple)
    rm = StagePlan(lq, lq // 8, devices)
    pixels = PIXELS.get(target_platform(), 2**20)
    return Plan(rm, vae, StagePlan(tile, tile - stride, devices), vae, devices=devices, pixels=pixels)


def candidates(preset: Preset, options: Options, devices: int, many: bool) -> Iterator[Plan]:
    """Plans from the fastest to the one that takes least memory; only `many` images try larger batches."""
    for share in SHARES:
        if preset.one_step is not None:
            plan = _one_step_plan(preset.one_step, options, int(preset.one_step.vae_tile * share), devices)
            if share < 1.0 and preset.one_step.own_norms:
                return
        else:
            side = int(preset.tile * share) // 64 * 64
            if side < max(64, preset.min_side):
                return
            tile, stride = options.tiling or (side, side // 2)
            plan = _plan(preset, tile, stride, min(tile, side), devices)
        guided = bool(options.guidance_scale) and options.guidance_space == "rgb"
        guided |= options.operator is not None and options.operator_method == "gradient"
        for remat in (False, True) if guided else (True,):
            if many and share == SHARES[0]:
                yield replace(plan.with_batch(MOST.get(target_platform(), BATCH) * devices), remat=remat)
            yield replace(plan, remat=remat)
