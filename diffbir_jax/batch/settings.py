"""The flags of `diffbir restore` as typed values: the recipe, which a sidecar repeats, and the run."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffbir_jax.console.errors import UserError, as_flags
from diffbir_jax.files.checked import checked
from diffbir_jax.models.presets import PRESETS, Task, get_preset
from diffbir_jax.restoration.flags import options_from
from diffbir_jax.restoration.names import PRECISIONS
from diffbir_jax.sampling.options import Options

Format = Literal["png", "jpeg", "webp", "tiff", "same"]
BitDepth = Literal["same", "8", "16"]
# These say where the sidecar's files are now. The sidecar alone decides the rest of a recipe.
PLACES = ("weights", "stage1")
# More is a wrong unit, such as per cent, or a slip of the finger.
MOST_UPSCALE, MOST_SAMPLES = 1000, 1000


class FlagError(UserError):
    """Flags that contradict each other, or a value that no run can use; the message says what to do."""


@dataclass(frozen=True)
class Recipe:
    """How every image is restored. With the input and the weights it decides all bytes of the results.

    Attributes:
        version, task, weights, stage1, stage1_only, precision: the networks, as in the flags of these names.
        upscale: output side / input side.
        n_samples, compare, save_stages, std_map: which files are made, as in the flags of these names.
        format, quality, bit_depth: how results are written.
        max_pixels: inputs with more pixels fail.
        options: how stage 2 samples.
    """

    version: str
    task: Task
    weights: Path | None
    stage1: str | None
    stage1_only: bool
    precision: str
    upscale: float
    n_samples: int
    compare: bool
    save_stages: bool
    std_map: bool
    format: Format
    quality: int
    bit_depth: BitDepth
    max_pixels: int
    options: Options

    def __post_init__(self) -> None:
        """Check values; UserError for one that no run can use."""
        if self.version not in PRESETS or self.precision not in PRECISIONS:
            given, allowed = (
                (self.version, PRESETS) if self.version not in PRESETS else (self.precision, PRECISIONS)
            )
            raise UserError(f"{given!r} given, allowed are {', '.join(allowed)}")
        for name, value, least, most in (
            ("upscale", self.upscale, 0, MOST_UPSCALE),
            ("n_samples", self.n_samples, 1, MOST_SAMPLES),
            ("quality", self.quality, 1, 100),
            ("max_pixels", self.max_pixels, 1, 2**48),
        ):
            if not least <= value <= most or value == 0:
                raise UserError(
                    f"`{name}` is {value:g}; allowed are {least or 'numbers above 0'} to {most:g}"
                )

    @property
    def keeps_stages(self) -> bool:
        """Whether results that show stage 1 are written."""
        return self.compare or self.save_stages


@dataclass(frozen=True)
class Settings:
    """A run.

    Attributes:
        recipe: how every image is restored.
        output: the folder for results.
        input: a file or a folder, or None.
        paths: several files or folders instead, or none.
        list: a file of paths, "-" for standard input, or None.
        guidance_map, fidelity_mask: a file or a folder each, or None.
        skip_existing: whether to leave out inputs whose results all exist.
        sidecar: whether to write sidecars.
        report: where the summary goes as JSON, or None.
        memory_gb: memory limit in GiB, or None for the machine's memory.
        vae_norms: the statistics by which the autoencoder normalises tiles.
        plan: print the plan and stop.
        warmup: compile all programs and stop.
        yes: download missing weights without asking.
        hosts, host_index: this run takes every `hosts`-th input, starting with number `host_index`.
    """

    recipe: Recipe
    output: Path
    input: Path | None = None
    paths: Sequence[Path] = ()
    list: str | None = None
    guidance_map: Path | None = None
    fidelity_mask: Path | None = None
    skip_existing: bool = False
    sidecar: bool = True
    report: Path | None = None
    memory_gb: float | None = None
    vae_norms: Literal["image", "tile"] = "image"
    plan: bool = False
    warmup: bool = False
    yes: bool = False
    hosts: int = 1
    host_index: int = 0


RECIPE_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe) if field.name != "options")
RUN_FIELDS = tuple(field.name for field in dataclasses.fields(Settings) if field.name != "recipe")
OPTION_FIELDS = tuple(field.name for field in dataclasses.fields(Options))
# Fields that mean nothing to a version with stage 1 alone. `tile` is not among them: it cuts stage-1 images, too.
STAGE2_ONLY = {*OPTION_FIELDS, "stage1", "n_samples", "std_map", "guidance_map", "fidelity_mask"} - {"tile"}


def settings_from(args: argparse.Namespace, recipe: Recipe | None = None) -> Settings:
    """Return the run of a command line, with the recipe of a sidecar or of the flags.

    Raises:
        FlagError: flags contradict each other, or options are out of range.
    """
    if recipe is None:
        check_version(args)
        recipe = recipe_from(args)
        check_flags(args, recipe)
    check_run(args)
    values: dict[str, Any] = {name: getattr(args, name) for name in RUN_FIELDS}
    values.update(hosts=args.hosts or 1, host_index=args.host_index or 0)
    return Settings(recipe, **values)


def recipe_from(args: argparse.Namespace) -> Recipe:
    """Return the recipe that the flags describe; FlagError for options out of range."""
    values = {name: getattr(args, name) for name in RECIPE_FIELDS}
    values["stage1_only"] |= get_preset(args.version).stage1_only
    try:
        return Recipe(**values, options=options_from(args))
    except UserError as error:
        raise FlagError(as_flags(str(error))) from None


def check_version(args: argparse.Namespace) -> None:
    """Raise FlagError for flags that mean nothing to a version with stage 1 alone."""
    extra = args.given & STAGE2_ONLY
    if extra and get_preset(args.version).stage1_only:
        flags = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in extra))
        raise FlagError(f"--version {args.version} is stage 1 alone and has no {flags}; leave that out")


def check_flags(args: argparse.Namespace, recipe: Recipe) -> None:
    """Raise FlagError for contradictory flags of a recipe."""
    options = recipe.options
    if recipe.std_map and recipe.n_samples == 1:
        raise FlagError("--std-map compares several results; give --n-samples of at least 2")
    if recipe.stage1_only and (recipe.n_samples > 1 or args.guidance_map or args.fidelity_mask):
        raise FlagError(
            "--stage1-only knows no --n-samples, --guidance-map and --fidelity-mask: leave them out"
        )
    detail = get_preset(recipe.version).detail(recipe.upscale) if options.detail is None else options.detail
    if recipe.n_samples > 1 and not detail:
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


def as_record(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe in a form that JSON can hold."""
    record = dataclasses.asdict(recipe)
    return record | {"weights": None if recipe.weights is None else str(recipe.weights)}


def from_record(record: dict[str, Any]) -> Recipe:
    """Return the recipe of `as_record`.

    Raises:
        ValueError: entries are missing or unknown, or options are out of range.
    """
    missing = [name for name in (*RECIPE_FIELDS, "options") if name not in record]
    given = record.get("options")
    options = given if isinstance(given, dict) else {}
    unknown = [*(record.keys() - {*RECIPE_FIELDS, "options"}), *(options.keys() - {*OPTION_FIELDS})]
    if missing or unknown:
        wrong = "lacks" if missing else "has unknown"
        raise UserError(
            f"{wrong} parameters {', '.join(missing or sorted(unknown))}; it is of another version"
        )
    return checked(record, Recipe)
