"""Files that are written: whole or not at all, wherever they lie."""

import os

import numpy as np
import pytest

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.writing import write_png

SMOOTH = (np.mgrid[:20, :30].sum(0)[..., None] * (2, 3, 5)).astype(np.uint8)


@pytest.mark.parametrize("method", ["open", "replace"])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, method):
    write_png(tmp_path / "a.png", SMOOTH)
    before = (tmp_path / "a.png").read_bytes()

    def full(path, *args):
        path.with_name(path.name).touch()
        raise OSError(28, "full")

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), method, full)
        with pytest.raises(ImageFileError, match=r"a.png: cannot be written \(full\)"):
            write_png(tmp_path / "a.png", SMOOTH[::-1])
    assert (tmp_path / "a.png").read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ImageFileError, match="cannot be written"):
        write_png(tmp_path / "out" / "a.png", SMOOTH)


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_png(tmp_path / "a.png", SMOOTH)
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_longest_name(tmp_path):
    write_png(tmp_path / f"{'a' * 251}.png", SMOOTH)
    assert len(os.listdir(tmp_path)) == 1
