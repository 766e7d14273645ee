"""Records as JSON: which versions and device computed something."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import jax

from diffbir_jax.files.writing import replace_file

PACKAGES = {name: name for name in ("jax", "jaxlib", "numpy")} | {
    "diffbir_jax": "diffbir-jax",
    "Pillow": "pillow",
}


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """Write a record as JSON; readers of `path` see the old file or the new one, never a partial file.

    Raises:
        ImageFileError: it cannot be written.
    """
    replace_file(path, (json.dumps(record, indent=1) + "\n").encode())


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute."""
    return {name: version(package) for name, package in PACKAGES.items()} | {
        "Python": platform.python_version()
    }


def device() -> dict[str, object]:
    """Return the device of this process; other hosts work independently."""
    kinds = sorted({device.device_kind for device in jax.local_devices()})
    return {"backend": jax.default_backend(), "kind": ", ".join(kinds), "count": jax.local_device_count()}
