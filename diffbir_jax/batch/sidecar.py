"""Sidecars: JSON beside a result that describes how it was made, so that it can be made again bit for bit."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from diffbir_jax.batch.jobs import Job
from diffbir_jax.batch.photos import Loaded
from diffbir_jax.batch.settings import Recipe, as_record
from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.reports import FaceReport, faces_record
from diffbir_jax.files.checked import read_checked
from diffbir_jax.files.digest import weights_record
from diffbir_jax.files.records import device, versions
from diffbir_jax.restoration.plan import Plan

# Version of the entries and their meaning. Raise it when an older reader would misread them.
FORMAT = 1
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Word = Annotated[str, Field(max_length=1000)]


@dataclass(frozen=True)
class Source:
    """A file that was read: its path, SHA-256 and size."""

    path: str
    sha256: Digest
    bytes: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Weights:
    """The file of a network: name and SHA-256."""

    file: str
    sha256: Digest


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar holds, as far as a repetition needs it or a reader may take it for a name of a file.

    Attributes:
        format: see `FORMAT`.
        input, clean, mask, ground, hides: the files read; the last one is the mask of a known degradation.
        name: of the input, without folders: results are named after it.
        parameters: see `settings.from_record`.
        noise_index: selects the noise.
        plan: how images are cut.
        crops: how crops of faces are cut.
        outputs: names of the files of the result.
        faces: what was found.
        caption: of the input.
        weights: by network.
        versions: of packages, by name.
        device: kind, number and backend.
    """

    format: Literal[1]
    input: Source
    clean: Source | None
    mask: Source | None
    name: Annotated[str, Field(min_length=1, max_length=255)]
    parameters: dict[str, object]
    noise_index: Annotated[int, Field(ge=0, lt=2**32)]
    plan: Plan | None
    weights: dict[str, Weights]
    versions: dict[str, Word]
    device: dict[str, Word | int]
    ground: Source | None = None
    hides: Source | None = None
    crops: Plan | None = None
    outputs: list[str] = field(default_factory=list)
    faces: list[dict[str, object]] | None = None
    caption: Word = ""

    def __post_init__(self) -> None:
        """Refuse names that lie elsewhere than beside the other results."""
        for path in map(Path, self.outputs):
            if path.is_absolute() or ".." in path.parts or "\0" in str(path):
                raise UserError(
                    f"outputs has {str(path)[:99]!r}; allowed are names of files below the sidecar's folder"
                )
        if Path(self.name).name != self.name or self.name == ".." or {*self.name} & {"\\", ":", "\0"}:
            raise UserError(f"name is {self.name!r}; allowed are file names without folders")


class Recorder:
    """Holds what is the same in all sidecars of a run."""

    def __init__(
        self,
        recipe: Recipe,
        preset: str,
        weights: Mapping[str, Path],
        plan: Plan | None = None,
        crops: Plan | None = None,
        auto: Mapping[Job, Mapping[str, object]] = MappingProxyType({}),
    ):
        """Take what decides the results.

        Args:
            recipe: how every image is restored.
            preset: name of the networks' preset.
            weights: the file of each network that runs.
            plan: a dataclass with the plan of the work, or None.
            crops: one with the plan of crops of faces, or None.
            auto: how --auto chose the recipe, by job; a repetition needs the recipe alone.
        """
        self._auto = auto
        self._common = {
            "parameters": as_record(recipe),
            "preset": preset,
            "plan": None if plan is None else dataclasses.asdict(plan),
            **({"crops": dataclasses.asdict(crops)} if crops is not None else {}),
            "versions": versions(),
            "device": device(),
        }
        # Hashing gigabytes takes a while, and so does the first result: do both at once.
        with_weights = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._weights = with_weights.submit(weights_record, weights)
        with_weights.shutdown(wait=False)

    def record(
        self,
        loaded: Loaded,
        seconds: Mapping[str, float],
        crops: Sequence[Path] = (),
        faces: Sequence[FaceReport] | None = None,
    ) -> dict[str, object]:
        """Return the sidecar of a job.

        Args:
            loaded: the job.
            crops: files of its faces.
            faces: reports on them; None without --task faces.
            seconds: the time of each part; that of computing is the job's share, see `shares`.

        Raises:
            OSError: a weights file can no longer be read.
        """
        job = loaded.job
        folder, sidecar = job.outputs.folder, job.outputs.sidecar
        files = [path for path in job.outputs.all() if path != sidecar]
        names = [os.path.relpath(path, folder) for path in (*crops, *files)]
        return {
            "format": FORMAT,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **loaded.files,
            "name": job.name.name,
            "outputs": names,
            "noise_index": job.index,
            **({"caption": job.caption} if job.caption else {}),
            "weights": self._weights.result(),
            **self._common,
            **({"auto": dict(self._auto[job])} if job in self._auto else {}),
            **({} if faces is None else faces_record(faces, bool(job.outputs.results))),
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        }


def read_record(path: Path) -> Sidecar:
    """Return the content of a sidecar; UserError if it is none, see `files.checked`."""
    return read_checked(path, Sidecar, f"sidecar of format {FORMAT}", "give the .json file beside a result")
