"""sample.py from within a test: its inputs, its exit code, what it wrote and said."""

from pathlib import Path

import pytest
from PIL import Image

from diffbir_jax.cli.main import start
from tests.micro import picture


def save(path: Path, side: tuple[int, int] = (16, 16), seed: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(*side, seed)).save(path, **options)
    return path


def call(*command: object) -> int | str | None:
    """Exit code of sample.py."""
    with pytest.raises(SystemExit) as exit:
        start("restore", [str(part) for part in command])
    return exit.value.code


def run(source: Path, *flags: str, version: str = "micro", output: str = "out") -> int | str | None:
    """Exit code of sample.py without sidecars, which writes into out/; inputs keep their size."""
    start = ("--input", source, "--output", output, "--version", version, "--upscale", "1", "--no-sidecar")
    return call(*start, *flags)


def written(folder: str = "out") -> list[str]:
    """The files of a folder and its subfolders."""
    root = Path(folder)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def complaint(capsys: pytest.CaptureFixture) -> str:
    """What was written to the error stream, which must be one line."""
    error = capsys.readouterr().err
    assert error.startswith("diffbir restore: ")
    assert error.count("\n") == 1
    return error
