"""A file that is written is there as a whole, or not at all."""

import os
from pathlib import Path

import pytest

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.files.writing import replace_file, replacing


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
