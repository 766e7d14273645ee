"""Suite files: small versioned TOML files beside this module that pin inputs, methods and scoring."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.toml import read_toml
from diffbir_jax.models.presets import Task, with_stage2
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.sampling.options import Options

FOLDER = Path(__file__).parent
DEFAULT = "default"
Method = Literal["bicubic", "nlm_lanczos", "rm", "diffbir", "realesrgan"]
# The allowed values of each entry. So far there is one each; every result states it.
Colour = Literal["srgb-8bit, y-bt601"]
Bicubic = Literal["pillow"]


@dataclass(frozen=True)
class Dataset:
    """A published set of images.

    Attributes:
        name: its folder below `--data`, or below the suite's own if the suite ships it: inputs in `lq`, ground truths
            in `gt`, with the same names.
        images: number of images.
        truths: whether it has ground truths.
        published: where to get it.
        whole: whether they are whole photos, whose faces are restored and pasted.
        own: whether it is the user's: any number of images, and left out if its folder is missing.
        metrics: replace the suite's, if there are any.
        reference: the entry of `Suite.references` that FID is taken against, "" for the ground truths.
    """

    name: str
    images: int
    truths: bool
    published: str
    whole: bool = False
    own: bool = False
    metrics: tuple[str, ...] = ()
    reference: str = ""


@dataclass(frozen=True)
class Reference:
    """A published set of clean images that FID compares results with.

    Attributes:
        name: its folder below `--data`; it may have subfolders.
        images: number of images.
        published: where to get it.
    """

    name: str
    images: int
    published: str


@dataclass(frozen=True)
class Point:
    """How one version of the networks samples; "default" is its value in `restoration/defaults.py`.

    Attributes:
        sampler, steps, cfg_scale: as in `Options`.
        guidance_scales: one row of the table each.
    """

    sampler: str
    steps: int | Literal["default"]
    cfg_scale: float | Literal["default"]
    guidance_scales: tuple[float | Literal["default"], ...]

    def options(self, version: str) -> list[Options]:
        """Return the options of each guidance scale, with every default filled in.

        Raises:
            ValueError: a value is out of range.
        """
        named = {name: getattr(self, name) for name in ("sampler", "steps", "cfg_scale")}
        changes = {name: value for name, value in named.items() if value != DEFAULT}
        point = dataclasses.replace(default_options(version), **changes)
        scales = [point.guidance_scale if s == DEFAULT else float(s) for s in self.guidance_scales]
        return [dataclasses.replace(point, guidance_scale=scale) for scale in scales]


@dataclass(frozen=True)
class Suite:
    """The content of a suite file.

    Attributes:
        name: name of the file, without its suffix.
        version: raised when anything changes that scores depend on.
        title: in one line.
        task: selects among the networks of a version.
        upscale: side of results / side of inputs.
        crop: pixels along every edge that PSNR and SSIM leave out.
        colour: the colours that are compared.
        bicubic: the implementation of the bicubic row, which also enlarges inputs before stage 1.
        metrics: names, or groups of them.
        methods: the methods to compare; `diffbir` is a row per guidance scale.
        seeds: seeds of sampling. The default guidance scale uses all of them, and their results are compared for
            stability; other scales use the first.
        datasets: the images to restore.
        versions: how each version of the networks samples.
        references: the sets that FID may be taken against.
        sha256: SHA-256 of files below the suite's folder, by path, if it ships its images.
    """

    name: str
    version: int
    title: str
    task: Task
    upscale: int
    crop: int
    colour: Colour
    bicubic: Bicubic
    metrics: tuple[str, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    datasets: tuple[Dataset, ...]
    versions: Mapping[str, Point]
    references: tuple[Reference, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def shipped(self) -> Path | None:
        """The folder of its images; None if others publish them."""
        return FOLDER / self.name if self.sha256 else None


def suite_names(folder: Path = FOLDER) -> list[str]:
    """Return the names of all suites."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def read_suite(name: str, folder: Path = FOLDER) -> Suite:
    """Read the suite `name`, from `folder`/<name>.toml.

    Raises:
        ValueError: there is no such suite, or its file is wrong.
    """
    path = folder / f"{name}.toml"
    if not path.is_file():
        raise UserError(f"suite {name!r} given, allowed are {', '.join(suite_names(folder))}")
    try:
        suite = read_toml(path, Suite, {"name": name})
        _check(suite)
    except ValueError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    return suite


def _check(suite: Suite) -> None:
    """Raise ValueError for values that no run can use."""
    # Stage-1 presets have no sampler, so a suite cannot set one for them.
    if unknown := sorted(suite.versions.keys() - {*with_stage2()}):
        raise UserError(f"versions: {unknown[0]!r} given, allowed are {', '.join(with_stage2())}")
    if not (suite.datasets and suite.methods and suite.metrics and suite.seeds):
        raise UserError("datasets, methods, metrics and seeds need an entry each")
    for name in ("upscale", "crop"):
        least = int(name == "upscale")
        if getattr(suite, name) < least:
            raise UserError(
                f"{name} is {getattr(suite, name)}; allowed are whole numbers of at least {least}"
            )
    known = {"", *(each.name for each in suite.references)}
    if unknown := [each for each in suite.datasets if each.reference not in known]:
        raise UserError(f"{unknown[0].name}: no entry of references is named {unknown[0].reference!r}")
    for version, point in suite.versions.items():
        # Called for its checks: a wrong value must not appear after hours of restoring.
        point.options(version)
    for seed in suite.seeds:
        Options(seed=seed)
