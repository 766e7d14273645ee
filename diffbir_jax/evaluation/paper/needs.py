"""What a table needs before it can be measured, and which of it is here: images, weights, packages."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffbir_jax.console.errors import MissingFileError
from diffbir_jax.console.extras import is_installed
from diffbir_jax.console.pages import page
from diffbir_jax.console.tables import aligned
from diffbir_jax.evaluation.metric import Metric, Setup, UnavailableError
from diffbir_jax.evaluation.paper.table import Table
from diffbir_jax.evaluation.pyiqa_bridge import LICENCE
from diffbir_jax.evaluation.registry import select
from diffbir_jax.evaluation.suites.spec import Suite, read_suite
from diffbir_jax.imaging.listing import list_folder
from diffbir_jax.models.presets import Preset, get_preset
from diffbir_jax.weights import find
from diffbir_jax.weights.file import WeightFile
from diffbir_jax.weights.loading import weight_files
from diffbir_jax.weights.registry import NEEDED, needed


@dataclass(frozen=True)
class Places:
    """Where images and weights are, as the flags say; None if they do not."""

    data: Path | None = None
    weights: Path | None = None
    metric_weights: Path | None = None


@dataclass(frozen=True)
class Need:
    """One thing that a table needs.

    Attributes:
        kind: "images", "weights", "package" or "metric".
        what: its place or name, size and licence.
        todo: how to get it; "" if it is here.
    """

    kind: str
    what: str
    todo: str = ""


def find_needs(table: Table, places: Places) -> list[Need]:
    """Return all that a table needs, each once; nothing is loaded."""
    found: list[Need] = []
    for suite in map(read_suite, table.suites):
        numbers = table.of(suite.name)
        found += image_needs(suite, {number.dataset for number in numbers}, places.data)
        found += reference_needs(
            suite, {number.dataset for number in numbers if number.metric == "fid"}, places.data
        )
        found += weight_needs(get_preset(table.version, suite.task), suite, places.weights)
    metrics = select(number.metric for number in table.numbers)
    found += [*package_needs(metrics), *metric_needs(metrics, places.metric_weights)]
    return list(dict.fromkeys(found))


def image_needs(suite: Suite, names: Iterable[str], root: Path | None) -> Iterator[Need]:
    """Yield the folders of data sets."""
    # A suite that ships its images has them.
    for dataset in () if suite.shipped else suite.datasets:
        for kind in ("lq", "gt")[: 1 + dataset.truths]:
            if dataset.name in names:
                yield _folder(root, f"{dataset.name}/{kind}", dataset.images, dataset.published)


def reference_needs(suite: Suite, names: Iterable[str], root: Path | None) -> Iterator[Need]:
    """Yield the folders of the sets that FID of data sets is taken against."""
    used = {dataset.reference for dataset in suite.datasets if dataset.name in names}
    for each in suite.references:
        if each.name in used:
            yield _folder(root, each.name, each.images, each.published)


def _folder(root: Path | None, name: str, wanted: int, published: str) -> Need:
    """The need of a folder with a number of images, its subfolders included."""
    place = (root or Path("DIR")) / name
    here = len(list_folder(place).images) if root and place.is_dir() else 0
    what = f"{place}: {here:,} of {wanted:,} images"
    # Scores of a part, or of more images, are not those of the paper.
    return Need("images", what, "" if here == wanted else f"put them there (--data DIR), from {published}")


def weight_needs(preset: Preset, suite: Suite, folder: Path | None) -> Iterator[Need]:
    """Yield the weights of both stages: published files with those that conversion makes of them."""
    published = needed(preset.name, suite.task) if preset.name in NEEDED else []
    stems = {module: getattr(preset.files, module) for module in preset.modules}
    lacking = [stem for module, stem in stems.items() if not _is_here(preset, folder, module)]
    for file in published:
        if made := [stem for stem in stems.values() if stem in file.stems]:
            size = f"{file.size:,} bytes" if file.size else "size not published"
            what = f"{', '.join(made)}: {file.name} ({size}, {file.licence})"
            yield Need("weights", what, _fetch(file, folder) if {*made} & {*lacking} else "")
    known = {stem for file in published for stem in file.stems}
    for stem in stems.values():
        if stem not in known:
            yield Need("weights", stem, f"see {page('published')}" if stem in lacking else "")


def _is_here(preset: Preset, folder: Path | None, module: str) -> bool:
    try:
        return bool(weight_files(preset, folder, [module]))
    except MissingFileError:
        return False


def _fetch(file: WeightFile, folder: Path | None) -> str:
    """The commands that fetch and convert a published file."""
    here = find(file.name)
    path = here or f"$(diffbir weights path {file.name})"
    convert = f"diffbir convert --input {path} --output {folder or 'DIR'}"
    told = convert if here else f"diffbir weights fetch {file.name} && {convert}"
    return told if folder else f"{told} (then --weights DIR)"


def package_needs(metrics: Sequence[Metric]) -> Iterator[Need]:
    """Yield the packages of metrics."""
    for name in dict.fromkeys(name for metric in metrics for name in metric.packages):
        what = f"{name} ({LICENCE})" if name == "pyiqa" else name
        yield Need("package", what, "" if is_installed(name) else f"pip install {name}")


def metric_needs(metrics: Sequence[Metric], folder: Path | None) -> Iterator[Need]:
    """Yield the weights of metrics."""
    for metric in metrics:
        for name in metric.files:
            path = (folder or Path("DIR")) / (name if "." in name else f"{name}.safetensors")
            told = f"put it there (--metric-weights DIR); {page('evaluation')} says which file it is"
            yield Need("metric", f"{path} ({metric.title})", "" if folder and path.is_file() else told)


def unusable(table: Table, places: Places) -> list[Need]:
    """Load the metrics, and return those that cannot run though all their files are here."""
    found = []
    for metric in select(number.metric for number in table.numbers):
        try:
            metric.load(Setup(weights=places.metric_weights))
        except UnavailableError as error:
            found.append(Need("metric", metric.title, " ".join(str(error).split())))
    return found


def told(needs: Sequence[Need]) -> str:
    """Return a line for each need: its kind, whether it is here, what it is."""
    return aligned([(need.kind, "missing" if need.todo else "here", need.what) for need in needs])


def missing(needs: Sequence[Need]) -> str:
    """Return the list of what is missing and how to get it; "" if nothing is."""
    return "\n".join(f"  {need.what}\n    {need.todo}" for need in needs if need.todo)
