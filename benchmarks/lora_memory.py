"""Memory of fine-tuning a LoRA at full size, without compiling: python -m benchmarks.lora_memory.

Two parts of it are exact: what a step holds (factors, their EMA and moments, the frozen networks), and what the forward
pass saves for the backward pass. What a block takes while it is computed comes on top; only a compiler knows that
(`python -m benchmarks.tpu_aot --program lora`).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

# Public JAX only prints them.
from jax._src.ad_checkpoint import saved_residuals

from benchmarks.pod_programs import lora_loss, lora_step
from diffbir_jax.models.apply import Params
from diffbir_jax.models.platform import tracing_for
from diffbir_jax.models.presets import Preset, get_preset
from diffbir_jax.sharding import make_mesh

GIB = 2**30


def held(preset: Preset) -> dict[str, int]:
    """Return bytes of what a step holds: the state of the factors, and the frozen networks."""
    state, frozen, _ = lora_step(preset, make_mesh(devices=jax.devices()[:1]), 1, remat=True).arguments
    return {"factors": _size((state.params, state.ema, state.opt_state)), "networks": _size(frozen)}


def saved(preset: Preset, remat: bool) -> int:
    """Return bytes that the forward pass of one image saves, arguments not counted."""
    mesh = make_mesh(devices=jax.devices()[:1])
    state, frozen, batch = lora_step(preset, mesh, 1, remat).arguments
    loss = lora_loss(preset, remat)

    def value(params: Params, frozen: Params, batch: dict[str, jax.Array]) -> jax.Array:
        return loss(params, frozen, batch, jax.random.key(0))[0]

    with tracing_for("tpu"):
        found = saved_residuals(value, state.params, frozen, batch)
    return sum(_bytes(kept) for kept, source in found if "argument" not in source)


def _size(tree: Any) -> int:
    return sum(map(_bytes, jax.tree.leaves(tree)))


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize


def main() -> None:
    """Print the numbers of v2.1."""
    preset = get_preset("v2.1")
    print(", ".join(f"{name} {taken / GIB:.2f} GiB" for name, taken in held(preset).items()), flush=True)
    for remat in (True, False):
        print(f"saved with remat={remat}: {saved(preset, remat) / GIB:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
