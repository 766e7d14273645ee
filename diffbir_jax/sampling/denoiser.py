"""From noisy latents to predicted clean ones: network, classifier-free guidance, restoration guidance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jax.sharding import Sharding

from diffbir_jax.diffusion.schedule import Parameterization, predict_x0
from diffbir_jax.files.trees import Params, Tree
from diffbir_jax.imaging.tiling import blend
from diffbir_jax.sampling.guidance import Guidance, GuidanceInputs
from diffbir_jax.sampling.known import Known, KnownInputs
from diffbir_jax.sampling.tables import Level

# (params, z_t (B, h, w, c), t (B,) float32, cond) -> output of z_t's shape. Under classifier-free guidance,
# prompt-dependent entries of `cond` have 2B rows, interleaved (cond, uncond) per image, and so has the output. What
# comes before the network reads them is computed once for both, and a batch that is split over devices stays there.
Model = Callable[[Params, Array, Array, dict[str, Tree]], Array]


class DenoiserInputs(NamedTuple):
    """The inputs of a denoiser besides the noisy latents. They are values, so new ones do not recompile.

    Attributes:
        params: the network's parameters.
        cond: the network's condition, a dict of arrays with leading axis B.
        uncond: the entries that differ for the negative prompt; None turns classifier-free guidance off.
        guidance: inputs of restoration guidance (made by `prepare` of the guidance); None without guidance.
        known: what the images say about a known degradation; None: it is not known.
    """

    params: Params
    cond: dict[str, Tree]
    uncond: dict[str, Tree] | None = None
    guidance: GuidanceInputs | None = None
    known: KnownInputs | None = None


@dataclass(frozen=True)
class Denoiser:
    """D(z_t, t) -> x0, predicted and guided. Every sampler calls the network through this.

    Attributes:
        model: see `Model`.
        parameterization: the kind of the model's output, 'eps' or 'v'.
        guidance: restoration guidance; None for none.
        known: correction for a known degradation, after guidance; None for none.
    """

    model: Model
    parameterization: Parameterization
    guidance: Guidance | None = None
    known: Known | None = None

    def __call__(self, inputs: DenoiserInputs, x: Array, level: Level) -> tuple[Array, Array]:
        """Predict the clean latents.

        Args:
            inputs: parameters, conditions and guidance's target.
            x: (B, h, w, c) float32 noisy latents z_t = signal * x0 + noise * eps.
            level: scalars of this point on the schedule.

        Returns:
            (x0, x0 moved by guidance and a known degradation), float32 of x's shape; the same without both.
        """
        output = guided_output(self.model, inputs, x, level)
        x0 = predict_x0(self.parameterization, x, output, jnp.asarray(level.signal), jnp.asarray(level.noise))
        moved = x0
        if self.guidance is not None and inputs.guidance is not None:
            moved = self.guidance(inputs.guidance, x0, jnp.asarray(level.guidance))
        if self.known is not None and inputs.known is not None:
            moved = self.known(inputs.known, moved, level)
        return x0, moved


def guided_output(model: Model, inputs: DenoiserInputs, x: Array, level: Level) -> Array:
    """Network output under classifier-free guidance (Ho & Salimans 2022), as one forward.

    Arguments as in `Denoiser.__call__`. Returns uncond + cfg_scale * (cond - uncond), or the conditional
    output alone if `inputs.uncond` is None; of x's shape and dtype.
    """
    t = jnp.broadcast_to(jnp.asarray(level.timestep), x.shape[:1])
    if inputs.uncond is None:
        return model(inputs.params, x, t, inputs.cond).astype(x.dtype)
    both = {name: _paired(inputs.cond[name], other) for name, other in inputs.uncond.items()}
    # One forward for both prompts: layers before the first cross-attention are computed once.
    output = model(inputs.params, x, t, inputs.cond | both).astype(x.dtype)
    cond, uncond = rearrange(output, "(b prompts) ... -> prompts b ...", prompts=2)
    return uncond + level.cfg_scale * (cond - uncond)


@dataclass(frozen=True)
class TiledModel:
    """Let a network see the latents in tiles: at every timestep its outputs for all tiles are blended.

    It needs the memory of one batch of tiles, for any image size. Tiles of several images share a batch.

    Attributes:
        model: the network. Its `cond` is a dict. "hint" (B, h, w, c) is cut like the latents. "tiles" is a
            `tiling.Tiles`, the positions of the tiles; only `TiledModel` reads it. Of all other entries, a tile gets
            its image's row unchanged.
        size: height and width of a tile in latent pixels.
        batch: number of tiles in one call of the network.
        spread: placement of a batch on the devices; None leaves it to the compiler.
    """

    model: Model
    size: tuple[int, int]
    batch: int = 1
    spread: Sharding | None = None

    def __call__(self, params: Params, z: Array, t: Array, cond: dict[str, Tree]) -> Array:
        """As `Model`."""
        whole = {name: values for name, values in cond.items() if name not in ("hint", "tiles")}

        def on_tiles(parts: tuple[Array, Array], image: Array) -> Array:
            if self.spread is not None:
                parts = jax.lax.with_sharding_constraint(parts, self.spread)
            rows = {name: _rows(values, image, len(z)) for name, values in whole.items()}
            out = self.model(params, parts[0], t[image], rows | {"hint": parts[1]})
            # Put both prompts' outputs into the channels, so that one blend handles both.
            return rearrange(out, "(b prompts) h w c -> b h w (prompts c)", b=self.batch)

        out = blend(on_tiles, (z, cond["hint"]), cond["tiles"], self.size, self.batch)
        return rearrange(out, "b h w (prompts c) -> (b prompts) h w c", c=z.shape[-1])


def _paired(cond: Array, uncond: Array) -> Array:
    """Interleave (B, ...) of both prompts to (2 B, ...): cond and uncond of an image are neighbours."""
    return rearrange([cond, uncond], "prompts b ... -> (b prompts) ...")


def _rows(values: Array, image: Array, batch: int) -> Array:
    """Select the rows of `image` from (B, ...), or their pairs of rows from (2 B, ...)."""
    pairs = rearrange(values, "(b prompts) ... -> b prompts ...", b=batch)[image]
    return rearrange(pairs, "b prompts ... -> (b prompts) ...")
