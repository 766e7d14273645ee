"""Which jobs are done: all their files exist, crops of faces included."""

import os
from dataclasses import dataclass
from pathlib import Path

from diffbir_jax.batch.jobs import Job
from diffbir_jax.console.errors import UserError
from diffbir_jax.files.checked import file_name, read_checked


@dataclass(frozen=True)
class _Made:
    """What a sidecar says of files: their names beside it, and the faces of the photo, if they were restored."""

    outputs: list[str]
    faces: list[dict[str, object]] | None = None


def is_done(job: Job) -> bool:
    """Whether all files of a job exist. Files appear whole, so existing ones are complete.

    How many crops there are only the sidecar tells. Without one the other files decide.
    """
    outputs = job.outputs
    # Not pathlib's, which raises for names that are too long: such a job fails later, alone.
    if not all(os.path.isfile(path) for path in outputs.all()):
        return False
    return outputs.crops is None or outputs.sidecar is None or _has_crops(outputs.sidecar, outputs.crops)


def _has_crops(sidecar: Path, start: Path) -> bool:
    """Whether the crops of all restored faces exist; False if the sidecar names none, since that run wrote none."""
    try:
        made = read_checked(sidecar, _Made, "sidecar", "restore the photo again")
    except UserError:
        return False
    if made.faces is None:
        return False
    names = [file_name(name) for name in made.outputs]
    crops = [start.parent / name for name in names if Path(name).name.startswith(f"{start.name}_")]
    restored = [face for face in made.faces if not face.get("left")]
    # Every restored face has one crop before and one or more after.
    return len(crops) >= 2 * len(restored) and all(os.path.isfile(path) for path in crops)
