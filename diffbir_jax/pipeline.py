"""Both stages end to end: `Restorer` holds the networks of a preset and restores images with them."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from diffbir_jax.checkpoint import load_weights
from diffbir_jax.diffusion.schedule import make_schedule, q_sample
from diffbir_jax.imaging.colour import wavelet_colour
from diffbir_jax.imaging.resize import resize
from diffbir_jax.models.apply import Params, abstract, apply
from diffbir_jax.models.presets import Preset, get_preset
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs
from diffbir_jax.sampling.guidance import Guidance, Loss, Space
from diffbir_jax.sampling.loop import draw_noise, image_keys, sample
from diffbir_jax.sampling.options import TIMESTEPS, Options
from diffbir_jax.sampling.spaced import SPACED
from diffbir_jax.sampling.timesteps import spaced_steps

# Text embeddings (B, tokens, C) of the prompts and of the negative prompts.
Context = tuple[jax.Array, jax.Array]
PRETRAINED = Path(__file__).parent / "pretrained"
MODULES = ("rm", "vae", "unet", "control")
# The guidance loss is a mean over pixels, so its gradient shrinks as images grow: scales are stated for this many.
GUIDANCE_AREA = 512 * 512
# Operating points of the presets that have one of their own.
DEFAULTS = {
    "tiny": Options(steps=10, start=0.4, guidance_scale=10.0, guidance_loss="paper", guidance_space="latent")
}


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
        """Take `params` by module name ("rm", "vae", "unet", "control"); networks compute in `dtype`.

        Each part needs its own modules only: `stage1` the "rm", `reconstruct` the "vae".
        """
        self.preset, self.params, self.dtype = preset, params, dtype
        self._rm, self._vae = preset.make_rm(dtype), preset.make_vae(dtype)
        self.schedule = make_schedule(
            zero_terminal_snr=preset.zero_terminal_snr,
            parameterization=preset.parameterization,
            num_timesteps=TIMESTEPS,
        )

    @classmethod
    def load(
        cls, preset: str | Preset = "tiny", folder: str | Path | None = None, dtype: Any = jnp.float32
    ) -> "Restorer":
        """Load a preset's weights.

        Args:
            preset: name of a preset, or one.
            folder: holds rm.safetensors, vae.safetensors, unet.safetensors, control.safetensors; by default the
                weights that the package ships for the preset.
            dtype: compute dtype of the networks.

        Raises:
            ValueError: unknown preset, or weights that do not fit it.
            FileNotFoundError: files are missing (all are listed).
        """
        preset = get_preset(preset) if isinstance(preset, str) else preset
        folder = PRETRAINED / preset.name if folder is None else Path(folder).expanduser()
        files = _weight_files(preset, folder)
        likes = abstract_params(preset)
        return cls(preset, {name: load_weights(file, likes[name]) for name, file in files.items()}, dtype)

    def check(self, options: Options, context: Context | None = None) -> None:
        """Raise ValueError unless the preset can sample with these options and this text."""
        name, text = self.preset.name, self.preset.unet.context_dim is not None
        if text and context is None:
            raise ValueError(
                f"preset {name} needs text embeddings for stage 2, and there is no text encoder yet: "
                "pass `context` to Restorer.restore, or choose the preset tiny"
            )
        if not text and (context is not None or options.cfg_scale != 1.0):
            raise ValueError(f"preset {name} knows no text: leave out `context` and keep cfg_scale at 1")

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
            context: text embeddings (1, tokens, C) of the prompt and the negative prompt, for presets with text.

        Returns:
            a `Restored` per image, in order; its sides are the input's times `upscale`, rounded.

        Raises:
            ValueError: an image of another shape or dtype, an `upscale` that leaves no pixel, or options or text that
                the preset cannot use.
        """
        options = options or DEFAULTS.get(self.preset.name, Options())
        return [self.restore_one(im, upscale, options, i, context) for i, im in enumerate(images)]

    def restore_one(
        self,
        image: np.ndarray,
        upscale: float,
        options: Options,
        index: int = 0,
        context: Context | None = None,
    ) -> Restored:
        """Restore one image; `index` chooses its noise. All else as in `restore`."""
        self.check(options, context)
        upscaled = enlarge(image, upscale)
        size = upscaled.shape[:2]
        clean = self.stage1(jnp.asarray(upscaled[None], jnp.float32) / 255.0)
        result = self.finish(self.stage2(clean, options, [index], context), clean, size)
        return Restored(result[0], np.asarray(_to_uint8(clean, size))[0], upscaled)

    def stage1(self, lq: jax.Array) -> jax.Array:
        """Remove the degradation.

        Args:
            lq: (B, H, W, 3) in [0, 1], at the output's size.

        Returns:
            (B, h, w, 3) float32; enlarged if the input's shorter side is below the preset's minimum.
        """
        lq = enlarge_to_min_side(lq, self.preset.min_side)
        height, width = lq.shape[1:3]
        return _apply(self._rm, self.params["rm"], self._pad(lq))[:, :height, :width]

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
            context: text embeddings (B, tokens, C) of the prompts and the negative prompts, for presets with text.
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
        z = self._sample(2.0 * self._pad(clean) - 1.0, options, indices, context, noise)
        return self._decode(z)[:, :height, :width]

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
        shape = (1 + options.steps, *condition.shape)
        if noise is not None and noise.shape != shape:
            raise ValueError(f"noise is {noise.shape}; these images and steps need {shape}")
        keys = image_keys(options.seed, indices)
        first = draw_noise(keys, 0, condition.shape) if noise is None else noise[0]
        timesteps = jnp.full(len(condition), options.timesteps - 1)
        x = first if options.start == 1.0 else q_sample(self.schedule, condition, timesteps, first)
        steps = spaced_steps(
            self.schedule,
            options.steps,
            start_timestep=options.timesteps,
            cfg_scale=options.cfg_scale,
            guidance_scale=options.guidance_scale * target.shape[1] * target.shape[2] / GUIDANCE_AREA,
        )
        loss = options.guidance_loss if options.guidance_scale else None
        denoiser = _denoiser(self.preset, self.dtype, loss, options.guidance_space)
        inputs = self._denoiser_inputs(denoiser, condition, target, options, context)
        return sample(SPACED, denoiser, inputs, x, steps, keys if noise is None else noise[1:])

    def _denoiser_inputs(
        self,
        denoiser: Denoiser,
        condition: jax.Array,
        target: jax.Array,
        options: Options,
        context: Context | None,
    ) -> DenoiserInputs:
        cond = {"hint": condition, "strength": jnp.full(len(condition), options.strength, jnp.float32)}
        uncond = None
        if context is not None:
            uncond = cond | {"context": context[1]} if options.cfg_scale != 1.0 else None
            cond = cond | {"context": context[0]}
        guidance = denoiser.guidance and denoiser.guidance.prepare(self.params["vae"], target, condition)
        return DenoiserInputs(
            {name: self.params[name] for name in ("unet", "control")}, cond, uncond, guidance
        )

    def _encode(self, image: jax.Array) -> jax.Array:
        mean, _ = _apply(self._vae, self.params["vae"], image, method="encode")
        return self.preset.vae.scale_factor * mean

    def _decode(self, z: jax.Array) -> jax.Array:
        return _apply(self._vae, self.params["vae"], z / self.preset.vae.scale_factor, method="decode")

    def _pad(self, image: jax.Array) -> jax.Array:
        pads = [(-n) % self.preset.multiple for n in image.shape[1:3]]
        widths = ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0))
        return jnp.pad(image, widths, mode=self.preset.padding)


def enlarge(image: np.ndarray, upscale: float) -> np.ndarray:
    """Resize (H, W, 3) uint8 by `upscale` with Pillow's bicubic filter, sides rounded.

    Raises:
        ValueError: another shape or dtype, or `upscale` is not positive or leaves no pixel.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} of shape {image.shape}; give (H, W, 3) uint8 RGB")
    size = (round(image.shape[1] * upscale), round(image.shape[0] * upscale))
    if upscale <= 0 or min(size) < 1:
        raise ValueError(
            f"upscale is {upscale} for an image of {image.shape[1]}x{image.shape[0]}; give a larger factor"
        )
    if size == image.shape[1::-1]:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def enlarge_to_min_side(image: jax.Array, side: int) -> jax.Array:
    """Resize (B, H, W, C) so that the shorter side is `side`, unless it is longer; the other is rounded down."""
    height, width = image.shape[1:3]
    short = min(height, width)
    if short >= side:
        return image
    return resize(image, (height * side // short, width * side // short))


@functools.partial(jax.jit, static_argnames="size")
def _to_uint8(image: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bytes of (B, H, W, 3) images in about [0, 1], resized unless they have the size."""
    image = image if image.shape[1:3] == size else resize(image, size)
    return jnp.rint(255.0 * jnp.clip(image, 0.0, 1.0)).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnames=("size", "levels"))
def _finish(generated: jax.Array, clean: jax.Array, size: tuple[int, int], levels: int) -> jax.Array:
    return _to_uint8(wavelet_colour((generated + 1.0) / 2.0, clean, levels), size)


# One cache of compiled programs for all: modules are static and equal by value.
_apply = jax.jit(apply, static_argnums=0, static_argnames="method")


@functools.cache
def _denoiser(preset: Preset, dtype: Any, loss: Loss | None, space: Space) -> Denoiser:
    """The preset's denoiser, with restoration guidance unless `loss` is None.

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
    return Denoiser(model, preset.parameterization, guidance)


def _weight_files(preset: Preset, folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.safetensors" for name in MODULES}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}; give a folder (--weights) that holds these weights of "
            f"the preset {preset.name}"
        )
    return files


def abstract_params(preset: Preset) -> dict[str, Params]:
    """Return shapes and dtypes of a preset's parameters by module name, without computing anything."""
    side, f = preset.multiple * 2, preset.vae.downsample
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    z = jax.ShapeDtypeStruct((1, side // f, side // f, preset.vae.embed_dim), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    text = preset.unet.context_dim
    context = () if text is None else (jax.ShapeDtypeStruct((1, 77, text), jnp.float32),)
    return {
        "rm": abstract(preset.make_rm(), image),
        "vae": abstract(preset.make_vae(), image),
        "unet": abstract(preset.make_unet(), z, t, *context),
        "control": abstract(preset.make_control(), z, z, t, *context),
    }
