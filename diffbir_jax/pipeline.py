"""Both stages end to end: `Restorer` holds the networks of a preset and restores images with them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
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
from diffbir_jax.sampling.guidance import Guidance, Loss
from diffbir_jax.sampling.loop import draw_noise, image_keys, sample
from diffbir_jax.sampling.spaced import SPACED
from diffbir_jax.sampling.timesteps import spaced_steps

PRETRAINED = Path(__file__).parent / "pretrained"
MODULES = ("rm", "vae", "unet", "control")
# The guidance loss is a mean over pixels, so its gradient shrinks as images grow: scales are stated for this many.
GUIDANCE_AREA = 512 * 512


@dataclass(frozen=True)
class Options:
    """How stage 2 samples. None of the numbers but `steps` recompiles anything.

    Attributes:
        steps: sampling steps (1 to 1000).
        start: share of the noise schedule to begin at: 1 starts from pure noise, less from the stage-1 latent noised
            to that level (0 < start <= 1).
        guidance_scale: s of region-adaptive guidance at 512x512 pixels; larger is more faithful to stage 1, 0 is off.
        guidance_loss: "w_mse" (the reference), "paper" (weight inside the norm) or "mse" (unweighted).
        strength: factor on the control tensors (1 as trained).
        cfg_scale: classifier-free guidance scale (1 is off; needs a preset with text).
        seed: of the noise; an image draws the same noise in any company.
    """

    steps: int = 50
    start: float = 1.0
    guidance_scale: float = 0.0
    guidance_loss: Loss = "w_mse"
    strength: float = 1.0
    cfg_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if not 0.0 < self.start <= 1.0:
            raise ValueError(f"start is {self.start}; allowed are shares of the schedule in (0, 1]")
        for name in ("guidance_scale", "strength", "cfg_scale", "seed"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are finite numbers of at least 0")
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"steps is {self.steps}; allowed are 1 to 1000")


DEFAULTS = {"tiny": Options(steps=10, start=0.4, guidance_scale=0.1)}


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
        """Take `params` by module name ("rm", "vae", "unet", "control"); networks compute in `dtype`."""
        self.preset, self.params = preset, params
        self._rm, self._vae = preset.make_rm(dtype), preset.make_vae(dtype, remat=True)
        self._unet, self._control = preset.make_unet(dtype), preset.make_control(dtype)
        self.schedule = make_schedule(
            zero_terminal_snr=preset.zero_terminal_snr, parameterization=preset.parameterization
        )
        self._clean = jax.jit(functools.partial(apply, self._rm))
        self._encode = jax.jit(self._encode_image)
        self._decode = jax.jit(self._decode_latent)
        self._guidance = functools.cache(lambda loss: Guidance(self._decode_latent, loss))
        self._denoiser = functools.cache(
            lambda guidance: Denoiser(self._model, preset.parameterization, guidance)
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
            FileNotFoundError: a file is missing.
        """
        preset = get_preset(preset) if isinstance(preset, str) else preset
        path = PRETRAINED / preset.name if folder is None else Path(folder).expanduser()
        likes = _abstract_params(preset)
        return cls(
            preset, {name: load_weights(path / f"{name}.safetensors", likes[name]) for name in MODULES}, dtype
        )

    def restore(
        self, images: Sequence[np.ndarray], upscale: float = 1.0, options: Options | None = None
    ) -> list[Restored]:
        """Restore images of any sizes, one after the other.

        Args:
            images: (H, W, 3) uint8 RGB each.
            upscale: output side divided by input side (above 0).
            options: how to sample; by default the preset's operating point.

        Returns:
            a `Restored` per image, in order; its sides are the input's times `upscale`, rounded.
        """
        options = options or DEFAULTS.get(self.preset.name, Options())
        return [self.restore_one(image, upscale, options, index) for index, image in enumerate(images)]

    def restore_one(self, image: np.ndarray, upscale: float, options: Options, index: int = 0) -> Restored:
        """Restore one image; `index` chooses its noise. Arguments and result as in `restore`."""
        upscaled = enlarge(image, upscale)
        clean = self.stage1(jnp.asarray(upscaled[None], jnp.float32) / 255.0)
        result = self.finish(self.stage2(clean, options, [index]), clean, upscaled.shape[:2])
        return Restored(
            result[0], _to_uint8(resize(clean, upscaled.shape[:2], "bicubic_antialias"))[0], upscaled
        )

    def stage1(self, lq: jax.Array) -> jax.Array:
        """Remove the degradation.

        Args:
            lq: (B, H, W, 3) in [0, 1], at the output's size.

        Returns:
            (B, h, w, 3) float32; enlarged if the input's shorter side is below the preset's minimum.
        """
        lq = enlarge_to_min_side(lq, self.preset.min_side)
        height, width = lq.shape[1:3]
        return self._clean(self.params["rm"], self._pad(lq))[:, :height, :width]

    def stage2(
        self,
        clean: jax.Array,
        options: Options,
        indices: Sequence[int] = (0,),
        context: tuple[jax.Array, jax.Array] | None = None,
        noise: jax.Array | None = None,
    ) -> jax.Array:
        """Regenerate detail.

        Args:
            clean: (B, H, W, 3) in about [0, 1], the stage-1 images.
            options: how to sample.
            indices: index of each image within the run: what its noise depends on.
            context: text embeddings (B, tokens, C) of the prompt and the negative prompt, for presets with text.
            noise: (1 + steps, B, h, w, c) to use instead of drawing any: the start's, then one per step.

        Returns:
            (B, H, W, 3) float32 in about [-1, 1].

        Raises:
            ValueError: the preset needs text and `context` is missing, or the other way round.
        """
        if (context is None) != (self.preset.unet.context_dim is None):
            needs = "needs text embeddings" if context is None else "knows no text"
            raise ValueError(
                f"preset {self.preset.name} {needs}: {'pass' if context is None else 'leave out'} `context`"
            )
        height, width = clean.shape[1:3]
        target = 2.0 * self._pad(clean) - 1.0
        condition = self._encode(self.params["vae"], target)
        z = self._sample(condition, target, options, indices, context, noise)
        return self._decode(self.params["vae"], z)[:, :height, :width]

    def reconstruct(self, clean: jax.Array) -> jax.Array:
        """Pass (B, H, W, 3) images in [0, 1] through the autoencoder; returns float32 in about [-1, 1]."""
        z = self._encode(self.params["vae"], 2.0 * self._pad(clean) - 1.0)
        return self._decode(self.params["vae"], z)[:, : clean.shape[1], : clean.shape[2]]

    def finish(self, generated: jax.Array, clean: jax.Array, size: tuple[int, int]) -> np.ndarray:
        """Correct colours and resize to the output's size.

        Args:
            generated: (B, H, W, 3) in about [-1, 1].
            clean: (B, H, W, 3) in about [0, 1], whose low frequencies the result takes.
            size: (height, width) of the output in pixels.

        Returns:
            (B, height, width, 3) uint8.
        """
        corrected = wavelet_colour((generated + 1.0) / 2.0, clean)
        return _to_uint8(resize(corrected, size, "bicubic_antialias"))

    def _sample(
        self,
        condition: jax.Array,
        target: jax.Array,
        options: Options,
        indices: Sequence[int],
        context: tuple[jax.Array, jax.Array] | None,
        noise: jax.Array | None,
    ) -> jax.Array:
        start = max(1, round(options.start * self.schedule.num_timesteps))
        steps = spaced_steps(
            self.schedule,
            options.steps,
            start_timestep=start,
            cfg_scale=options.cfg_scale,
            guidance_scale=options.guidance_scale * target.shape[1] * target.shape[2] / GUIDANCE_AREA,
        )
        keys = image_keys(options.seed, indices)
        first = draw_noise(keys, 0, condition.shape) if noise is None else noise[0]
        timesteps = jnp.full(len(condition), start - 1)
        x = first if options.start == 1.0 else q_sample(self.schedule, condition, timesteps, first)
        cond = {"hint": condition, "strength": jnp.full(len(condition), options.strength, jnp.float32)}
        uncond = cond
        if context is not None:
            cond, uncond = cond | {"context": context[0]}, cond | {"context": context[1]}
        guidance = self._guidance(options.guidance_loss) if options.guidance_scale else None
        inputs = DenoiserInputs(
            {name: self.params[name] for name in ("unet", "control")},
            cond,
            uncond if options.cfg_scale != 1.0 else None,
            guidance.prepare(self.params["vae"], target) if guidance else None,
        )
        return sample(
            SPACED, self._denoiser(guidance), inputs, x, steps, keys if noise is None else noise[1:]
        )

    def _model(
        self, params: dict[str, Params], z: jax.Array, t: jax.Array, cond: dict[str, jax.Array]
    ) -> jax.Array:
        context = cond.get("context")
        controls = apply(self._control, params["control"], z, cond["hint"], t, context)
        scale = cond["strength"][:, None, None, None]
        return apply(self._unet, params["unet"], z, t, context, [c * scale.astype(c.dtype) for c in controls])

    def _encode_image(self, params: Params, image: jax.Array) -> jax.Array:
        return self.preset.vae.scale_factor * apply(self._vae, params, image, method="encode")[0]

    def _decode_latent(self, params: Params, z: jax.Array) -> jax.Array:
        return apply(self._vae, params, z / self.preset.vae.scale_factor, method="decode")

    def _pad(self, image: jax.Array) -> jax.Array:
        pads = [(-n) % self.preset.multiple for n in image.shape[1:3]]
        widths = ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0))
        return jnp.pad(image, widths, mode=self.preset.padding)


def enlarge(image: np.ndarray, upscale: float) -> np.ndarray:
    """Resize (H, W, 3) uint8 by `upscale` with Pillow's bicubic filter, sides rounded.

    Raises:
        ValueError: `upscale` is not positive or leaves no pixel.
    """
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
    return resize(image, (height * side // short, width * side // short), "bicubic_antialias")


def _to_uint8(image: jax.Array) -> np.ndarray:
    return np.asarray(jnp.rint(255.0 * jnp.clip(image, 0.0, 1.0)).astype(jnp.uint8))


def _abstract_params(preset: Preset) -> dict[str, Params]:
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
