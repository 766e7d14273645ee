"""Sidecars: JSON beside a result that describes how it was made, so that it can be made again bit for bit."""

import dataclasses
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffbir_jax.batch.photos import Loaded
from diffbir_jax.batch.settings import Recipe, as_record
from diffbir_jax.files.digest import weights_record
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.files.records import device, versions

# Version of the entries and their meaning. Raise it when an older reader would misread them.
FORMAT = 1
ENTRIES = (
    "input",
    "clean",
    "mask",
    "name",
    "parameters",
    "noise_index",
    "plan",
    "weights",
    "versions",
    "device",
)


class Recorder:
    """Holds what is the same in all sidecars of a run."""

    def __init__(self, recipe: Recipe, preset: str, weights: Mapping[str, Path], plan: Any = None):
        """Take what decides the results.

        Args:
            recipe: how every image is restored.
            preset: name of the networks' preset.
            weights: the file of each network that runs.
            plan: a dataclass with the plan of the work, or None.
        """
        self._common = {
            "parameters": as_record(recipe),
            "preset": preset,
            "plan": None if plan is None else dataclasses.asdict(plan),
            "versions": versions(),
            "device": device(),
        }
        # Hashing gigabytes takes a while, and so does the first result: do both at once.
        with_weights = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._weights = with_weights.submit(weights_record, weights)
        with_weights.shutdown(wait=False)

    def record(self, loaded: Loaded, seconds: Mapping[str, float]) -> dict[str, Any]:
        """Return the sidecar of a job.

        Args:
            loaded: the job.
            seconds: the time of each part.

        Raises:
            OSError: a weights file can no longer be read.
        """
        job = loaded.job
        folder, sidecar = job.outputs.results[0].parent, job.outputs.sidecar
        names = [os.path.relpath(path, folder) for path in job.outputs.all() if path != sidecar]
        return {
            "format": FORMAT,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **loaded.files,
            "name": job.name.name,
            "outputs": names,
            "noise_index": job.index,
            "weights": self._weights.result(),
            **self._common,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        }


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a sidecar.

    Raises:
        ImageFileError: it cannot be read, is not a sidecar, or has another format.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read ({error.strerror}); give a sidecar") from None
    except ValueError as error:
        raise ImageFileError(
            f"{path}: is no sidecar ({error}); give the .json file beside a result"
        ) from None
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT or any(name not in record for name in ENTRIES):
        raise ImageFileError(
            f"{path}: is no sidecar of format {FORMAT} (format {found!r}); give the .json file beside a result"
        )
    return record
