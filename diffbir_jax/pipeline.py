"""Both stages end to end: `Restorer` holds the networks of a preset and restores images with them."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.defaults import default_options
from diffbir_jax.imaging.bytes import enlarge, to_bytes, to_float
from diffbir_jax.imaging.checks import check_finite, check_proportions
from diffbir_jax.imaging.colour import wavelet_colour
from diffbir_jax.imaging.resize import at_least, resize
from diffbir_jax.loading import load_params, with_stage1
from diffbir_jax.models.presets import RESTORATION_FAMILIES, Preset, Task, family_of, get_preset
from diffbir_jax.sampling.options import Options
from diffbir_jax.stage2 import Context, Generator, apply_jit


class Restored(NamedTuple):
    """A restored image and what it came from, (H, W, 3) uint8 RGB of the output size each.

    Attributes:
        image: the result.
        stage1: the restoration module's output.
        upscaled: the input, enlarged by Pillow's bicubic filter.
        fidelity: how far guidance holds each pixel to stage 1, (H, W) uint8, 255 is 1; None unless asked for.
    """

    image: np.ndarray
    stage1: np.ndarray
    upscaled: np.ndarray
    fidelity: np.ndarray | None = None


class Request(NamedTuple):
    """An image to restore.

    Attributes:
        image: (H, W, 3) uint8 or uint16 RGB; results have its dtype.
        index: chooses the noise, so that a result does not depend on what is restored beside it.
        clean: (h, w, 3) uint8 or uint16 RGB, the image after stage 1, from another tool; resized if need be.
        mask: (h, w) uint8, a factor on the guidance weight: 255 is 1, 0 leaves stage 2 free; resized if need be.
    """

    image: np.ndarray
    index: int = 0
    clean: np.ndarray | None = None
    mask: np.ndarray | None = None


class Outcome(NamedTuple):
    """What became of a request.

    Attributes:
        position: of the request, counted from 0.
        results: one per variant; none if it failed.
        error: why it failed, or None.
    """

    position: int
    results: tuple[Restored, ...] = ()
    error: Exception | None = None


class Restorer(Generator):
    """The networks of one preset with their parameters: a `Generator` with stage 1 and images around it."""

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
        return [self.restore_one(im, upscale, options, i, context=context) for i, im in enumerate(images)]

    def restore_many(
        self,
        requests: Iterable[Request],
        upscale: float = 1.0,
        options: Options | None = None,
        *,
        count: int = 1,
        with_fidelity: bool = False,
        stage1_only: bool = False,
    ) -> Iterator[Outcome]:
        """Restore any number of images; what fails does not stop the others."""
        options = options or default_options(self.preset.name)
        for position, (image, index, clean, mask) in enumerate(requests):
            try:
                if stage1_only:
                    yield Outcome(position, (self.clean_one(image, upscale, clean),))
                    continue
                found = self.variants(
                    image, upscale, options, count, index, clean=clean, mask=mask, with_fidelity=with_fidelity
                )
                yield Outcome(position, tuple(found))
            except ValueError as error:
                yield Outcome(position, error=error)

    def restore_one(
        self, image: np.ndarray, upscale: float, options: Options, index: int = 0, **more: Any
    ) -> Restored:
        """Restore one image; arguments and errors as in `variants`."""
        return next(self.variants(image, upscale, options, 1, index, **more))

    def variants(
        self,
        image: np.ndarray,
        upscale: float,
        options: Options,
        count: int,
        index: int = 0,
        *,
        context: Context | None = None,
        clean: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        with_fidelity: bool = False,
    ) -> Iterator[Restored]:
        """Restore one image several times, each with other noise: what differs was invented.

        Args:
            image: (H, W, 3) uint8 RGB.
            upscale: output side divided by input side (above 0).
            options: how to sample.
            count: number of results; the first is what `restore_one` returns.
            index: chooses the noise.
            context: as in `restore`.
            clean: (h, w, 3) uint8 RGB, the image after stage 1, from another tool; resized if need be.
            mask: (h, w) uint8, a factor on the guidance weight: 255 is 1, 0 leaves stage 2 free; resized if need be.
            with_fidelity: whether results show where guidance holds them.

        Raises:
            ValueError: as in `restore`, or `clean` or `mask` has other proportions than `image`.
        """
        self.check(options, context)
        upscaled = enlarge(image, upscale)
        stage1, size = self._clean(image, upscaled, clean), upscaled.shape[:2]
        factor = None if mask is None else self._mask(mask, image, stage1)
        shown = None
        if with_fidelity:
            shown = np.asarray(to_bytes(self.fidelity(stage1, options, factor), size)[0, :, :, 0])
        for variant in range(count):
            generated = self.stage2(stage1, options, [index], context, mask=factor, variant=variant)
            check_finite(generated, "stage 2", self.dtype)
            result = self.finish(generated, stage1, size)
            yield Restored(result[0], np.asarray(to_bytes(stage1, size)[0]), upscaled, shown)

    def _mask(self, mask: np.ndarray, image: np.ndarray, stage1: jax.Array) -> jax.Array:
        """A factor (1, H, W, 1) in [0, 1] of stage 1's size."""
        check_proportions(mask, image, "mask")
        _, height, width, _ = stage1.shape
        return jnp.clip(resize(to_float(mask[..., None]), (height, width)), 0.0, 1.0)

    def clean_one(self, image: np.ndarray, upscale: float, clean: np.ndarray | None = None) -> Restored:
        """Take one image through stage 1 alone, which is then the result; all else as in `restore_one`."""
        upscaled = enlarge(image, upscale)
        result = np.asarray(to_bytes(self._clean(image, upscaled, clean), upscaled.shape[:2])[0])
        return Restored(result, result, upscaled)

    def _clean(self, image: np.ndarray, upscaled: np.ndarray, ready: np.ndarray | None) -> jax.Array:
        """Stage 1 of an image, which a module that enlarges takes as it is and others take upscaled."""
        size = upscaled.shape[:2]
        if ready is not None:
            check_proportions(ready, image, "stage-1 image")
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
        out = apply_jit(self.preset.make_rm(self.dtype), self.params["rm"], self._pad(lq, config.multiple))
        return self._fit(out[:, : height * scale, : width * scale], size)

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

    def _fit(self, image: jax.Array, size: tuple[int, ...]) -> jax.Array:
        """Resize (B, H, W, 3) to `size`, or beyond it to the preset's minimum."""
        return resize(image, at_least(size, self.preset.min_side))


@functools.partial(jax.jit, static_argnames=("size", "levels"))
def _finish(generated: jax.Array, clean: jax.Array, size: tuple[int, int], levels: int) -> jax.Array:
    return to_bytes(wavelet_colour((generated + 1.0) / 2.0, clean, levels), size)
