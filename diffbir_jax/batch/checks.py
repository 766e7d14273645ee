"""Contradictions on the command line of `diffbir restore`, told before anything is loaded."""

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from diffbir_jax.console.errors import UserError, as_flags
from diffbir_jax.faces.flags import BACKGROUNDS, FACE_FLAGS
from diffbir_jax.models.presets import get_preset
from diffbir_jax.restoration import auto, known
from diffbir_jax.sampling.options import Options

if TYPE_CHECKING:
    from diffbir_jax.batch.settings import Recipe

# Fields that mean nothing to a version with stage 1 alone. `tile` is not among them: it cuts stage-1 images, too.
STAGE2_ONLY = {
    *(field.name for field in dataclasses.fields(Options)),
    "stage1",
    "n_samples",
    "std_map",
    "guidance_map",
    "fidelity_mask",
    "lora",
} - {"tile"}


class FlagError(UserError):
    """Flags that contradict each other, or a value that no run can use; the message says what to do."""


def check_version(args: argparse.Namespace) -> None:
    """Raise FlagError for flags that mean nothing to a version with stage 1 alone."""
    extra = args.given & STAGE2_ONLY
    if extra and get_preset(args.version).stage1_only:
        raise FlagError(
            f"--version {args.version} is stage 1 alone and has no {flags_of(extra)}; leave that out"
        )


def check_flags(args: argparse.Namespace, recipe: "Recipe") -> None:
    """Raise FlagError for contradictory flags of a recipe."""
    options = recipe.options
    check_faces(args, recipe)
    check_operator(recipe)
    if recipe.std_map and recipe.n_samples == 1:
        raise FlagError("--std-map compares several results; give --n-samples of at least 2")
    if recipe.stage1_only and get_preset(recipe.version).one_step is not None:
        raise FlagError(f"--version {recipe.version} has no stage 1; leave --stage1-only out")
    if recipe.stage1_only and (recipe.n_samples > 1 or args.guidance_map or args.fidelity_mask):
        raise FlagError(
            "--stage1-only knows no --n-samples, --guidance-map and --fidelity-mask: leave them out"
        )
    if recipe.stage1_only and recipe.lora:
        raise FlagError("--stage1-only runs no network that --lora changes; leave one of them out")
    if recipe.n_samples > 1 and not detail_of(recipe):
        raise FlagError(
            f"--n-samples is {recipe.n_samples}, but without generated detail all samples are equal; give --detail "
            "above 0 or a larger --upscale"
        )
    if args.fidelity_mask and not options.guidance_scale:
        raise FlagError("--fidelity-mask weighs guidance, which is off; give --guidance-scale as well")
    if not options.s_churn and not (options.s_tmin is None and options.s_tmax is None):
        raise FlagError("--s-tmin and --s-tmax bound --s-churn, which is off; give --s-churn as well")
    if recipe.bit_depth == "16" and recipe.format in ("jpeg", "webp"):
        raise FlagError(f"--bit-depth is 16, but {recipe.format} holds 8; give --format png or tiff")


def check_captions(args: argparse.Namespace, recipe: "Recipe") -> None:
    """Raise FlagError for captions that no network reads."""
    if args.captions != "auto" and (extra := flags_of(args.given & {"captioner", "captioner_prompt"})):
        raise FlagError(f"{extra} belongs to --captions auto; give both, or leave it out")
    if args.captions is None:
        return
    if recipe.preset().text is None or recipe.stage1_only:
        raise FlagError(f"--version {recipe.version} reads no text here; leave --captions out")
    if recipe.faces is not None:
        raise FlagError("--task faces restores crops, for which --captions has no words; leave it out")
    if args.captions == "auto" and not args.captioner:
        raise FlagError(
            "--captions auto needs a model that sees photos; give its folder or name as --captioner, such as "
            "microsoft/git-large-coco (for a file named auto write ./auto)"
        )


def check_operator(recipe: "Recipe") -> None:
    """Raise FlagError for a known degradation that the version, the task or the upscale does not go with."""
    spec = recipe.options.known
    if spec is None:
        return
    try:
        known.check(recipe.preset(), recipe.options)
    except UserError as error:
        raise FlagError(as_flags(str(error))) from None
    if recipe.faces is not None or recipe.stage1_only:
        other = "--task faces" if recipe.faces is not None else "--stage1-only"
        raise FlagError(
            f"--operator is about whole results of stage 2 and does not go with {other}; leave one out"
        )
    if recipe.upscale != spec.scale:
        raise FlagError(
            f"--upscale is {recipe.upscale:g}, but --operator {spec.words} needs {spec.scale}; leave --upscale out"
        )


def check_auto(args: argparse.Namespace, recipe: "Recipe") -> None:
    """Raise FlagError for flags that do not go with --auto."""
    if not args.auto:
        return
    try:
        auto.check_auto(recipe.version, args.given)
    except UserError as error:
        raise FlagError(as_flags(str(error))) from None


def detail_of(recipe: "Recipe") -> float:
    """Return the share of generated detail in results; that in crops of faces does not depend on the upscale."""
    if recipe.options.detail is not None:
        return recipe.options.detail
    return 1.0 if recipe.faces else get_preset(recipe.version).detail(recipe.upscale)


def check_faces(args: argparse.Namespace, recipe: "Recipe") -> None:
    """Raise FlagError for flags that do not go with faces, or only with them."""
    if recipe.faces is None:
        if extra := flags_of(args.given & {*FACE_FLAGS}):
            raise FlagError(f"{extra} belongs to --task faces; give both, or leave it out")
        return
    if extra := flags_of(args.given & {"fidelity_mask", "guidance_map"}):
        raise FlagError(f"--task faces knows no {extra}; leave it out")
    if recipe.stage1 and Path(recipe.stage1).is_dir():
        raise FlagError(
            f"--stage1 {recipe.stage1} is a folder; --task faces restores crops, too: give a name, a file or none"
        )
    if recipe.faces.compat and (extra := flags_of(args.given & {"mask", "face_strength"})):
        raise FlagError(f"--compat pastes as the reference does, which knows no {extra}; leave it out")
    check_background(args, recipe)


def check_background(args: argparse.Namespace, recipe: "Recipe") -> None:
    """Raise FlagError for a background that is not there, or for files that need one."""
    if recipe.backs is not None and not recipe.backs.is_dir():
        words = ", ".join(BACKGROUNDS)
        raise FlagError(f"--background is {recipe.background}, and no folder; use {words} or a folder")
    if recipe.writes_photos:
        return
    if extra := flags_of(args.given & {"compare", "save_stages", "std_map", "open"}):
        raise FlagError(f"--background none writes no whole photos and knows no {extra}; leave it out")


def flags_of(names: Iterable[str]) -> str:
    """Return the flags of some fields, with commas."""
    return ", ".join(sorted(f"--{name.replace('_', '-')}" for name in names))


def check_resume(args: argparse.Namespace, recipe: "Recipe") -> None:
    """Raise FlagError if nothing tells how many crops of faces a photo has."""
    if recipe.writes_faces and args.skip_existing and not args.sidecar:
        given = "--save-faces" if recipe.save_faces else "--background none"
        raise FlagError(
            f"{given} with --no-sidecar leaves nothing that tells --skip-existing what is done; leave one out"
        )


def check_run(args: argparse.Namespace) -> None:
    """Raise FlagError for contradictory flags about reading, writing and sharing."""
    if args.list is not None and (args.input is not None or args.paths):
        raise FlagError("an input and --list are both given; give one of them")
    many = args.list is not None or bool(args.paths) or (args.input is not None and args.input.is_dir())
    if args.guidance_map and (args.guidance_map.suffix.lower() == ".png") == many:
        wanted = "a folder for several inputs" if many else "a .png file for a single input"
        raise FlagError(f"--guidance-map is {args.guidance_map}; give {wanted}")
    if args.report and args.report.suffix != ".json":
        raise FlagError(f"--report is {args.report}; give a .json file")
    check_hosts(args)


def check_hosts(args: argparse.Namespace) -> None:
    """Raise FlagError for contradictory numbers of hosts."""
    if args.coordinator and not args.distributed:
        raise FlagError("--coordinator is an address for --distributed; give both or neither")
    if (args.hosts is None) != (args.host_index is None) and args.hosts != 1:
        raise FlagError("--hosts and --host-index belong together; give both or neither")
    if args.host_index is not None and args.host_index >= args.hosts:
        allowed = f"allowed with --hosts {args.hosts} are 0 to {args.hosts - 1}"
        raise FlagError(f"--host-index is {args.host_index}; {allowed}")
