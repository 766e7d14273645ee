"""The flags of `diffbir restore` as typed values: the recipe, which a sidecar repeats, and the run."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffbir_jax.batch.checks import (
    FlagError,
    check_auto,
    check_captions,
    check_flags,
    check_resume,
    check_run,
    check_version,
)
from diffbir_jax.console.errors import UserError, as_flags
from diffbir_jax.faces.choice import Faces
from diffbir_jax.faces.flags import BACKGROUNDS, FACE_FLAGS
from diffbir_jax.files.checked import checked
from diffbir_jax.models.attention import Backend
from diffbir_jax.models.presets import PRESETS, AnyTask, Preset, get_preset
from diffbir_jax.restoration.flags import options_from
from diffbir_jax.restoration.lora_flag import Lora
from diffbir_jax.restoration.names import FACES, NO_STAGE1, PRECISIONS
from diffbir_jax.sampling.operators import parse
from diffbir_jax.sampling.options import Options

Format = Literal["png", "jpeg", "webp", "tiff", "same"]
BitDepth = Literal["same", "8", "16"]
# These say where the sidecar's files are now. The sidecar alone decides the rest of a recipe.
PLACES = ("weights", "stage1", "background", "lora")
# More is a wrong unit, such as per cent, or a slip of the finger.
MOST_UPSCALE, MOST_SAMPLES = 1000, 1000


@dataclass(frozen=True)
class Recipe:
    """How every image is restored. With the input and the weights it decides all bytes of the results.

    Attributes:
        version, task, weights, stage1, stage1_only, precision: the networks, as in the flags of these names.
        upscale: output side / input side.
        n_samples, compare, save_stages, std_map: which files are made, as in the flags of these names.
        format, quality, bit_depth: how results are written.
        max_pixels: images with more pixels fail, which are inputs, masks, backgrounds or ready-made stages.
        options: how stage 2 samples.
        faces: which faces are restored and how they are pasted; None without --task faces.
        background: what they are pasted into: a word of `faces.flags.BACKGROUNDS`, or a folder.
        save_faces: whether crops are written.
        lora: LoRA files that are merged into the networks.
        attention: how networks compute attention.
        copied: whether the result is the file of the photo, byte for byte; only --auto decides so.
    """

    version: str
    task: AnyTask
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
    faces: Faces | None = None
    background: str = "sr"
    save_faces: bool = False
    lora: tuple[Lora, ...] = ()
    attention: Backend = "auto"
    copied: bool = False

    def __post_init__(self) -> None:
        """Check values; UserError for one that no run can use."""
        for name, given, known in (
            ("version", self.version, PRESETS),
            ("precision", self.precision, PRECISIONS),
        ):
            if given not in known:
                raise UserError(f"`{name}` is {given!r}; allowed are {', '.join(known)}")
        if (self.task == FACES) != (self.faces is not None):
            raise UserError(
                f"`task` is {self.task!r}; {FACES!r} has a choice of faces, and no other task has one"
            )
        if self.copied and (not self.leaves_alone or self.upscale != 1 or self.n_samples != 1):
            raise UserError(
                "copied is true, but the photo is changed; true is allowed for a photo left alone"
            )
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
    def leaves_alone(self) -> bool:
        """Whether no network changes a photo."""
        return self.stage1_only and self.stage1 == NO_STAGE1

    @property
    def keeps_stages(self) -> bool:
        """Whether results that show stage 1 are written."""
        return self.compare or self.save_stages

    @property
    def backs(self) -> Path | None:
        """The folder of backgrounds, if faces are pasted into ready ones."""
        return None if self.faces is None or self.background in BACKGROUNDS else Path(self.background)

    @property
    def writes_photos(self) -> bool:
        """Whether whole photos are written, and not only crops of faces."""
        return self.faces is None or self.background != "none"

    @property
    def writes_faces(self) -> bool:
        """Whether crops of faces are written."""
        return self.faces is not None and (self.save_faces or not self.writes_photos)

    @property
    def hides(self) -> str | None:
        """The mask of a known degradation, or None."""
        return None if self.options.known is None else self.options.known.mask

    @property
    def colours(self) -> bool:
        """Whether gray photos get colours."""
        return self.options.known is not None and self.options.known.gray

    def preset(self, faces: bool = False) -> Preset:
        """The networks of whole images or, of `faces`, those of aligned crops.

        Without a background to restore, --task faces needs only the latter.
        """
        if self.faces is None:
            return get_preset(self.version, self.task)  # pyright: ignore[reportArgumentType]
        return get_preset(self.version, "face" if faces or self.background != "sr" else "sr")


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
        captions: where words for the inputs are: a folder of texts or a table, see `captions.captions_of`; "sidecars",
            see `captions.earlier_captions`; "auto", see `captioning.with_captions`; or None.
        captioner, captioner_prompt: of "auto", see `restoration.captioner.Captioner`.
        skip_existing: whether to leave out inputs whose results all exist.
        sidecar: whether to write sidecars.
        open: whether a page of all results is written and opened.
        report: where the summary goes as JSON, or None.
        memory_gb: memory limit in GiB, or None for the machine's memory.
        vae_norms: the statistics by which the autoencoder normalises tiles.
        plan: print the plan and stop.
        warmup: compile all programs and stop.
        yes: download missing weights without asking.
        hosts, host_index: this run takes every `hosts`-th input, starting with number `host_index`.
        auto: whether each photo gets options of its own, from the estimate of its degradation.
        given: names of the flags on the command line, which `auto` leaves as they are.
    """

    recipe: Recipe
    output: Path
    input: Path | None = None
    paths: Sequence[Path] = ()
    list: str | None = None
    guidance_map: Path | None = None
    fidelity_mask: Path | None = None
    captions: Path | Literal["sidecars", "auto"] | None = None
    captioner: str | None = None
    captioner_prompt: str | None = None
    skip_existing: bool = False
    sidecar: bool = True
    open: bool = False
    report: Path | None = None
    memory_gb: float | None = None
    vae_norms: Literal["image", "tile"] = "image"
    plan: bool = False
    warmup: bool = False
    yes: bool = False
    hosts: int = 1
    host_index: int = 0
    auto: bool = False
    given: frozenset[str] = frozenset()


# Fields of a recipe that are no flags: several flags make them, or --auto.
MADE = ("options", "faces", "copied")
RECIPE_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe) if field.name not in MADE)
# Flags that they are made of.
MADE_FLAGS = (*(field.name for field in dataclasses.fields(Options)), *FACE_FLAGS)
RUN_FIELDS = tuple(field.name for field in dataclasses.fields(Settings) if field.name != "recipe")
# Sidecars from before faces lack the others.
NEEDED = tuple(field.name for field in dataclasses.fields(Recipe) if field.default is dataclasses.MISSING)
OPTION_FIELDS = tuple(field.name for field in dataclasses.fields(Options))


def settings_from(args: argparse.Namespace, recipe: Recipe | None = None) -> Settings:
    """Return the run of a command line, with the recipe of a sidecar or of the flags.

    Raises:
        FlagError: flags contradict each other, or options are out of range.
    """
    if recipe is None:
        check_version(args)
        recipe = recipe_from(args)
        check_auto(args, recipe)
        check_flags(args, recipe)
        check_captions(args, recipe)
    check_run(args)
    check_resume(args, recipe)
    values = {name: getattr(args, name) for name in RUN_FIELDS}
    values.update(hosts=args.hosts or 1, host_index=args.host_index or 0)
    return Settings(recipe, **values)


def recipe_from(args: argparse.Namespace) -> Recipe:
    """Return the recipe that the flags describe; FlagError for options out of range."""
    values = {name: getattr(args, name) for name in RECIPE_FIELDS}
    values["lora"] = tuple(args.lora or ())
    if args.operator is not None and "upscale" not in args.given:
        values["upscale"] = float(parse(args.operator).scale)
    values["stage1_only"] |= get_preset(args.version).stage1_only
    try:
        return Recipe(**values, options=options_from(args), faces=faces_from(args))
    except UserError as error:
        raise FlagError(as_flags(str(error))) from None


def faces_from(args: argparse.Namespace) -> Faces | None:
    """Return the choice of faces that the flags describe; None without --task faces."""
    if args.task != FACES:
        return None
    least, most = args.face_size
    return Faces(
        least,
        most,
        args.only_largest,
        args.skip_sharp,
        args.face_strength,
        args.mask,
        compat=args.compat,
    )


def as_record(recipe: Recipe) -> dict[str, object]:
    """Return a recipe in a form that JSON can hold."""
    record = dataclasses.asdict(recipe)
    loras = [{"path": str(lora.path), "scale": lora.scale} for lora in recipe.lora]
    weights = None if recipe.weights is None else str(recipe.weights)
    return record | {"weights": weights, "lora": loras, "options": recipe.options.record()}


def from_record(record: dict[str, object]) -> Recipe:
    """Return the recipe of `as_record`.

    Raises:
        ValueError: entries are missing or unknown, or options are out of range.
    """
    missing = [name for name in NEEDED if name not in record]
    given = record.get("options")
    options = given if isinstance(given, dict) else {}
    unknown = [*(record.keys() - {*RECIPE_FIELDS, *MADE}), *(options.keys() - {*OPTION_FIELDS})]
    if missing or unknown:
        wrong = "lacks" if missing else "has unknown"
        raise UserError(
            f"{wrong} parameters {', '.join(missing or sorted(unknown))}; it is of another version"
        )
    return checked(record, Recipe)
