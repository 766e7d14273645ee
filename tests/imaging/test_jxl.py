"""JPEG XL: the size is known, and judged, before anything is decoded."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging import decoding
from diffbir_jax.imaging.jxl import read_exif, read_header

TIFF = b"II*\0\x08\0\0\0\0\0\0\0\0\0"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "


def bits(*fields: tuple[int, int]) -> bytes:
    """The start of a codestream from pairs of a value and its number of bits."""
    value = at = 0
    for number, count in fields:
        value, at = value | number << at, at + count
    return b"\xff\x0a" + value.to_bytes(at // 8 + 1, "little")


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(data), kind) + data


def encoded(width: int, height: int, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (9, 90, 200)).save(file, "JXL", effort=1, **options)
    return file.getvalue()


# 16 x 24 in steps of 8; ratio 16:9; a width of its own, stored on its side; the largest sides.
HEADERS = {
    (16, 24, 1): ((1, 1), (2, 5), (0, 3), (1, 5), (1, 1)),
    (1920, 1080, 1): ((0, 1), (1, 2), (1079, 13), (5, 3), (1, 1)),
    (300, 70000, 6): ((0, 1), (0, 2), (299, 9), (0, 3), (2, 2), (69999, 18), (0, 1), (1, 1), (5, 3)),
    (2**30, 2**30, 1): ((0, 1), (3, 2), (2**30 - 1, 30), (1, 3), (0, 1), (0, 1)),
}


@pytest.mark.parametrize("wanted", HEADERS)
def test_fields_of_the_header(wanted: tuple[int, int, int]) -> None:
    """By the tables of ISO/IEC 18181-1: SizeHeader and the begin of ImageMetadata."""
    assert tuple(read_header(io.BytesIO(bits(*HEADERS[wanted])))) == wanted


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (60, 40), (521, 300), (9000, 17)])
@pytest.mark.parametrize("container", [False, True])
def test_sizes_of_libjxl(size: tuple[int, int], container: bool) -> None:
    pytest.importorskip("pillow_jxl")
    data = encoded(*size, use_container=container)
    assert data.startswith(b"\xff\x0a") != container
    assert read_header(io.BytesIO(data))[:2] == size


def test_a_codestream_in_pieces() -> None:
    """Metadata come first, a box tells its size with 64 bits, and the header lies in two pieces; the last is open."""
    stream = bits(*HEADERS[300, 70000, 6])
    pieces = struct.pack(">I4sQI", 1, b"jxlp", 16 + 4 + 3, 0) + stream[:3], b"\0\0\0\1" + stream[3:]
    data = CONTAINER + box(b"Exif", bytes(4) + TIFF) + pieces[0] + struct.pack(">I4s", 0, b"jxlp") + pieces[1]
    assert tuple(read_header(io.BytesIO(data))) == (300, 70000, 6)
    assert read_exif(io.BytesIO(data)) == TIFF


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\x0a",
        CONTAINER,
        CONTAINER + box(b"jxlp", b"\0\0"),
        CONTAINER + box(b"jxlc", b"no codestream"),
        CONTAINER + struct.pack(">I4s", 7, b"free"),
        CONTAINER + struct.pack(">I4sQ", 1, b"free", 0),
    ],
)
def test_a_header_that_cannot_be_read(data: bytes) -> None:
    pytest.importorskip("pillow_jxl")
    with pytest.raises(ImageFileError, match="is a damaged JPEG XL file"):
        decoding.decode(data, "JXL", 10**6)


def test_too_large_a_picture_is_never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's plug-in would decode it."""
    pytest.importorskip("pillow_jxl")
    data = encoded(64, 48)
    monkeypatch.setattr(Image, "open", lambda *args, **more: pytest.fail("opened"))
    with pytest.raises(ImageFileError, match="is 64x48 = 3072 pixels, more than the limit of 3071;"):
        decoding.decode(data, "JXL", 3071)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kept", [True, False])
def test_a_picture_is_turned_once(tmp_path: Path, kept: bool, orientation: int) -> None:
    """A JPEG in JPEG XL has its orientation twice, in the codestream and in EXIF.

    With the box that makes it a JPEG again, the plug-in does so, and EXIF counts. Without it the plug-in turns it.
    """
    pytest.importorskip("pillow_jxl")
    picture = Image.fromarray(np.mgrid[:32, :48].sum(0).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", exif=exif)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.jxl", lossless_jpeg=True)
    data = (tmp_path / "a.jxl").read_bytes()
    if not kept:
        stored = box(b"Exif", bytes(4) + exif.tobytes().removeprefix(b"Exif\0\0"))
        data = data[: len(CONTAINER)] + stored + data[len(CONTAINER) :].replace(b"jbrd", b"free")
    header = read_header(io.BytesIO(data))
    found = decoding.decode(data, "JXL", 10**6).samples
    assert header.orientation == orientation and found.shape[:2] == (header.height, header.width)
    wanted = decoding.decode((tmp_path / "a.jpg").read_bytes(), "JPEG", 10**6).samples
    assert np.abs(found.astype(int) - wanted).max() <= (0 if kept else 3)
