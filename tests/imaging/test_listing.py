"""Which files of a folder are images to restore."""

import os

import pytest
from PIL import Image

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.listing import find_images, list_folder


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(paths, folder):
    return [str(path.relative_to(folder)) for path in paths]


def test_find_images(tmp_path):
    touch(tmp_path, "z.png", "b/c/d.JPEG", "b/a.tif", ".cache/x.png", "b/.x.png", "out/z.png", "b/out/y.webp")
    touch(tmp_path, "notes.md", "b/c/d.gif", "e.TIFF", "f.bmp")
    (tmp_path / "d.png").mkdir()
    found = find_images(tmp_path, exclude=[tmp_path / "b" / ".." / "out", tmp_path / "nowhere"])
    assert names(found, tmp_path) == ["b/a.tif", "b/c/d.JPEG", "b/out/y.webp", "e.TIFF", "f.bmp", "z.png"]


def test_content_decides(tmp_path):
    """What is no image is told; pipes are not opened, which would wait."""
    touch(tmp_path, "broken.jpg", "notes.md", "sub/data.json", ".hidden")
    Image.new("RGB", (16, 16)).save(tmp_path / "sub" / "photo", "PNG")
    Image.new("RGB", (16, 16)).save(tmp_path / "b.gif")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "c.png").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "latest").symlink_to(tmp_path / "nowhere")
    images, others = list_folder(tmp_path)
    assert names(images, tmp_path) == ["b.gif", "broken.jpg", "dangling.jpg", "sub/photo"]
    assert names(others, tmp_path) == ["latest", "notes.md", "pipe.png", "sub/data.json"]


def test_links(tmp_path):
    inputs, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    touch(inputs, "a.png")
    touch(elsewhere, "b.png")
    (inputs / "linked").symlink_to(elsewhere)
    (inputs / "circle").symlink_to(inputs)
    (inputs / "c.png").symlink_to(elsewhere / "b.png")
    (inputs / "broken.png").symlink_to(elsewhere / "nowhere.png")
    (inputs / "itself.png").symlink_to("itself.png")
    # Some questions of pathlib raise for it.
    (inputs / "long.png").symlink_to("x" * 300)
    assert names(find_images(inputs), inputs) == ["a.png", "c.png"]
    listed = list_folder(inputs)
    assert names(listed.images, inputs) == ["a.png", "broken.png", "c.png", "itself.png", "long.png"]
    assert listed.others == []


def test_errors(tmp_path):
    with pytest.raises(ImageFileError, match="holds no image file; put files ending in .png"):
        find_images(tmp_path)
    with pytest.raises(ImageFileError, match="no such folder"):
        find_images(tmp_path / "nowhere")
    touch(tmp_path, "a.png")
    with pytest.raises(ImageFileError, match="is a file, not a folder"):
        find_images(tmp_path / "a.png")


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "locked/b.png")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ImageFileError, match=r"locked: cannot be listed \(Permission denied\)"):
        find_images(tmp_path)
