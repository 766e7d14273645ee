"""A file that is written is there as a whole, or not at all."""

import os
from pathlib import Path

import pytest

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.files.writing import check_length, replace_file, replacing


@pytest.mark.parametrize("name", [None, "w.partial"])
def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path, name: str | None) -> None:
    """What a killed run left under the same name is written over."""
    path, temporary = tmp_path / "a" / "w", None if name is None else tmp_path / "a" / name
    replace_file(path, b"old")
    if temporary is not None:
        temporary.write_bytes(b"what a killed run left")
    with replacing(path, temporary) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert [found.read_bytes() for found in path.parent.iterdir()] == [b"new"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_is_left_of_what_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "w"
    replace_file(path, b"old")
    with pytest.raises(error), replacing(path) as file:
        file.write(b"new")
        raise error
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"old"]


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImageFileError, match="w: cannot be written .*; choose another output folder"):
        replace_file(tmp_path / "file" / "w", b"new")


@pytest.mark.parametrize(
    ("path", "temporary"),
    [
        ("a" * 256, None),
        ("new/new/" + "ä" * 128, None),
        ("new/" + "a" * 256 + "/w", None),
        ("w", "w" * 256),
        # The path, and that of the temporary file alone.
        ("d/" * 2100 + "w", None),
        ("d/" * ((4094 - 40) // 2) + "w" * 40, "d/" * ((4094 - 40) // 2) + "w" * 60),
    ],
)
def test_names_that_no_file_can_have_are_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, temporary: str | None
) -> None:
    """Whether or not the folder is there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageFileError, match="too long for the file system; give another$"):
        check_length(Path(path), "give another", temporary and Path(temporary))
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("path", ["w" * 255, "new/" + "w" * 255, "d/" * 1000 + "w"])
def test_names_that_a_file_can_have_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    check_length(Path(path), "give another")


def test_bytes_are_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the name after it: a loss of power leaves the old file or the whole new one."""
    done: list[str] = []
    flush, rename = os.fsync, Path.replace

    def flushed(number: int) -> None:
        done.append("folder" if os.path.samestat(os.fstat(number), tmp_path.stat()) else "file")
        flush(number)

    def renamed(path: Path, target: Path) -> Path:
        done.append("name")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    replace_file(tmp_path / "a.bin", b"new")
    assert done == ["file", "name", "folder"]
