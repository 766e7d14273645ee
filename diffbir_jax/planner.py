"""Which sizes of tiles and batches fit the memory, by the compiler's analysis of the programs themselves."""

from diffbir_jax.models.presets import Preset
from diffbir_jax.plan import Plan, StagePlan
from diffbir_jax.sampling.options import Options


def default_plan(preset: Preset, options: Options, devices: int = 1) -> Plan:
    """The plan that does not look at the memory: tiles of the preset's size, one per device at a time."""
    tile, stride = options.tiling or (preset.tile, preset.tile // 2)
    scale = 1 if preset.rm is None else preset.rm.scale
    side = min(tile, preset.tile)
    rm = StagePlan(side // scale, side // scale // 8, devices)
    vae = StagePlan(side, side // 4, devices)
    return Plan(rm, vae, StagePlan(tile, tile - stride, devices), vae)
