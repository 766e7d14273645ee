"""A folder to work in, and a restorer without networks."""

from pathlib import Path

import pytest

from diffbir_jax.batch import run
from tests.batch.fake import Fake
from tests.command import call, save

MADE = (
    "--guidance-scale",
    "2",
    "--fidelity-mask",
    "masks",
    "--stage1",
    "clean",
    "--n-samples",
    "2",
    "--std-map",
)
MADE += ("--seed", "5", "--steps", "7", "--upscale", "2", "--format", "same", "--compare", "--bit-depth", "8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake(here: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """What sample.py restores with, in an empty current folder."""
    restorer = Fake()
    monkeypatch.setattr(run, "load", lambda *_: restorer)
    monkeypatch.setattr(run, "planned", lambda *_: None)
    return restorer


@pytest.fixture
def made(fake: Fake) -> Path:
    """The sidecar of a result that many flags made."""
    for name in ("in/s/a.png", "masks/s/a.png", "clean/s/a.png"):
        save(Path(name), seed=len(name))
    assert call("--input", "in", "--output", "out", *MADE) == 0
    return Path("out/s/a.png.json")
