"""--from-sidecar: repeat a run that a sidecar describes."""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffbir_jax.batch.jobs import Job, check_jobs
from diffbir_jax.batch.names import outputs_of
from diffbir_jax.batch.settings import (
    MADE_FLAGS,
    PLACES,
    RECIPE_FIELDS,
    FlagError,
    Recipe,
    Settings,
    from_record,
)
from diffbir_jax.batch.sidecar import Sidecar, Source, read_record
from diffbir_jax.console.errors import UserError
from diffbir_jax.files.checked import file_name
from diffbir_jax.files.digest import sha256, weights_record
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.files.records import device, versions
from diffbir_jax.restoration.geometry import check_bounds, check_plan
from diffbir_jax.restoration.lora_flag import Lora
from diffbir_jax.sampling.operators import parse
from diffbir_jax.sampling.options import Options

# Characters of a path in a message: a sidecar may name any.
LONGEST = 1000
WORDS = ("captions", "captioner", "captioner_prompt")
DECIDED = {*RECIPE_FIELDS, *MADE_FLAGS, *WORDS, "paths", "list", "auto", "memory_gb", "vae_norms"} - {
    *PLACES,
    "operator",
}


def recipe_of(args: argparse.Namespace) -> tuple[Recipe, Sidecar]:
    """Return the recipe of the sidecar on the command line, with paths from the flags, and the sidecar's record.

    Raises:
        FlagError: other flags set what the sidecar decides.
        UserError: the sidecar cannot be read or used.
    """
    flags = {"paths": "several inputs"}
    extra = sorted(flags.get(name, f"--{name.replace('_', '-')}") for name in args.given & DECIDED)
    if extra:
        raise FlagError(f"--from-sidecar decides {', '.join(extra)}; leave that out")
    record = read_record(args.from_sidecar)
    try:
        recipe = from_record(record.parameters)
        check_backgrounds(recipe, record)
        check_plans(recipe, record)
    except UserError as error:
        raise UserError(f"{args.from_sidecar}: {error}") from None
    changes = {name: getattr(args, name) for name in args.given & {*PLACES}}
    if "stage1" in changes and recipe.stage1 is None:
        raise FlagError("--stage1 is given, but the sidecar's stage 1 is the version's own; leave it out")
    if "background" in changes and recipe.backs is None:
        raise FlagError("--background is given, but the sidecar knows no folder of backgrounds; leave it out")
    if "operator" in args.given:
        changes["options"] = moved_operator(recipe.options, args.operator)
    if "lora" in changes:
        changes["lora"] = moved_loras(recipe.lora, changes["lora"])
    return dataclasses.replace(recipe, **changes), record


def moved_operator(then: Options, now: str) -> Options:
    """Return the options of a sidecar with the mask of its operator where it is now; FlagError for another operator."""
    spec = parse(now)
    if then.known is None or spec.mask is None or dataclasses.replace(then.known, mask=spec.mask) != spec:
        raise FlagError(
            f"--operator is {now}, the sidecar's {then.operator}; leave it out, or give the same with its mask moved"
        )
    return dataclasses.replace(then, operator=now)


def moved_loras(then: Sequence[Lora], now: Sequence[Lora]) -> tuple[Lora, ...]:
    """Return the LoRAs of a sidecar where they are now, in its order; FlagError for others than it names."""
    if len(then) != len(now):
        raise FlagError(
            f"--lora is given {len(now)} times, the sidecar names {len(then)}; give each one, in its order"
        )
    for old, new in zip(then, now):
        if new.scale not in (1.0, old.scale):
            raise FlagError(
                f"--lora {new.path} has the scale {new.scale:g}, the sidecar {old.scale:g}; leave it out"
            )
    return tuple(Lora(new.path, old.scale) for old, new in zip(then, now))


def check_plans(recipe: Recipe, record: Sidecar) -> None:
    """Raise UserError if the networks cannot, or must not, be cut as a sidecar says, before they are loaded."""
    preset = recipe.preset()
    if recipe.stage1 is not None:
        # Only its file says which sides another stage 1 takes.
        preset = dataclasses.replace(preset, rm=None)
    for plan in (record.plan, record.crops):
        if plan is not None:
            check_plan(plan, preset)
            check_bounds(plan, preset, recipe.options.tiling)


def check_backgrounds(recipe: Recipe, record: Sidecar) -> None:
    """Raise UserError if a sidecar names a folder of backgrounds and no file in it, or the other way round."""
    if (recipe.backs is None) != (record.ground is None):
        there = "no background file" if record.ground is None else "a background file"
        raise UserError(
            f"names {there}, and its background is {recipe.background!r}; give the .json file beside a result"
        )


def repeated_job(settings: Settings, record: Sidecar) -> Job:
    """Return the job of a sidecar.

    Args:
        settings: the run. If it names no input or mask, the sidecar's paths apply.
        record: the sidecar.

    Raises:
        FlagError: there is a mask in the settings and none in the sidecar.
        ImageFileError: a file is missing or has changed, or would be overwritten.
    """
    if settings.fidelity_mask and record.mask is None:
        raise FlagError("--fidelity-mask is given, but the sidecar knows no mask; leave it out")
    name, stage1 = Path(file_name(record.name)), settings.recipe.stage1
    moved = Path(stage1) if stage1 and stage1 != record.parameters["stage1"] else None
    background = settings.recipe.background
    moved_ground = Path(background) if background != record.parameters.get("background") else None
    job = Job(
        find_again(record.input, settings.input, "input"),
        name,
        record.noise_index,
        outputs_of(settings, name, many=False),
        record.clean and find_again(record.clean, moved, "stage-1 image"),
        record.mask and find_again(record.mask, settings.fidelity_mask, "mask"),
        record.ground and find_again(record.ground, moved_ground, "background"),
        record.caption,
    )
    check_hides(settings.recipe, record)
    check_jobs([job], settings)
    return job


def check_hides(recipe: Recipe, record: Sidecar) -> None:
    """Raise UserError unless the mask of a known degradation is the file that the sidecar names."""
    if (recipe.hides is None) != (record.hides is None):
        raise UserError(
            "the sidecar's operator and its file of a mask do not fit; give the .json file beside a result"
        )
    if recipe.hides is not None and record.hides is not None:
        find_again(record.hides, Path(recipe.hides), "mask of the operator")


def find_again(entry: Source, place: Path | None, what: str) -> Path:
    """Return where a recorded file is: at its own path, or at `place`, a file or a folder.

    Raises:
        ImageFileError: it is missing, or has other bytes.
    """
    recorded = Path(file_name(entry.path))
    path = recorded if place is None else place / recorded.name if place.is_dir() else place
    told = str(path) if len(str(path)) <= LONGEST else f"{str(path)[:LONGEST]}..."
    # Not `path.is_file()`, which raises for names that are too long for the system.
    if not os.path.isfile(path):
        flags = {"input": "--input", "stage-1 image": "--stage1", "mask": "--fidelity-mask"}
        flag = (flags | {"mask of the operator": "--operator"}).get(what, "--background")
        raise ImageFileError(f"{told}: the {what} that the sidecar names is no file; give it by {flag}")
    if path.stat().st_size != entry.bytes or sha256(path) != entry.sha256:
        raise ImageFileError(
            f"{told}: is not the {what} that the sidecar names (its SHA-256 differs); find the original"
        )
    return path


def check_weights(record: Sidecar, weights: Mapping[str, Path]) -> None:
    """Raise ImageFileError unless the weights files are those of a sidecar; `weights` maps networks to files."""
    found, wanted = weights_record(weights), record.weights
    for module in sorted(found.keys() | wanted.keys()):
        there = module in found and module in wanted
        if not there or found[module]["sha256"] != wanted[module].sha256:
            file = weights.get(module) or wanted[module].file
            lora = module.startswith("lora_")
            instead = (
                "the original file as --lora" if lora else "the folder of the original ones as --weights"
            )
            raise ImageFileError(
                f"{file}: the weights of {module} are not those that the sidecar names (their SHA-256 differs); "
                f"give {instead}"
            )


def differences(record: Sidecar) -> str:
    """Return the versions and devices that differ between this process and a sidecar; empty if none differs."""
    now, then = versions() | device(), record.versions | record.device
    changed = [
        f"{name} {then.get(name)} then, {value} now" for name, value in now.items() if then.get(name) != value
    ]
    return "; ".join(changed)
