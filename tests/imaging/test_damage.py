"""Every way a file can be wrong: one clear line for that file, never half a picture, never another error."""

import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging import decoding, reading
from diffbir_jax.imaging.decoding import FORMATS
from diffbir_jax.imaging.headers import header_size
from diffbir_jax.imaging.photo import Photo
from diffbir_jax.imaging.reading import photo_of, read_photo

RNG = np.random.default_rng(0)
RGB = (np.mgrid[:40, :56].sum(0)[..., None] * (2, 3, 1) + RNG.integers(0, 20, (40, 56, 3))).astype(np.uint8)
DEEP = RGB.astype(np.uint16) * 257
EXIF = Image.Exif()
EXIF[0x010F], EXIF[0x0112] = "Maker", 6
EXIF.get_ifd(0x8769)[0x9003] = "2020:02:03 04:05:06"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def by_pillow(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_tifffile(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def png(chunks):
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


COLOUR, ALPHA = Image.fromarray(RGB), Image.fromarray(np.dstack([RGB, RGB[..., 0]]))
FILES = {
    "png": by_pillow(ALPHA, "PNG", exif=EXIF, icc_profile=SRGB),
    "palette png": by_pillow(COLOUR.quantize(16), "PNG"),
    "16-bit png": cv2.imencode(".png", DEEP)[1].tobytes(),
    "jpeg": by_pillow(COLOUR, "JPEG", exif=EXIF, icc_profile=SRGB),
    "progressive jpeg": by_pillow(COLOUR, "JPEG", progressive=True),
    "cmyk jpeg": by_pillow(COLOUR.convert("CMYK"), "JPEG"),
    "webp": by_pillow(ALPHA, "WEBP", exif=EXIF),
    "lossless webp": by_pillow(COLOUR, "WEBP", lossless=True),
    "tiff": by_tifffile(RGB, photometric="rgb"),
    "deflated tiff": by_tifffile(RGB, photometric="rgb", compression="zlib"),
    "16-bit tiff": by_tifffile(DEEP, photometric="rgb", compression="zlib"),
    "planar tiff": by_tifffile(np.moveaxis(DEEP, -1, 0), photometric="rgb", planarconfig="separate"),
    "lzw tiff": by_pillow(COLOUR, "TIFF", compression="tiff_lzw", exif=EXIF),
    "float tiff": by_tifffile(RGB[..., 0] / np.float32(255)),
    "bmp": by_pillow(COLOUR, "BMP"),
}
# Here libtiff says what it thinks to the error stream; there is no way to ask it not to.
LOUD = {"tiff", "deflated tiff", "lzw tiff", "float tiff"}


def attempt(path: Path, data: bytes) -> Photo | None:
    """Read what must be a photo or an error of ours of one line."""
    path.write_bytes(data)
    try:
        photo = read_photo(path)
    except ImageFileError as error:
        message = str(error)
        assert message.startswith(f"{path}: ") and "\n" not in message and " object at " not in message
        return None
    height, width = photo.pixels.shape[:2]
    assert photo.pixels.shape == (height, width, 3) and min(height, width) >= 16
    assert photo.pixels.dtype in (np.uint8, np.uint16)
    assert photo.alpha is None or photo.alpha.shape == (height, width)
    return photo


def damaged(data: bytes, seed: int) -> bytes:
    """Turn a bit, or write another byte, at one place: every other time near the beginning."""
    dice, copy = random.Random(seed), bytearray(data)
    at = dice.randrange(len(copy) if seed % 2 else min(len(copy), 400))
    copy[at] = copy[at] ^ 1 << dice.randrange(8) if seed % 3 else dice.choice([0, 255])
    return bytes(copy)


@pytest.mark.parametrize("name", FILES)
def test_damage(tmp_path, name, capfd):
    data = FILES[name]
    assert attempt(tmp_path / "a", data) is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(100):
            attempt(tmp_path / "a", damaged(data, seed))
    out, errors = capfd.readouterr()
    assert not out and (not errors or name in LOUD)


@pytest.mark.parametrize("name", FILES)
def test_cut_off(tmp_path, name):
    """What is read nevertheless has lost no pixel."""
    data = FILES[name]
    whole = attempt(tmp_path / "a", data)
    assert whole is not None
    for length in {*range(0, len(data), len(data) // 30), *range(len(data) - 20, len(data))}:
        photo = attempt(tmp_path / "a", data[:length])
        assert photo is None or (photo.pixels == whole.pixels).all()


@pytest.mark.parametrize(
    "name", [name for name in FILES if name.endswith(("png", "jpeg")) or "deflated" in name]
)
def test_a_rest_of_zeros(tmp_path, name):
    """As interrupted copies leave it: the length is right."""
    data = FILES[name]
    for at in range(len(data) // 2, len(data) - 30, 37):
        assert attempt(tmp_path / "a", data[:at] + bytes(len(data) - at)) is None


@pytest.mark.parametrize("kind, module", [("WEBP", "PIL"), ("AVIF", "PIL"), ("HEIF", "pillow_heif")])
def test_decoders_that_take_zeros_for_pixels(tmp_path, kind, module):
    """What metadata end in is no damage."""
    pytest.importorskip(module)
    decoding.register(kind)
    data = by_pillow(COLOUR, kind)
    assert attempt(tmp_path / "a", data) is not None
    for at in range(len(data) // 2, len(data) - 30, 37):
        assert attempt(tmp_path / "a", data[:at] + bytes(len(data) - at)) is None
    padded = by_pillow(COLOUR, kind, exif=EXIF.tobytes() + bytes(2000))
    assert (photo_of(padded).pixels == np.rot90(photo_of(data).pixels, -1)).all()


def test_metadata_that_pillow_refuses_cost_no_picture(tmp_path):
    """They are bombs, or profiles of more than a megabyte."""
    long = zlib.compress(bytes(3_000_000))
    header, *rest = chunks_of(FILES["png"])
    for chunk in ((b"iCCP", b"x\0\0" + long), (b"zTXt", b"Comment\0\0" + long), (b"acTL", b"\0")):
        (tmp_path / "a").write_bytes(png([header, chunk, *rest]))
        photo, whole = read_photo(tmp_path / "a"), photo_of(FILES["png"])
        assert photo.alpha is not None and whole.alpha is not None
        assert (photo.pixels == whole.pixels).all() and (photo.alpha == whole.alpha).all()
        assert photo.notes == ("has metadata that are damaged or too long; they are left out",)
        assert header_size(tmp_path / "a") == photo.pixels.shape[:2]
        # A checksum tells of damaged pixels nevertheless.
        broken = png([header, chunk, *rest]).replace(rest[-2][1][-9:], bytes(9))
        assert attempt(tmp_path / "a", broken) is None


def chunks_of(data):
    at, found = 8, []
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


@pytest.mark.parametrize("name", ["png", "palette png", "16-bit png"])
def test_checksums_of_png(tmp_path, name):
    data = FILES[name]
    for at in range(len(data) - 40, len(data)):
        copy = bytearray(data)
        copy[at] ^= 4
        assert attempt(tmp_path / "a", bytes(copy)) is None


def test_interlaced_png_is_complete(tmp_path):
    """Odd sizes, where passes end in the middle; OpenCV's and Pillow's writers interlace nothing."""
    for height, width, bits in ((17, 19, 8), (16, 21, 1), (33, 16, 16)):
        rows = b""
        for y, x, dy, dx in (
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ):
            columns = len(range(x, width, dx))
            rows += len(range(y, height, dy)) * (b"\0" + b"\xff" * -(-columns * bits // 8))
        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 1)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        ]
        photo = attempt(tmp_path / "a", png(chunks))
        assert photo is not None and (photo.pixels == photo.pixels.max()).all()
        chunks[1] = (b"IDAT", zlib.compress(rows[:-4]))
        assert attempt(tmp_path / "a", png(chunks)) is None


def test_a_png_that_claims_more_rows(tmp_path):
    for name in ("png", "16-bit png"):
        data = bytearray(FILES[name])
        data[20:24] = struct.pack(">I", 80)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        assert attempt(tmp_path / "a", bytes(data)) is None


def palette_png(bits, colours, index, *first):
    """A PNG of 16x16 pixels of one index, with another value in each colour of its palette."""
    row = b"\0" + bytes([index * (255 // (2**bits - 1))] * (2 * bits))
    header = struct.pack(">IIBBBBB", 16, 16, bits, 3, 0, 0, 0)
    palette = [(b"PLTE", bytes(range(100, 100 + 3 * colours)))] if colours else []
    return png([*first, (b"IHDR", header), *palette, (b"IDAT", zlib.compress(16 * row)), (b"IEND", b"")])


@pytest.mark.parametrize("bits, colours", [(8, 3), (8, 0), (4, 5), (2, 3), (1, 1)])
def test_pixels_beyond_the_palette(tmp_path, bits, colours):
    """The first missing colour is noticed, and the last one that is there is taken."""
    path, last = tmp_path / "a.png", 100 + 3 * colours
    path.write_bytes(palette_png(bits, colours + 1, colours))
    assert (read_photo(path).pixels == (last, last + 1, last + 2)).all()
    path.write_bytes(palette_png(bits, colours, colours))
    message = "is damaged: its palette lacks colours of its pixels; copy or download it again"
    assert message_of(path) == message


@pytest.mark.parametrize("first", [(b"tEXt", b"a\0b"), (b"tEXt", b"a\0" + bytes(40)), (b"gAMA", bytes(4))])
def test_a_png_that_does_not_begin_with_its_header(tmp_path, first):
    (tmp_path / "a.png").write_bytes(palette_png(8, 3, 2, first))
    message = "is damaged: it does not begin with its header; copy or download it again"
    assert message_of(tmp_path / "a.png") == message


def message_of(path):
    with pytest.raises(ImageFileError) as caught:
        read_photo(path)
    return str(caught.value).removeprefix(f"{path}: ")


def test_what_is_no_image(tmp_path):
    path = tmp_path / "a.png"
    assert message_of(path) == "no such file; check the path"
    assert message_of(tmp_path) == "is a folder; give a file, or list it with find_images"
    path.touch()
    assert message_of(path) == "is empty (0 bytes); copy or download it again"
    for text in (b"not an image at all", b"BMW is a maker of cars", b"\x89PNG\r\n\x1a\n", b"<svg/>"):
        path.write_bytes(text)
        assert message_of(path).startswith(
            (f"is not a {FORMATS} image; convert", "is damaged", "is a damaged", "is cut off")
        )
    Image.fromarray(RGB).save(path, "PPM")
    assert message_of(path) == f"is not a {FORMATS} image; convert it to one of these"
    path.unlink()
    Image.fromarray(RGB[:15]).save(path)
    assert message_of(path) == "is 56x15 pixels; enlarge it until both sides are at least 16"
    assert "cannot be read" in message_of(tmp_path / ("a" * 300))


def test_pipes_and_devices(tmp_path):
    """One would be waited for; the other has no end."""
    os.mkfifo(tmp_path / "a.png")
    assert (
        message_of(Path(os.devnull)) == message_of(tmp_path / "a.png") == "is a device or a pipe; give a file"
    )


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(FILES["png"])
    monkeypatch.setattr(type(tmp_path), "open", refuse)
    assert message_of(tmp_path / "a.png") == "may not be read; change its permissions"


@pytest.mark.parametrize("name", FILES)
def test_the_limit_of_pixels(tmp_path, name):
    path = tmp_path / "a"
    path.write_bytes(FILES[name])
    read_photo(path, max_pixels=40 * 56)
    with pytest.raises(ImageFileError, match="= 2240 pixels, more than the limit of 2239; .* `max_pixels`"):
        read_photo(path, max_pixels=40 * 56 - 1)


@pytest.mark.parametrize("name", ["png", "jpeg", "tiff", "webp"])
def test_a_file_longer_than_its_pixels_may_be_is_not_read(tmp_path, name):
    """Only its length is taken: a read would need a terabyte of memory."""
    path = tmp_path / "a"
    path.write_bytes(FILES[name])
    os.truncate(path, 1 << 40)
    limit = 64 * 2240 + (64 << 20)
    with pytest.raises(
        ImageFileError, match=f"is {1 << 40} bytes, more than the limit of {limit} for 2240 pixels;"
    ):
        read_photo(path, max_pixels=2240)


@pytest.mark.parametrize("name", ["png", "jpeg", "tiff", "bmp"])
def test_the_header_of_a_long_file_is_judged_first(tmp_path, monkeypatch, name):
    path = tmp_path / "a"
    path.write_bytes(FILES[name])
    os.truncate(path, (64 << 20) + 1)
    monkeypatch.setattr(reading, "decode", lambda *args: pytest.fail("it was read"))
    with pytest.raises(
        ImageFileError, match="a: is (56x40|40x56) = 2240 pixels, more than the limit of 2239;"
    ):
        read_photo(path, max_pixels=2239)


def test_limits_of_pillow_do_not_apply(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in FILES.values():
            assert attempt(tmp_path / "a", data) is not None
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    side = 60000
    rows = zlib.compressobj()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    body = b"".join(rows.compress(bytes(1 + side // 8)) for _ in range(50)) + rows.flush()
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    message = message_of(tmp_path / "a.png")
    assert message.startswith("is 60000x60000 = 3600000000 pixels, more than the limit of 178956970; crop")


def test_damaged_exif_costs_no_picture(tmp_path):
    exif = bytearray(EXIF.tobytes())
    exif[14:16] = b"\xff\xff"  # how many tags there are
    photo = attempt(tmp_path / "a", by_pillow(COLOUR, "PNG", exif=bytes(exif)))
    assert photo is not None and sorted(photo.pixels.shape) == [3, 40, 56]
