"""Sizes from headers are those that reading gives, for every format, and nothing else is taken for an image."""

import contextlib
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from diffbir_jax.imaging import decoding, headers
from diffbir_jax.imaging.headers import header_size
from diffbir_jax.imaging.reading import read_photo
from tests.imaging.test_formats import SMOOTH, raw, tiff

WIDE = Image.fromarray(SMOOTH[:32])


@pytest.mark.parametrize("kind, module", [("HEIF", "pillow_heif"), ("JXL", "pillow_jxl")])
def test_formats_that_pillow_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    """Before the first file of the format is decoded, Pillow does not know it."""
    pytest.importorskip(module)
    decoding.register(kind)
    WIDE.save(tmp_path / "a.png", kind)
    monkeypatch.delitem(Image.OPEN, kind)
    assert header_size(tmp_path / "a.png") == (32, 48)


@pytest.mark.parametrize("orientation", [1, 6])
def test_tiff(tmp_path: Path, orientation: int) -> None:
    path = tiff(tmp_path / "a.tif", SMOOTH[:32], extratags=[(274, 3, 1, orientation, True)])
    assert header_size(path) == read_photo(path).pixels.shape[:2]
    assert header_size(path) == ((48, 32) if orientation == 6 else (32, 48))


@pytest.mark.parametrize("tag", [256, 257])
def test_a_side_of_nothing_is_no_size(tmp_path: Path, tag: int) -> None:
    path = tiff(tmp_path / "a.tif", SMOOTH)
    entry = struct.pack("<HHI", tag, 4, 1)
    data = path.read_bytes()
    assert entry in data
    path.write_bytes(data.replace(entry + b"\x30", entry + b"\0"))
    with pytest.raises(OSError, match="no pixels"):
        header_size(path)


@pytest.mark.parametrize("flip", [0, 90, 180])
def test_raw(tmp_path: Path, flip: int) -> None:
    pytest.importorskip("rawpy")
    (tmp_path / "a.dng").write_bytes(raw(height=48, orientation={0: 1, 90: 6, 180: 3}[flip]))
    assert header_size(tmp_path / "a.dng") == read_photo(tmp_path / "a.dng").pixels.shape[:2]


def test_a_preview_is_not_the_size_of_a_raw_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NEF and ARW begin with a small picture."""
    seen = contextlib.nullcontext(SimpleNamespace(sizes=SimpleNamespace(width=6000, height=4000, flip=0)))
    monkeypatch.setattr(headers, "opened_raw", lambda file: seen)
    assert header_size(tiff(tmp_path / "a.nef", SMOOTH, subfiletype=1)) == (4000, 6000)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n", b"P5 64 64 255\n"]
)
def test_what_is_not_read_has_no_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content + bytes(64 * 64))
    with pytest.raises(OSError, match="no image"):
        header_size(tmp_path / "a.png")


def bmp(side: int, compression: int) -> bytes:
    """A header of 8 bits a pixel (of 4 with compression 2), without pixels."""
    bits = 4 if compression == 2 else 8
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, bits, compression, 0, 0, 0, 16, 0) + bytes(64)
    return struct.pack("<2sIHHI", b"BM", 0, 0, 0, 14 + len(header)) + header


@pytest.mark.parametrize("compression, side", [(0, 30), (1, 120), (2, 120)])
def test_the_length_of_bmp_bounds_its_size(tmp_path: Path, compression: int, side: int) -> None:
    """Runs have up to 255 pixels in two bytes."""
    path = tmp_path / "a.bmp"
    path.write_bytes(bmp(side, compression))
    assert header_size(path) == (side, side)
    path.write_bytes(bmp(2 * side, compression))
    with pytest.raises(OSError, match="shorter than its pixels"):
        header_size(path)
