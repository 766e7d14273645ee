"""From noisy latents to predicted clean ones: network, classifier-free guidance, restoration guidance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from diffbir_jax.diffusion.schedule import Parameterization, predict_x0
from diffbir_jax.imaging.tiling import tiled
from diffbir_jax.sampling.guidance import Guidance, GuidanceInputs
from diffbir_jax.sampling.tables import Level

# (params, z_t (B, h, w, c), t (B,) float32, cond) -> output of z_t's shape. Under classifier-free guidance the entries
# of `cond` that differ between the prompts have 2 B rows, the prompts' first, and so has the output: what comes before
# they are read is computed once for both.
Model = Callable[[Any, Array, Array, Any], Array]


class DenoiserInputs(NamedTuple):
    """Everything a denoiser reads besides the noisy latents: values, so new ones do not recompile.

    Attributes:
        params: the network's parameters.
        cond: the network's condition, a dict of arrays with leading axis B.
        uncond: the entries that are others with the negative prompt; None turns classifier-free guidance off.
        guidance: of restoration guidance (`Guidance.prepare`); None without.
    """

    params: Any
    cond: Any
    uncond: Any = None
    guidance: GuidanceInputs | None = None


@dataclass(frozen=True)
class Denoiser:
    """D(z_t, t) -> x0, as predicted and as guided. Every sampler sees the network through this.

    Attributes:
        model: see `Model`.
        parameterization: what the model's output means, 'eps' or 'v'.
        guidance: restoration guidance; None for none.
    """

    model: Model
    parameterization: Parameterization
    guidance: Guidance | None = None

    def __call__(self, inputs: DenoiserInputs, x: Array, level: Level) -> tuple[Array, Array]:
        """Predict the clean latents.

        Args:
            inputs: parameters, conditions and guidance's target.
            x: (B, h, w, c) float32 noisy latents z_t = signal * x0 + noise * eps.
            level: scalars of this point on the schedule.

        Returns:
            (x0, x0 moved by restoration guidance), float32 of x's shape; the same without guidance.
        """
        output = guided_output(self.model, inputs, x, level)
        x0 = predict_x0(self.parameterization, x, output, jnp.asarray(level.signal), jnp.asarray(level.noise))
        if self.guidance is None or inputs.guidance is None:
            return x0, x0
        return x0, self.guidance(inputs.guidance, x0, jnp.asarray(level.guidance))


def guided_output(model: Model, inputs: DenoiserInputs, x: Array, level: Level) -> Array:
    """Network output under classifier-free guidance (Ho & Salimans 2022), as one forward.

    Arguments as in `Denoiser.__call__`. Returns uncond + cfg_scale * (cond - uncond), or the conditional
    output alone where `inputs.uncond` is None; of x's shape and dtype.
    """
    t = jnp.broadcast_to(jnp.asarray(level.timestep), x.shape[:1])
    if inputs.uncond is None:
        return model(inputs.params, x, t, inputs.cond).astype(x.dtype)
    both = {name: jnp.concatenate([inputs.cond[name], other]) for name, other in inputs.uncond.items()}
    cond, uncond = jnp.split(model(inputs.params, x, t, inputs.cond | both).astype(x.dtype), 2)
    return uncond + level.cfg_scale * (cond - uncond)


def tiled_model(model: Model, size: int, stride: int) -> Model:
    """Let a network see the latents in tiles: at every timestep its outputs for all tiles are blended.

    Memory is that of a tile, whatever the image. Keep the result, as with all callables of a denoiser.

    Args:
        model: its `cond` is a dict, whose "hint" (B, h, w, c) is cut like the latents; all else it gets whole.
        size: side of a tile in latent pixels, at most h and w.
        stride: from one tile to the next.
    """

    def blended(params: Any, z: Array, t: Array, cond: dict[str, Array]) -> Array:
        return tiled(
            lambda tile: model(params, tile[0], t, cond | {"hint": tile[1]}), (z, cond["hint"]), size, stride
        )

    return blended
