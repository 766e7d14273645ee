"""Records: what computed something, as JSON."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from diffbir_jax.files.writing import replace_file

PACKAGES = {name: name for name in ("jax", "jaxlib", "numpy")} | {
    "diffbir_jax": "diffbir-jax",
    "Pillow": "pillow",
}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON; whoever looks at `path` finds the old file, or the new one, never half of it.

    Raises:
        ImageFileError: it cannot be written.
    """
    replace_file(path, (json.dumps(record, indent=1) + "\n").encode())


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {name: version(package) for name, package in PACKAGES.items()} | {
        "Python": platform.python_version()
    }


def device() -> dict[str, Any]:
    """Return what it computes on: of this process, as other hosts work by themselves."""
    kinds = sorted({device.device_kind for device in jax.local_devices()})
    return {"backend": jax.default_backend(), "kind": ", ".join(kinds), "count": jax.local_device_count()}
