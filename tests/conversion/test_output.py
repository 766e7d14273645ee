"""Files that appear together, and what killed processes left."""

from pathlib import Path

import pytest

from diffbir_jax.conversion.output import LOCK, UNFINISHED, together


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    """With a lock that nobody holds, or without one."""
    for name, files in (("a", ["w", LOCK]), ("b", ["w"]), ("c", [])):
        (tmp_path / f"{UNFINISHED}{name}").mkdir()
        for file in files:
            (tmp_path / f"{UNFINISHED}{name}" / file).write_text("left")
    with together(tmp_path) as folder:
        (folder / "w").write_text("new")
    assert names(tmp_path) == ["w"] and (tmp_path / "w").read_text() == "new"


def test_what_another_process_writes_stays(tmp_path: Path) -> None:
    """Two conversions into one folder at once."""
    with together(tmp_path) as first:
        (first / "a").write_text("first")
        with together(tmp_path) as second:
            (second / "b").write_text("second")
        assert (first / "a").exists()
    assert names(tmp_path) == ["a", "b"]


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), together(tmp_path) as folder:
        (folder / "a").touch()
        raise KeyError
    assert names(tmp_path) == []
