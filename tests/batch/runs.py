"""Runs of the command over the folder `in`, and repetitions of one by its sidecar."""

from pathlib import Path

from diffbir_jax.batch.jobs import noise_index
from tests.command import call


def restore(*flags: str, source: str = "in") -> int | str | None:
    return call("--input", source, "--output", "out", "--upscale", "2", *flags)


def again(path: Path, *flags: object) -> int | str | None:
    return call("--from-sidecar", path, "--output", "again", *flags)


def index(name: str) -> int:
    return noise_index(Path(name))
