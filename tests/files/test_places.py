"""Paths and URLs of the command line."""

from pathlib import Path

import pytest

from diffbir_jax.files.places import Url, given_path, path_or_url


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("read", [given_path, path_or_url])
def test_a_tilde_is_the_home_folder(home: Path, read) -> None:
    assert read("~/restored") == home / "restored" and read("~") == home


@pytest.mark.parametrize("name", ["~draft.png", "photos/~/a.png", "a~"])
def test_other_tildes_belong_to_names(home: Path, name: str) -> None:
    assert given_path(name) == Path(name)


def test_addresses_stay_as_they_are() -> None:
    assert path_or_url("gs://bucket/~/a") == Url("gs://bucket/~/a")
    assert path_or_url("file:///tmp/a%20b") == Path("/tmp/a b")
