"""A folder to work in, and a restorer without networks."""

from pathlib import Path

import pytest

from diffbir_jax.batch import run
from tests.batch.fake import Fake


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
