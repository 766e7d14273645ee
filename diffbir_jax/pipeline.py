"""Both stages end to end: `Restorer` holds the networks of a preset and restores images with them."""

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.defaults import default_options
from diffbir_jax.diffusion.schedule import make_schedule, q_sample
from diffbir_jax.imaging.bytes import enlarge, to_bytes, to_float
from diffbir_jax.imaging.checks import check_finite, check_proportions
from diffbir_jax.imaging.colour import wavelet_colour
from diffbir_jax.imaging.resize import at_least, resize
from diffbir_jax.loading import load_params, with_stage1
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.presets import RESTORATION_FAMILIES, Preset, Task, family_of, get_preset
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs, tiled_model
from diffbir_jax.sampling.guidance import Guidance, Loss, Space
from diffbir_jax.sampling.loop import Sampler, draw_noise, image_keys, sample
from diffbir_jax.sampling.options import TIMESTEPS, Options
from diffbir_jax.sampling.samplers import make_sampler
from diffbir_jax.text.tokenizer import tokenize

# Text embeddings (B or 1, tokens, C) of the prompts and of the negative prompts.
Context = tuple[jax.Array, jax.Array]
# The guidance loss is a mean over pixels, so its gradient shrinks as images grow: scales are stated for this many.
GUIDANCE_AREA = 512 * 512


class Restored(NamedTuple):
    """A restored image and what it came from, each (H, W, 3) uint8 RGB of the output size.

    Attributes:
        image: the result.
        stage1: the restoration module's output.
        upscaled: the input, enlarged by Pillow's bicubic filter.
    """

    image: np.ndarray
    stage1: np.ndarray
    upscaled: np.ndarray


class Restorer:
    """The networks of one preset with their parameters."""

    def __init__(self, preset: Preset, params: dict[str, Params], dtype: Any = jnp.float32):
        """Take `params` by module name (the preset's `modules`); networks compute in `dtype`.

        Accelerators multiply float32 in fewer bits unless the option jax_default_matmul_precision is "highest".
        Each part needs its own modules only: `stage1` the "rm", `reconstruct` the "vae".
        """
        self.preset, self.params, self.dtype = preset, params, dtype
        self._embeddings: dict[str, jax.Array] = {}
        self.schedule = make_schedule(
            zero_terminal_snr=preset.zero_terminal_snr,
            parameterization=preset.parameterization,
            num_timesteps=TIMESTEPS,
        )

    @classmethod
    def load(
        cls,
        preset: str | Preset = "tiny",
        folder: str | Path | None = None,
        dtype: Any = jnp.float32,
        task: Task = "sr",
        stage1: str | None = None,
    ) -> "Restorer":
        """Load a preset's weights.

        Args:
            preset: name of a preset, or one.
            folder: holds `<stem>.safetensors` for each of the preset's `files`; by default the weights that the package
                ships for the preset.
            dtype: dtype in which the networks compute and keep their kernels.
            task: "sr", "face" or "denoise": decides among the networks of a named preset.
            stage1: another restoration module, see `with_stage1`.

        Raises:
            ValueError: unknown preset or task, or weights that do not fit.
            FileNotFoundError: files are missing (all are listed).
        """
        preset = get_preset(preset, task) if isinstance(preset, str) else preset
        preset = with_stage1(preset, stage1, folder)
        return cls(preset, load_params(preset, folder, dtype), dtype)

    def check(self, options: Options, context: Context | None = None) -> None:
        """Raise ValueError unless the preset can sample with these options and this text."""
        name, text = self.preset.name, self.preset.unet.context_dim is not None
        if text and context is None and self.preset.text is None:
            raise ValueError(
                f"preset {name} needs text and has no text encoder: pass embeddings as `context` to Restorer.restore"
            )
        prompts = options.pos_prompt or options.neg_prompt
        if not text and (context is not None or options.cfg_scale != 1.0 or prompts):
            raise ValueError(
                f"preset {name} knows no text: leave out prompts and `context`, and keep cfg_scale at 1"
            )

    def restore(
        self,
        images: Sequence[np.ndarray],
        upscale: float = 1.0,
        options: Options | None = None,
        context: Context | None = None,
    ) -> list[Restored]:
        """Restore images of any sizes, one after the other.

        Args:
            images: (H, W, 3) uint8 RGB each.
            upscale: output side divided by input side (above 0).
            options: how to sample; by default the preset's operating point.
            context: text embeddings (1, tokens, C) of the prompt and the negative prompt, instead of the options'
                prompts.

        Returns:
            a `Restored` per image, in order; its sides are the input's times `upscale`, rounded.

        Raises:
            ValueError: an image of another shape or dtype, an `upscale` that leaves no pixel, options or text that
                the preset cannot use, or a stage that gives NaN or infinity.
        """
        options = options or default_options(self.preset.name)
        return [self.restore_one(im, upscale, options, i, context) for i, im in enumerate(images)]

    def restore_one(
        self,
        image: np.ndarray,
        upscale: float,
        options: Options,
        index: int = 0,
        context: Context | None = None,
        clean: np.ndarray | None = None,
    ) -> Restored:
        """Restore one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            upscale: output side divided by input side (above 0).
            options: how to sample.
            index: chooses the noise.
            context: as in `restore`.
            clean: (h, w, 3) uint8 RGB, the image after stage 1, from another tool; resized if need be.

        Raises:
            ValueError: as in `restore`, or `clean` has other proportions than `image`.
        """
        self.check(options, context)
        upscaled = enlarge(image, upscale)
        stage1, size = self._clean(image, upscaled, clean), upscaled.shape[:2]
        generated = self.stage2(stage1, options, [index], context)
        check_finite(generated, "stage 2", self.dtype)
        result = self.finish(generated, stage1, size)
        return Restored(result[0], np.asarray(to_bytes(stage1, size)[0]), upscaled)

    def clean_one(self, image: np.ndarray, upscale: float, clean: np.ndarray | None = None) -> Restored:
        """Take one image through stage 1 alone, which is then the result; all else as in `restore_one`."""
        upscaled = enlarge(image, upscale)
        result = np.asarray(to_bytes(self._clean(image, upscaled, clean), upscaled.shape[:2])[0])
        return Restored(result, result, upscaled)

    def _clean(self, image: np.ndarray, upscaled: np.ndarray, ready: np.ndarray | None) -> jax.Array:
        """Stage 1 of an image, which a module that enlarges takes as it is and others take upscaled."""
        size = upscaled.shape[:2]
        if ready is not None:
            check_proportions(ready, image)
            return self._fit(to_float(ready), size)
        enlarges = self.preset.rm is not None and self.preset.rm.scale > 1
        clean = self.stage1(to_float(image if enlarges else upscaled), size)
        check_finite(clean, "stage 1", self.dtype)
        return clean

    def stage1(self, lq: jax.Array, size: tuple[int, ...] | None = None) -> jax.Array:
        """Remove the degradation.

        Args:
            lq: (B, H, W, 3) in [0, 1], at the output's size or, for a module that enlarges, smaller by its factor.
            size: (height, width) of the output in pixels; by default the module's own.

        Returns:
            (B, h, w, 3) float32 of the output's size, or larger where its shorter side is below the preset's minimum.
            Without a restoration module, the input of that size.
        """
        config = self.preset.rm
        scale = 1 if config is None else config.scale
        size = size or (lq.shape[1] * scale, lq.shape[2] * scale)
        if config is None:
            return self._fit(lq, size)
        if RESTORATION_FAMILIES[family_of(config)].enlarge_first:
            lq = self._fit(lq, size)
        height, width = lq.shape[1:3]
        out = _apply(self.preset.make_rm(self.dtype), self.params["rm"], self._pad(lq, config.multiple))
        return self._fit(out[:, : height * scale, : width * scale], size)

    def stage2(
        self,
        clean: jax.Array,
        options: Options,
        indices: Sequence[int] | None = None,
        context: Context | None = None,
        noise: jax.Array | None = None,
    ) -> jax.Array:
        """Regenerate detail.

        Args:
            clean: (B, H, W, 3) in about [0, 1], the stage-1 images.
            options: how to sample.
            indices: index of each image within the run, what its noise depends on; by default 0 to B - 1.
            context: text embeddings (B or 1, tokens, C) of the prompts and the negative prompts, instead of the
                options' prompts.
            noise: (1 + steps, B, h, w, c) to use instead of drawing any: the start's, then one per step.

        Returns:
            (B, H, W, 3) float32 in about [-1, 1].

        Raises:
            ValueError: the preset cannot use the options or the text, or `indices` or `noise` do not fit.
        """
        self.check(options, context)
        batch, height, width, _ = clean.shape
        indices = range(batch) if indices is None else indices
        if len(indices) != batch:
            raise ValueError(f"{len(indices)} indices given for {batch} images; give one each")
        if context is None and self.preset.text is not None:
            context = self.embed(options.pos_prompt), self.embed(options.neg_prompt)
        z = self._sample(2.0 * self._pad(clean) - 1.0, options, indices, context, noise)
        return self._decode(z)[:, :height, :width]

    def embed(self, prompt: str) -> jax.Array:
        """Return the text embedding (1, tokens, C) of a prompt, float32; computed once per prompt."""
        if prompt not in self._embeddings:
            tokens = jnp.asarray(tokenize([prompt]))
            self._embeddings[prompt] = _apply(self.preset.make_text(self.dtype), self.params["text"], tokens)
        return self._embeddings[prompt]

    def reconstruct(self, clean: jax.Array) -> jax.Array:
        """Pass (B, H, W, 3) images in [0, 1] through the autoencoder; returns float32 in about [-1, 1]."""
        z = self._encode(2.0 * self._pad(clean) - 1.0)
        return self._decode(z)[:, : clean.shape[1], : clean.shape[2]]

    def finish(self, generated: jax.Array, clean: jax.Array, size: tuple[int, int]) -> np.ndarray:
        """Correct colours and resize to the output's size.

        Args:
            generated: (B, H, W, 3) in about [-1, 1].
            clean: (B, H, W, 3) in about [0, 1], whose low frequencies the result takes.
            size: (height, width) of the output in pixels.

        Returns:
            (B, height, width, 3) uint8.
        """
        return np.asarray(_finish(generated, clean, size, self.preset.colour_levels))

    def _sample(
        self,
        target: jax.Array,
        options: Options,
        indices: Sequence[int],
        context: Context | None,
        noise: jax.Array | None,
    ) -> jax.Array:
        """Latents (B, h, w, c) of a result, from padded stage-1 images (B, H, W, 3) in [-1, 1]."""
        condition = self._encode(target)
        sampler, steps = self._steps(options, target.shape)
        shape = (1 + len(steps.level.timestep), *condition.shape)
        if noise is not None and noise.shape != shape:
            raise ValueError(f"noise is {noise.shape}; these images and steps need {shape}")
        keys = image_keys(options.seed, indices)
        x = draw_noise(keys, 0, condition.shape) if noise is None else noise[0]
        if options.start < 1.0 or options.start_point == "cond":
            # From the whole schedule, the reference noises to its last timestep, wherever the first step is.
            last = TIMESTEPS - 1 if options.start == 1.0 else steps.level.timestep[0]
            x = q_sample(self.schedule, condition, jnp.full(len(condition), last), x)
        loss = options.guidance_loss if options.guidance_scale else None
        tiles = self._tiles(options, target.shape)
        denoiser = _denoiser(self.preset, self.dtype, loss, options.guidance_space, tiles)
        inputs = self._denoiser_inputs(denoiser, condition, target, options, context)
        return sample(sampler, denoiser, inputs, x, steps, keys if noise is None else noise[1:])

    def _steps(self, options: Options, shape: tuple[int, ...]) -> tuple[Sampler, Any]:
        """The sampler and its table for images of `shape` (B, H, W, 3)."""
        return make_sampler(
            options.sampler,
            self.schedule,
            options.steps,
            start_timestep=options.timesteps,
            cfg_scale=options.cfg_scale,
            rescale_cfg=options.rescale_cfg,
            guidance_scale=options.guidance_scale * shape[1] * shape[2] / GUIDANCE_AREA,
            eta=options.eta,
        )

    def _tiles(self, options: Options, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Side and stride in latent pixels of the diffusion tiles of images (B, H, W, 3); None without tiles.

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
            raise ValueError(
                f"tiles are {options.tiling[0]} pixels wide and {options.tiling[1]} apart; preset {self.preset.name} "
                f"needs multiples of {f}"
            )
        return options.tiling[0] // f, options.tiling[1] // f

    def _denoiser_inputs(
        self,
        denoiser: Denoiser,
        condition: jax.Array,
        target: jax.Array,
        options: Options,
        context: Context | None,
    ) -> DenoiserInputs:
        batch = len(condition)
        cond = {"hint": condition, "strength": jnp.full(batch, options.strength, jnp.float32)}
        uncond = None
        if context is not None:
            pos, neg = (jnp.broadcast_to(text, (batch, *text.shape[1:])) for text in context)
            uncond = cond | {"context": neg} if options.cfg_scale != 1.0 else None
            cond = cond | {"context": pos}
        guidance = denoiser.guidance and denoiser.guidance.prepare(self.params["vae"], target, condition)
        return DenoiserInputs(
            {name: self.params[name] for name in ("unet", "control")}, cond, uncond, guidance
        )

    def _encode(self, image: jax.Array) -> jax.Array:
        mean, _ = _apply(self.preset.make_vae(self.dtype), self.params["vae"], image, method="encode")
        return self.preset.vae.scale_factor * mean

    def _decode(self, z: jax.Array) -> jax.Array:
        vae = self.preset.make_vae(self.dtype)
        return _apply(vae, self.params["vae"], z / self.preset.vae.scale_factor, method="decode")

    def _fit(self, image: jax.Array, size: tuple[int, ...]) -> jax.Array:
        """Resize (B, H, W, 3) to `size`, or beyond it to the preset's minimum."""
        return resize(image, at_least(size, self.preset.min_side))

    def _pad(self, image: jax.Array, multiple: int | None = None) -> jax.Array:
        pads = [(-n) % (multiple or self.preset.multiple) for n in image.shape[1:3]]
        widths = ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0))
        return jnp.pad(image, widths, mode=self.preset.padding)


@functools.partial(jax.jit, static_argnames=("size", "levels"))
def _finish(generated: jax.Array, clean: jax.Array, size: tuple[int, int], levels: int) -> jax.Array:
    return to_bytes(wavelet_colour((generated + 1.0) / 2.0, clean, levels), size)


# One cache of compiled programs for all: modules are static and equal by value.
_apply = jax.jit(apply, static_argnums=0, static_argnames="method")


@functools.cache
def _denoiser(
    preset: Preset, dtype: Any, loss: Loss | None, space: Space, tiles: tuple[int, int] | None
) -> Denoiser:
    """The preset's denoiser, with restoration guidance unless `loss` is None, in tiles (side, stride) unless None.

    JAX keeps it with the program compiled for it, so it holds no parameters; a new object would compile anew.
    """
    unet, control, vae = (
        preset.make_unet(dtype),
        preset.make_control(dtype),
        preset.make_vae(dtype, remat=True),
    )

    def model(params: dict[str, Params], z: jax.Array, t: jax.Array, cond: dict[str, jax.Array]) -> jax.Array:
        context, strength = cond.get("context"), cond["strength"][:, None, None, None]
        controls = apply(control, params["control"], z, cond["hint"], t, context)
        return apply(unet, params["unet"], z, t, context, [c * strength.astype(c.dtype) for c in controls])

    def decode(params: Params, z: jax.Array) -> jax.Array:
        return apply(vae, params, z / preset.vae.scale_factor, method="decode")

    guidance = Guidance(decode if space == "rgb" else None, loss) if loss else None
    return Denoiser(tiled_model(model, *tiles) if tiles else model, preset.parameterization, guidance)
