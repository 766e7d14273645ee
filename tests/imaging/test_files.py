"""Image files: every kind that people have, and every way a file can be wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.imaging.files import ImageFileError, list_images, read_image, write_png

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def test_png_is_exact(tmp_path):
    write_png(tmp_path / "new" / "a.png", RGB)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), RGB)
    assert os.listdir(tmp_path / "new") == ["a.png"]


def test_webp_and_jpeg(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), RGB)
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    Image.fromarray(flat).save(tmp_path / "a.jpeg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpeg"), flat, atol=4)


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated clockwise by 90 degrees
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(RGB, -1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "I;16"])
def test_other_modes(tmp_path, mode):
    gray = Image.fromarray(RGB[..., 0])
    if mode == "I;16":
        image = Image.fromarray(RGB[..., 0].astype(np.uint16) * 257)
    else:
        image = gray.convert(mode)
    image.save(tmp_path / "a.png")
    out = read_image(tmp_path / "a.png")
    expected = np.asarray(gray.convert("1").convert("L")) if mode == "1" else RGB[..., 0]
    np.testing.assert_array_equal(out, np.repeat(expected[..., None], 3, axis=2))


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.dstack([RGB, np.zeros((20, 30), np.uint8)])
    rgba[:, 15:, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    out = read_image(tmp_path / "a.png")
    assert (out[:, :15] == 255).all()
    np.testing.assert_array_equal(out[:, 15:], RGB[:, 15:])


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = read_image(tmp_path / "a.jpg")[8, 8].tolist()
    assert red > 250 and max(green, blue) < 5


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    Image.fromarray(RGB).save(folder / "good.png")
    Image.fromarray(np.repeat(RGB, 8, axis=0)).save(folder / "good.jpg")
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("not an image at all")
    for name in ("good.png", "good.jpg"):
        data = (folder / name).read_bytes()
        (folder / f"cut_{name}").write_bytes(data[: len(data) // 2])
    Image.fromarray(RGB[:15]).save(folder / "small.png")
    Image.fromarray(RGB).save(folder / "picture.bmp")
    return {
        "missing": (folder / "nowhere.png", "no such file; check the path"),
        "folder": (folder, "is a folder"),
        "empty": (folder / "empty.png", r"empty \(0 bytes\)"),
        "text": (folder / "text.jpg", "not a PNG, JPEG or WebP image; convert it"),
        "other format": (folder / "picture.bmp", "not a PNG, JPEG or WebP image; convert it"),
        "cut png": (folder / "cut_good.png", "damaged or cut off"),
        "cut jpg": (folder / "cut_good.jpg", "damaged or cut off"),
        "small": (folder / "small.png", "is 30x15 pixels; enlarge it until both sides are at least 16"),
    }


@pytest.mark.parametrize(
    "case", ["missing", "folder", "empty", "text", "other format", "cut png", "cut jpg", "small"]
)
def test_unreadable(tmp_path, case):
    path, message = broken_files(tmp_path)[case]
    with pytest.raises(ImageFileError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_list_images(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.webp", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.webp"]


def test_list_images_errors(tmp_path):
    with pytest.raises(ImageFileError, match="holds no image file; put files ending in .png"):
        list_images(tmp_path)
    with pytest.raises(ImageFileError, match="no such folder"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "a.png").touch()
    with pytest.raises(ImageFileError, match="is a file, not a folder"):
        list_images(tmp_path / "a.png")


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", RGB)
    monkeypatch.setattr(
        Image.Image, "save", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(ImageFileError, match=r"a.png: cannot be written \(full\)"):
        write_png(tmp_path / "a.png", RGB[::-1])
    monkeypatch.undo()
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)
    assert os.listdir(tmp_path) == ["a.png"]


def test_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ImageFileError, match="cannot be written"):
        write_png(tmp_path / "out" / "a.png", RGB)


def test_only_bytes_are_written(tmp_path):
    with pytest.raises(TypeError, match="float64"):
        write_png(tmp_path / "a.png", RGB / 255)
