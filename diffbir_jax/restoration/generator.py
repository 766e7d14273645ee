"""Stage 2 of a preset: text, latents, guidance and sampling around the diffusion model."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from diffbir_jax.console.errors import UserError
from diffbir_jax.diffusion.schedule import make_schedule, q_sample
from diffbir_jax.imaging.tiling import make_grid
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.controlnet import ConditionEncoder
from diffbir_jax.models.layers import repeat_batch
from diffbir_jax.models.presets import Preset
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs, tiled_model
from diffbir_jax.sampling.guidance import Guidance, GuidanceInputs, Loss, Space
from diffbir_jax.sampling.layout import Conditioned, Layout, make_layout
from diffbir_jax.sampling.loop import draw_noise, image_keys, sample
from diffbir_jax.sampling.options import TIMESTEPS, Options
from diffbir_jax.sampling.samplers import make_sampler
from diffbir_jax.sampling.tables import LinearStep
from diffbir_jax.sampling.timesteps import Span
from diffbir_jax.text.tokenizer import tokenize

# Text embeddings (B or 1, tokens, C) of the prompts and of the negative prompts.
Context = tuple[jax.Array, jax.Array]
# The guidance loss is a mean over pixels, so its gradient shrinks as images grow: scales are stated for this many.
GUIDANCE_AREA = 512 * 512
# Samplers that use the slope at the far end of a step or in its middle.
SLOPE_METHODS = ("edm_heun", "edm_dpm_2", "edm_dpm_2_a")
# Number of the draw that noises the condition; the sampler's are counted from 0.
AUGMENTATION_DRAW = 2**31


class Generator:
    """The networks of a preset with their parameters, as far as they regenerate detail."""

    def __init__(self, preset: Preset, params: dict[str, Params], dtype: Any = jnp.float32):
        """Take `params` by module name (the preset's `modules`); networks compute in `dtype`.

        Accelerators multiply float32 in fewer bits unless the option jax_default_matmul_precision is "highest".
        Each part needs its own modules only: `reconstruct` the "vae". With an entry "condition", parameters of the
        preset's `ConditionEncoder`, the control sees what that makes of the stage-1 images, and all else their latents.
        """
        self.preset, self.params, self.dtype = preset, params, dtype
        self._embeddings: dict[str, jax.Array] = {}
        self.schedule = make_schedule(
            zero_terminal_snr=preset.zero_terminal_snr,
            parameterization=preset.parameterization,
            num_timesteps=TIMESTEPS,
        )

    @property
    def encoder(self) -> ConditionEncoder | None:
        """What the control sees stage-1 images through, if that was trained with it; None: the autoencoder."""
        return self.preset.make_condition(self.dtype) if "condition" in self.params else None

    def check(self, options: Options, context: Context | None = None) -> None:
        """Raise ValueError unless the preset can sample with these options and text; warn of what will not do well."""
        name, text = self.preset.name, self.preset.unet.context_dim is not None
        if self._multiplies_errors(options):
            warnings.warn(
                f"{options.sampler} with {options.spacing} spacing begins at a noise level of 10,000 and multiplies "
                f"the first errors of preset {name}: choose --spacing karras, or another sampler",
                stacklevel=2,
            )
        if text and context is None and self.preset.text is None:
            raise UserError(
                f"preset {name} needs text and has no text encoder: pass embeddings as `context` to Restorer.restore"
            )
        prompts = options.pos_prompt or options.neg_prompt
        if not text and (context is not None or options.cfg_scale != 1.0 or prompts):
            raise UserError(
                f"preset {name} knows no text: leave out prompts and `context`, and keep cfg_scale at 1"
            )

    def _multiplies_errors(self, options: Options) -> bool:
        """Whether the first step is one that docs/sampling.md warns of."""
        if options.start < 1.0 or not options.sampler.startswith("edm"):
            return False
        if self.preset.parameterization == "eps":
            return options.spacing == "uniform"
        return options.sampler in SLOPE_METHODS and options.spacing in ("uniform", "trailing")

    def stage2(
        self,
        clean: jax.Array,
        options: Options,
        indices: Sequence[int] | None = None,
        context: Context | None = None,
        noise: jax.Array | None = None,
        mask: jax.Array | None = None,
        variant: int = 0,
    ) -> jax.Array:
        """Regenerate detail.

        Args:
            clean: (B, H, W, 3) in about [0, 1], the stage-1 images.
            options: how to sample.
            indices: index of each image within the run, what its noise depends on; by default 0 to B - 1.
            context: text embeddings (B or 1, tokens, C) of the prompts and the negative prompts, instead of the
                options' prompts.
            noise: (1 + calls, B, h, w, c) to use instead of drawing any: the start's, then one per call of the network.
            mask: (B or 1, H, W, 1), at least 0, a factor on the guidance weight; None is 1 everywhere.
            variant: another number draws other noise, for another result from the same images.

        Returns:
            (B, H, W, 3) float32 in about [-1, 1].

        Raises:
            ValueError: the preset cannot use the options or the text, or `indices`, `noise` or `mask` do not fit.
        """
        self.check(options, context)
        batch, height, width, _ = clean.shape
        indices = range(batch) if indices is None else indices
        if len(indices) != batch:
            raise ValueError(f"{len(indices)} indices given for {batch} images; give one each")
        if context is None and self.preset.text is not None:
            context = self.embed(options.pos_prompt), self.embed(options.neg_prompt)
        if mask is not None and mask.shape[1:] != (height, width, 1):
            raise ValueError(f"mask is {mask.shape}; these images need {(1, height, width, 1)}")
        mask = None if mask is None else self._pad(mask)
        keys = image_keys(options.seed, indices, variant)
        target = 2.0 * self._pad(clean) - 1.0
        z = sample(*self.sampling(target, options, keys, context, noise, mask))
        return self._decode(z)[:, :height, :width]

    def embed(self, prompt: str) -> jax.Array:
        """Return the text embedding (1, tokens, C) of a prompt, float32; computed once per prompt."""
        if prompt not in self._embeddings:
            tokens = jnp.asarray(tokenize([prompt]))
            self._embeddings[prompt] = apply_jit(
                self.preset.make_text(self.dtype), self.params["text"], tokens
            )
        return self._embeddings[prompt]

    def reconstruct(self, clean: jax.Array) -> jax.Array:
        """Pass (B, H, W, 3) images in [0, 1] through the autoencoder; returns float32 in about [-1, 1]."""
        z = self._encode(2.0 * self._pad(clean) - 1.0)
        return self._decode(z)[:, : clean.shape[1], : clean.shape[2]]

    def fidelity(self, clean: jax.Array, options: Options, mask: jax.Array | None = None) -> jax.Array:
        """W (B, H, W, 1): how far guidance holds the pixels of (B, H, W, 3) stage-1 images in [0, 1]; see `stage2`."""
        height, width = clean.shape[1:3]
        mask = None if mask is None else self._pad(mask)
        guidance = Guidance(None, options.guidance_loss)
        return guidance.fidelity(2.0 * self._pad(clean) - 1.0, mask)[:, :height, :width]

    def sampling(
        self,
        target: jax.Array,
        options: Options,
        keys: jax.Array,
        context: Context | None = None,
        noise: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[Denoiser, DenoiserInputs, jax.Array, LinearStep, jax.Array]:
        """What `loop.sample` is to be called with, which returns the latents of a result.

        Args:
            target: (B, H, W, 3) in [-1, 1], stage-1 images padded to the preset's multiple.
            keys: (B,), see `image_keys`.
            options, context, noise, mask: as in `stage2`.

        Raises:
            ValueError: `noise` does not fit.
        """
        condition = self._encode(target)
        weight = guidance_weight(options.guidance_loss, options.guidance_space, target, condition, mask)
        given = Conditioned(
            condition, weight, target, self._layout(options, target.shape), self._seen(target)
        )
        return self.steered(given, options, keys, context, noise)

    def steered(
        self,
        given: Conditioned,
        options: Options,
        keys: jax.Array,
        context: Context | None = None,
        noise: jax.Array | None = None,
        remat: bool = True,
        spread: Sharding | None = None,
    ) -> tuple[Denoiser, DenoiserInputs, jax.Array, LinearStep, jax.Array]:
        """`sampling` from latents on.

        Args:
            given: what steers it.
            options, keys, context, noise: as in `sampling`.
            remat: recompute the decoder's blocks in the backward pass of guidance, which takes less memory.
            spread: how a batch of tiles lies on the devices.

        Raises:
            ValueError: `noise` does not fit, or there is a "condition" and no hint from it.
        """
        condition, f = given.latent, self.preset.vae.downsample
        steps = self._steps(options, (condition.shape[1] * f, condition.shape[2] * f))
        shape = (1 + len(steps.variance), *condition.shape)
        if noise is not None and noise.shape != shape:
            raise ValueError(f"noise is {noise.shape}; these images and steps need {shape}")
        x = draw_noise(keys, 0, condition.shape) if noise is None else noise[0]
        if options.start < 1.0 or options.start_point == "cond":
            x = self._noised(condition, options.timesteps - 1, options.start_noise * x)
        loss = options.guidance_loss if options.guidance_scale else None
        tiled = None if given.layout is None else (given.layout.size, given.layout.batch)
        denoiser = _denoiser(self.preset, self.dtype, loss, options.guidance_space, tiled, remat, spread)
        guidance = self._guidance(given, options) if loss else None
        inputs = self._inputs(self._hint(given, options, keys), guidance, options, context)
        if given.layout is not None:
            inputs = inputs._replace(cond=inputs.cond | {"tiles": given.layout.tiles})
        return denoiser, inputs, x, steps, keys if noise is None else noise[1:]

    def _guidance(self, given: Conditioned, options: Options) -> GuidanceInputs:
        repeats = jnp.int32(options.guidance_repeats)
        if options.guidance_space == "latent":
            return GuidanceInputs(None, given.latent, given.weight, repeats)
        if given.target is None:
            raise ValueError(
                "guidance through the decoder compares images: give the stage-1 images as `target`"
            )
        pixels = None if given.layout is None else given.layout.pixels
        return GuidanceInputs(self.params["vae"], given.target, given.weight, repeats, pixels)

    def _seen(self, target: jax.Array) -> jax.Array | None:
        """What a trained encoder makes of stage-1 images for the control; None: it sees their latents."""
        return None if self.encoder is None else apply_jit(self.encoder, self.params["condition"], target)

    def _hint(self, given: Conditioned, options: Options, keys: jax.Array) -> jax.Array:
        """What the control sees: latents or what stands for them, with noise if that is asked for."""
        hint = given.latent if given.hint is None else given.hint
        if given.hint is None and self.encoder is not None:
            raise ValueError(
                "this control was trained on the output of an encoder of its own: give that as `hint`"
            )
        if not options.noise_aug:
            return hint
        noise = draw_noise(keys, jnp.uint32(AUGMENTATION_DRAW), hint.shape)
        return self._noised(hint, options.noise_aug, noise)

    def _noised(self, z: jax.Array, timestep: int, noise: jax.Array) -> jax.Array:
        return _add_noise(self.schedule, z, jnp.full(len(z), timestep), noise)

    def _steps(self, options: Options, sides: tuple[int, int]) -> LinearStep:
        """The sampler's table for images of these sides."""
        return make_sampler(
            options.sampler,
            Span(self.schedule, options.steps, options.timesteps, options.spacing),
            options.settings,
            cfg_scale=options.cfg_scale,
            rescale_cfg=options.rescale_cfg,
            guidance_scale=options.guidance_scale * sides[0] * sides[1] / GUIDANCE_AREA,
            guidance_window=(options.guidance_stop, options.guidance_start),
        )

    def _layout(self, options: Options, shape: tuple[int, ...]) -> Layout | None:
        """The diffusion tiles of images (B, H, W, 3); None without tiles.

        As in the reference, there are none unless both sides are as long as a tile.

        Raises:
            ValueError: no whole number of latent pixels.
        """
        if options.tiling is None:
            return None
        if min(shape[1:3]) < options.tiling[0]:
            if max(shape[1:3]) > options.tiling[0]:
                size = f"{shape[2]}x{shape[1]}"
                warnings.warn(
                    f"an image of {size} is sampled whole: tiles of {options.tiling[0]} do not fit",
                    stacklevel=2,
                )
            return None
        f = self.preset.vae.downsample
        if any(length % f for length in options.tiling):
            raise UserError(
                f"tiles are {options.tiling[0]} pixels wide and {options.tiling[1]} apart; preset {self.preset.name} "
                f"needs multiples of {f}"
            )
        (size, stride), sides = (length // f for length in options.tiling), (shape[1] // f, shape[2] // f)
        grid = make_grid(sides, (size, size), (stride, stride))
        return make_layout([grid] * shape[0], sides, shape[0] * len(grid.starts), shape[0], f)

    def _inputs(
        self,
        hint: jax.Array,
        guidance: GuidanceInputs | None,
        options: Options,
        context: Context | None,
    ) -> DenoiserInputs:
        batch = len(hint)
        cond = {"hint": hint, "strength": jnp.full(batch, options.strength, jnp.float32)}
        uncond = None
        if context is not None:
            pos, neg = (jnp.broadcast_to(text, (batch, *text.shape[1:])) for text in context)
            uncond = {"context": neg} if options.cfg_scale != 1.0 else None
            cond = cond | {"context": pos}
        return DenoiserInputs(
            {name: self.params[name] for name in ("unet", "control")}, cond, uncond, guidance
        )

    def _encode(self, image: jax.Array) -> jax.Array:
        mean, _ = apply_jit(self.preset.make_vae(self.dtype), self.params["vae"], image, method="encode")
        return self.preset.vae.scale_factor * mean

    def _decode(self, z: jax.Array) -> jax.Array:
        vae = self.preset.make_vae(self.dtype)
        return apply_jit(vae, self.params["vae"], z / self.preset.vae.scale_factor, method="decode")

    def _pad(self, image: jax.Array, multiple: int | None = None) -> jax.Array:
        pads = [(-n) % (multiple or self.preset.multiple) for n in image.shape[1:3]]
        widths = ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0))
        return jnp.pad(image, widths, mode=self.preset.padding)


# One cache of compiled programs for all: modules are static and equal by value.
apply_jit = jax.jit(apply, static_argnums=0, static_argnames="method")
_add_noise = jax.jit(q_sample, static_argnums=0)


@functools.partial(jax.jit, static_argnames=("loss", "space"))
def guidance_weight(
    loss: Loss, space: Space, target: jax.Array, condition: jax.Array, mask: jax.Array | None
) -> jax.Array:
    """The weight of the squared difference, of pixels ("rgb") or of latents; arguments as in `Guidance.prepare`."""
    guidance = Guidance((lambda params, z: z) if space == "rgb" else None, loss)
    return guidance.prepare(None, target, condition, mask).weight


@functools.cache
def _denoiser(
    preset: Preset,
    dtype: Any,
    loss: Loss | None,
    space: Space,
    tiled: tuple[tuple[int, int], int] | None,
    remat: bool,
    spread: Sharding | None,
) -> Denoiser:
    """The preset's denoiser, with restoration guidance unless `loss` is None, in tiles (size, batch) unless None.

    JAX keeps it with the program compiled for it, so it holds no parameters; a new object would compile anew.
    """
    unet, control, vae = (
        preset.make_unet(dtype),
        preset.make_control(dtype),
        preset.make_vae(dtype, remat=remat),
    )

    def model(params: dict[str, Params], z: jax.Array, t: jax.Array, cond: dict[str, jax.Array]) -> jax.Array:
        context, strength = cond.get("context"), cond["strength"][:, None, None, None]
        controls = apply(control, params["control"], z, cond["hint"], t, context)
        controls = [c * repeat_batch(strength, len(c)).astype(c.dtype) for c in controls]
        return apply(unet, params["unet"], z, t, context, controls)

    def decode(params: Params, z: jax.Array) -> jax.Array:
        return apply(vae, params, z / preset.vae.scale_factor, method="decode")

    decoder = decode if space == "rgb" else None
    if tiled is None:
        return Denoiser(model, preset.parameterization, Guidance(decoder, loss) if loss else None)
    guidance = Guidance(decoder, loss, *tiled) if loss else None
    return Denoiser(tiled_model(model, *tiled, spread), preset.parameterization, guidance)
