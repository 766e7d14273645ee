"""FLOPs and memory of restoring one image to 512x512, by version and stage: python -m benchmarks.flops [--memory].

Programs are traced without weights or data, and their products counted (`training/flops.py`). Text is left out: it is
computed once per prompt. With --memory the programs are compiled, which takes minutes for each version, and the planner
says what each stage takes beside the weights.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffbir_jax.conversion.abstract import abstract_unet, abstract_vae
from diffbir_jax.models.presets import PRESETS, Preset
from diffbir_jax.restoration import executor as execution
from diffbir_jax.restoration.candidates import default_plan
from diffbir_jax.restoration.compiled import Programs, _bound
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.generator import Context, Generator
from diffbir_jax.restoration.geometry import measure
from diffbir_jax.restoration.planner import abstract_calls, analyse, size_of, stages_of
from diffbir_jax.restoration.results import Wanted
from diffbir_jax.training.flops import count
from diffbir_jax.weights.loading import PRECISIONS, abstract_params, stored
from diffbir_jax.weights.safetensors import flatten, unflatten

SIDE, UPSCALE = 512, 4
VERSIONS = ("v2", "v2.1", "hypir", "osediff", "pisa-sr", "s3diff")


IMAGE = (SIDE // UPSCALE, SIDE // UPSCALE), (SIDE, SIDE)


def flops(version: str) -> dict[str, int]:
    """Return FLOPs by stage."""
    executor = executor_of(version)
    _, shape = measure(*IMAGE, executor.preset, executor.plan)
    found = {}
    for stage in stages_of(executor, [IMAGE]):
        function, args, static = abstract_calls(executor, stage, shape)[0]
        found[stage] = _count(function, args, static)
    return found


def memory(version: str) -> tuple[int, dict[str, int]]:
    """Return bytes of the weights in float32, and of each stage's program beside them, by the planner."""
    executor = executor_of(version)
    _, shape = measure(*IMAGE, executor.preset, executor.plan)
    weights = size_of(jax.tree.leaves(executor.params))
    return weights, {stage: analyse(executor, stage, shape) for stage in stages_of(executor, [IMAGE])}


def executor_of(version: str) -> Executor:
    """Return what carries out the default plan of a version, with the shapes of its networks."""
    generator, options = abstract_generator(version), default_options(version)
    wanted = Wanted(options, keep=False, context=empty_context(generator.preset))
    return Executor(generator, Programs(), default_plan(generator.preset, options), wanted)


def abstract_generator(version: str, precision: str = "fp32") -> Generator:
    """Return the networks of a version as shapes; `precision` is a key of `PRECISIONS`."""
    preset, dtype = PRESETS[version], PRECISIONS[precision]
    params: dict[str, Any] = abstract_params(preset, [name for name in preset.modules if name != "lora"])
    params |= {"lora": loras(preset)} if "lora" in preset.modules else {}
    params = jax.eval_shape(lambda params: stored(params, dtype), params)
    return Generator(preset, params, dtype)


def empty_context(preset: Preset) -> Context | None:
    """Return text embeddings of zeros for both prompts, None for networks that read no text."""
    if preset.unet.context_dim is None:
        return None
    return jnp.zeros((1, 77, preset.unet.context_dim)), jnp.zeros((1, 77, preset.unet.context_dim))


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS)
    parser.add_argument(
        "--memory", action="store_true", help="compile, and print bytes instead of operations"
    )
    args = parser.parse_args()
    execution.STAGED = 1  # one tile per call
    if args.memory:
        print_memory(args.versions)
        return
    whole: dict[str, float] = {}
    for version in dict.fromkeys((VERSIONS[0], *args.versions)):
        found = flops(version)
        whole[version] = sum(found.values())
        stages = ", ".join(f"{name} {value / 1e12:.2f}" for name, value in found.items())
        ratio = whole["v2"] / whole[version]
        print(f"{version:9} {whole[version] / 1e12:7.2f} TFLOP  1/{ratio:.1f} of v2  ({stages})", flush=True)


def print_memory(versions: Sequence[str]) -> None:
    """Print what each version takes."""
    for version in versions:
        weights, stages = memory(version)
        listed = ", ".join(f"{name} {taken / 2**30:.2f}" for name, taken in stages.items())
        whole = weights + max(stages.values())
        print(f"{version:9} {whole / 2**30:6.2f} GiB: weights {weights / 2**30:.2f}, {listed}", flush=True)


if __name__ == "__main__":
    main()
