"""Stage 2 of a preset: text, latents, guidance and sampling around the diffusion model."""

import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.diffusion.schedule import make_schedule, q_sample
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.controlnet import ConditionEncoder
from diffbir_jax.models.layers import repeat_batch
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration import known, one_step
from diffbir_jax.restoration.one_step import OneStepUNet
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs, TiledModel
from diffbir_jax.sampling.guidance import Guidance, GuidanceInputs, LatentGuidance, PixelGuidance
from diffbir_jax.sampling.known import Descent, Known, KnownInputs, Places, Projection
from diffbir_jax.sampling.layout import Conditioned, Layout
from diffbir_jax.sampling.loop import draw_noise
from diffbir_jax.sampling.options import TIMESTEPS, Options
from diffbir_jax.sampling.samplers import make_sampler
from diffbir_jax.sampling.tables import LinearStep
from diffbir_jax.sampling.timesteps import Span
from diffbir_jax.text.tokenizer import tokenize

# Prompts whose embeddings are kept: of each photo's caption there may be thousands, of 0.3 MB each.
EMBEDDINGS = 64
# Text embeddings (B or 1, tokens, C) of the prompts and of the negative prompts.
Context = tuple[jax.Array, jax.Array]
# The guidance loss is a mean over pixels, so its gradient shrinks as images grow: scales are stated for this many.
GUIDANCE_AREA = 512 * 512
# Samplers that use the slope at the far end of a step or in its middle.
SLOPE_METHODS = ("edm_heun", "edm_dpm_2", "edm_dpm_2_a")
# Number of the draw that noises the condition; the sampler's are counted from 0.
AUGMENTATION_DRAW = 2**31


class Generator:
    """Stage 2 of a preset: its networks with their parameters, and how they sample."""

    def __init__(self, preset: Preset, params: dict[str, Params], dtype: DTypeLike = jnp.float32):
        """Take `params` by module name (the preset's `modules`); networks compute in `dtype`.

        Accelerators multiply float32 in fewer bits unless the option jax_default_matmul_precision is "highest".
        Each stage needs only its own modules. An entry "condition" has the parameters of the preset's
        `ConditionEncoder`: the control then sees the output of this encoder, all else the latents of stage-1 images.
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
        """The control's own encoder of stage-1 images, if it was trained with one; None: it sees the latents."""
        return self.preset.make_condition(self.dtype) if "condition" in self.params else None

    @property
    def sampling_modules(self) -> tuple[str, ...]:
        """Names of the networks that sampling calls."""
        names = ("unet", "control", "lora", "modulation")
        return tuple(name for name in names if name in self.preset.modules)

    def check(self, options: Options, context: Context | None = None) -> None:
        """Raise ValueError unless the preset can sample with these options and text.

        Warns about combinations that give poor results.
        """
        name, text = self.preset.name, self.preset.unet.context_dim is not None
        one_step.check(self.preset, options)
        known.check(self.preset, options)
        if self.preset.one_step is None and self._multiplies_errors(options):
            warnings.warn(
                f"{options.sampler} with {options.spacing} spacing begins at a noise level of 10,000 and multiplies "
                f"the first errors of preset {name}: choose `spacing` karras, or another sampler",
                stacklevel=2,
            )
        if text and context is None and self.preset.text is None:
            raise UserError(
                f"preset {name} needs text and has no text encoder: pass embeddings to Restorer.restore(context=...)"
            )
        prompts = options.pos_prompt or options.neg_prompt
        if not text and (context is not None or options.cfg_scale != 1.0 or prompts):
            raise UserError(
                f"preset {name} knows no text: leave out prompts and embeddings, and keep `cfg_scale` at 1"
            )

    def _multiplies_errors(self, options: Options) -> bool:
        """Whether the first step is one that docs/sampling.md warns about."""
        if options.start < 1.0 or not options.sampler.startswith("edm"):
            return False
        if self.preset.parameterization == "eps":
            return options.spacing == "uniform"
        return options.sampler in SLOPE_METHODS and options.spacing in ("uniform", "trailing")

    def calls(self, options: Options) -> int:
        """How often sampling calls the network."""
        return len(self._steps(options, (1, 1)).variance)

    def last_noise(self, options: Options) -> float:
        """Noise / signal of the latents at the last call of the network."""
        level = self._steps(options, (1, 1)).level
        return float(level.noise[-1] / max(float(level.signal[-1]), 1e-6))

    def embed(self, prompt: str) -> jax.Array:
        """Return the text embedding (1, tokens, C) of a prompt, float32; the last `EMBEDDINGS` of them are kept."""
        if prompt not in self._embeddings:
            if len(self._embeddings) == EMBEDDINGS:
                del self._embeddings[next(iter(self._embeddings))]
            tokens = jnp.asarray(tokenize([prompt]))
            self._embeddings[prompt] = apply_jit(
                self.preset.make_text(self.dtype), self.params["text"], tokens
            )
        return self._embeddings[prompt]

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
        """The arguments of `loop.sample`, which returns the latents of results.

        Args:
            given: what steers it.
            options: how to sample.
            keys: (B,), see `image_keys`.
            context: text embeddings (B or 1, tokens, C) of the prompts and of the negative prompts.
            noise: (1 + calls, B, h, w, c) in place of random numbers: the start's, then one per call of the network.
            remat: recompute the decoder's blocks in the backward pass of guidance, which takes less memory.
            spread: how a batch of tiles lies on the devices.

        Raises:
            ValueError: `noise` does not fit, there is a "condition" and no hint from it, or `start` is missing.
        """
        condition, f = given.latent, self.preset.vae.downsample
        if self.preset.one_step is not None:
            noise = None  # that of the request is for the encoder
        steps = self._steps(options, (condition.shape[1] * f, condition.shape[2] * f))
        shape = (1 + len(steps.variance), *condition.shape)
        if noise is not None and noise.shape != shape:
            raise ValueError(f"noise is {noise.shape}; these images and steps need {shape}")
        x = draw_noise(keys, 0, condition.shape) if noise is None else noise[0]
        if self.preset.one_step is not None:
            x = condition
        elif options.start < 1.0 or options.start_point != "noise":
            x = self._noised(self._start(given, options), options.timesteps - 1, options.start_noise * x)
        denoiser = self._denoiser(options, given.layout, remat=remat, spread=spread)
        guidance = self._guidance(given, options) if options.guidance_scale else None
        inputs = self._inputs(self._hint(given, options, keys), guidance, options, context)
        inputs = inputs._replace(known=self._known(given, options))
        if given.degrees is not None:
            inputs = inputs._replace(cond=inputs.cond | {"degrees": jnp.asarray(given.degrees)})
        if given.layout is not None:
            inputs = inputs._replace(cond=inputs.cond | {"tiles": given.layout.tiles})
        return denoiser, inputs, x, steps, keys if noise is None else noise[1:]

    def _denoiser(
        self, options: Options, layout: Layout | None, *, remat: bool, spread: Sharding | None
    ) -> Denoiser:
        """The networks with what the options add to them, in tiles unless `layout` is None."""
        model = ControlledUNet(self.preset, self.dtype)
        if self.preset.one_step is not None:
            model = OneStepUNet(self.preset, self.dtype, one_step.passes(self.preset, options))
        guidance = self._pull(options, layout, remat) if options.guidance_scale else None
        if layout is not None:
            model = TiledModel(model, layout.size, layout.batch, spread)
        corrected = None if options.operator is None else self._correction(options, layout, remat)
        return Denoiser(model, self.preset.parameterization, guidance, corrected)

    def _correction(self, options: Options, layout: Layout | None, remat: bool) -> Known:
        """What moves predictions to latents that the input could come from."""
        kind = Projection if options.operator_method == "project" else Descent
        tiles = {} if layout is None else {"tile": layout.size, "batch": layout.batch}
        encode, decode = (half(self.preset, self.dtype, remat) for half in (LatentEncoder, LatentDecoder))
        return kind(encode, decode, self.preset.vae.downsample, **tiles)

    def _known(self, given: Conditioned, options: Options) -> KnownInputs | None:
        if options.operator is None:
            return None
        if given.known is None:
            raise ValueError("a known degradation needs the inputs: give what they say as `known`")
        places = None if given.layout is None else Places(given.layout.tiles, given.layout.pixels)
        scale, repeats = jnp.float32(options.operator_scale), jnp.int32(options.operator_repeats)
        return KnownInputs(self.params["vae"], given.known, scale, repeats, places)

    def _pull(self, options: Options, layout: Layout | None, remat: bool) -> Guidance:
        if options.guidance_space == "latent":
            return LatentGuidance(options.guidance_loss)
        tiles = {} if layout is None else {"tile": layout.size, "batch": layout.batch}
        decode = LatentDecoder(self.preset, self.dtype, remat)
        return PixelGuidance(decode, options.guidance_loss, **tiles)

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

    def _start(self, given: Conditioned, options: Options) -> jax.Array:
        """The latents that are noised for the start: those of stage 1 or of the inputs."""
        if options.start_point != "input":
            return given.latent
        if given.start is None:
            raise ValueError("sampling starts from the inputs: give their latents as `start`")
        return given.start

    def _hint(self, given: Conditioned, options: Options, keys: jax.Array) -> jax.Array | np.ndarray:
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

    def _noised(self, z: jax.Array | np.ndarray, timestep: int, noise: jax.Array) -> jax.Array:
        return _add_noise(self.schedule, z, jnp.full(len(z), timestep), noise)

    def _steps(self, options: Options, sides: tuple[int, int]) -> LinearStep:
        """The sampler's table for images of these sides."""
        scale = options.guidance_scale * sides[0] * sides[1] / GUIDANCE_AREA
        if self.preset.one_step is not None:
            return one_step.steps(self.preset, self.schedule, options, scale)
        return make_sampler(
            options.sampler,
            Span(self.schedule, options.steps, options.timesteps, options.spacing),
            options.settings,
            cfg_scale=options.cfg_scale,
            rescale_cfg=options.rescale_cfg,
            guidance_scale=scale,
            guidance_window=(options.guidance_stop, options.guidance_start),
        )

    def _inputs(
        self,
        hint: jax.Array | np.ndarray,
        guidance: GuidanceInputs | None,
        options: Options,
        context: Context | None,
    ) -> DenoiserInputs:
        batch = len(hint)
        cond = {"hint": hint, "strength": jnp.full(batch, options.strength, jnp.float32)}
        if self.preset.one_step is not None:
            names = zip(("pixel", "semantic"), one_step.sliders(options))
            cond = {"hint": hint} | {name: jnp.full(batch, value, jnp.float32) for name, value in names}
        uncond = None
        if context is not None:
            pos, neg = (jnp.broadcast_to(text, (batch, *text.shape[1:])) for text in context)
            uncond = {"context": neg} if options.cfg_scale != 1.0 else None
            cond = cond | {"context": pos}
        return DenoiserInputs(
            {name: self.params[name] for name in self.sampling_modules}, cond, uncond, guidance
        )


# One cache of compiled programs for all generators: modules are static arguments and equal by value.
apply_jit = jax.jit(apply, static_argnums=0, static_argnames="method")
_add_noise = jax.jit(q_sample, static_argnums=0)


@dataclass(frozen=True)
class ControlledUNet:
    """The UNet with its control, as a `denoiser.Model`.

    It holds no parameters and is equal by value, so that equal ones share compiled programs.
    """

    preset: Preset
    dtype: DTypeLike

    def __call__(
        self, params: dict[str, Params], z: jax.Array, t: jax.Array, cond: dict[str, jax.Array]
    ) -> jax.Array:
        """(B, h, w, c) latents at timesteps (B,) -> the prediction; `cond` has hint, strength and perhaps context."""
        unet, control = self.preset.make_unet(self.dtype), self.preset.make_control(self.dtype)
        context, strength = cond.get("context"), cond["strength"][:, None, None, None]
        controls = apply(control, params["control"], z, cond["hint"], t, context)
        controls = [c * repeat_batch(strength, len(c)).astype(c.dtype) for c in controls]
        return apply(unet, params["unet"], z, t, context, controls)


@dataclass(frozen=True)
class LatentEncoder:
    """Images in [-1, 1] to scaled latents, the means of the posterior; equal by value."""

    preset: Preset
    dtype: DTypeLike
    remat: bool

    def __call__(self, params: Params, image: jax.Array) -> jax.Array:
        """(B, H, W, 3) -> (B, h, w, c)."""
        vae = self.preset.make_vae(self.dtype, remat=self.remat)
        mean, _ = apply(vae, params, image, method="encode")
        return self.preset.vae.scale_factor * mean


@dataclass(frozen=True)
class LatentDecoder:
    """Scaled latents to images in [-1, 1], for guidance; equal by value."""

    preset: Preset
    dtype: DTypeLike
    remat: bool

    def __call__(self, params: Params, z: jax.Array) -> jax.Array:
        """(B, h, w, c) -> (B, H, W, 3)."""
        vae = self.preset.make_vae(self.dtype, remat=self.remat)
        return apply(vae, params, z / self.preset.vae.scale_factor, method="decode")
