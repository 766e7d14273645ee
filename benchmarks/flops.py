"""FLOPs of restoring one image to 512x512, by version and stage: python -m benchmarks.flops.

Programs are traced without weights or data, and their products counted (`training/flops.py`). Text is left out: it is
computed once per prompt.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffbir_jax.conversion.abstract import abstract_unet, abstract_vae
from diffbir_jax.models.presets import PRESETS, Preset
from diffbir_jax.restoration import executor as execution
from diffbir_jax.restoration.compiled import Programs, _bound
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.generator import Generator
from diffbir_jax.restoration.geometry import measure
from diffbir_jax.restoration.planner import abstract_calls, default_plan, stages_of
from diffbir_jax.restoration.results import Wanted
from diffbir_jax.training.flops import count
from diffbir_jax.weights.loading import abstract_params
from diffbir_jax.weights.safetensors import flatten, unflatten

SIDE, UPSCALE = 512, 4
VERSIONS = ("v2", "v2.1", "hypir", "osediff", "pisa-sr", "s3diff")


def flops(version: str) -> dict[str, int]:
    """Return FLOPs by stage."""
    preset, options = PRESETS[version], default_options(version)
    params: dict[str, Any] = abstract_params(preset, [name for name in preset.modules if name != "lora"])
    params |= {"lora": loras(preset)} if "lora" in preset.modules else {}
    context = jnp.zeros((1, 77, 1024)), jnp.zeros((1, 77, 1024))
    generator = Generator(preset, params)
    wanted = Wanted(options, keep=False, context=context)
    executor = Executor(generator, Programs(), default_plan(preset, options), wanted)
    image = (SIDE // UPSCALE, SIDE // UPSCALE), (SIDE, SIDE)
    _, shape = measure(*image, preset, executor.plan)
    found = {}
    for stage in stages_of(executor, [image]):
        function, args, static = abstract_calls(executor, stage, shape)[0]
        found[stage] = _count(function, args, static)
    return found


def _count(function: Any, args: tuple[Any, ...], static: dict[str, Any]) -> int:
    return count(jax.make_jaxpr(lambda *given: function(*_bound(function, given, static)))(*args)).total


def loras(preset: Preset) -> dict[str, Any]:
    """Return shapes of the LoRAs beside a preset's networks, as published."""
    assert preset.one_step is not None
    modulation = preset.one_step.modulation
    if modulation is None:
        return {"unet": lora(abstract_unet(preset.unet), 4, lambda path: "time" not in path)}
    unet = lora(
        abstract_unet(preset.unet), modulation.unet_rank, lambda path: not re.search("time|conv_in", path)
    )
    encoder = lora(abstract_vae(preset.vae), modulation.vae_rank, lambda path: path.startswith("encoder/"))
    return {"unet": unet, "vae": encoder}


def lora(network: dict[str, Any], rank: int, adapts: Callable[[str], bool]) -> dict[str, Any]:
    """Return shapes of a LoRA on the kernels of a network whose paths are adapted."""
    factors: dict[str, Any] = {}
    for path, kernel in flatten(network).items():
        layer = path.removesuffix("/kernel")
        if layer != path and adapts(path):
            sizes = {"a": (*kernel.shape[:-1], rank), "b": (rank, kernel.shape[-1]), "alpha": ()}
            factors |= {f"{layer}/{name}": jax.ShapeDtypeStruct(x, jnp.float32) for name, x in sizes.items()}
    return unflatten(factors)


def main() -> None:
    """Print the table."""
    execution.STAGED = 1  # one tile per call
    whole: dict[str, float] = {}
    for version in VERSIONS:
        found = flops(version)
        whole[version] = sum(found.values())
        stages = ", ".join(f"{name} {value / 1e12:.2f}" for name, value in found.items())
        ratio = whole["v2"] / whole[version]
        print(f"{version:9} {whole[version] / 1e12:7.2f} TFLOP  1/{ratio:.1f} of v2  ({stages})", flush=True)


if __name__ == "__main__":
    main()
