"""Every kind of image file that people have, made by other libraries than read them here."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps
from skimage.color import lab2rgb, rgb2lab

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.reading import read_image, read_photo

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (20, 30, 3), np.uint16)
SHALLOW_ALPHA = RNG.integers(1, 256, (20, 30), np.uint8)
ALPHA = RNG.integers(1, 65536, (20, 30), np.uint16)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples, *chunks):
    """A PNG file of (H, W, C), put together by the specification: no other writer knows 16-bit gray and alpha."""
    height, width, channels = samples.shape
    big = samples.astype(samples.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, kind, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def written(path, data):
    path.write_bytes(data)
    return path


def check(photo, pixels, alpha=None, grey=False):
    assert photo.pixels.dtype == pixels.dtype and photo.grey == grey
    np.testing.assert_array_equal(photo.pixels, pixels)
    if alpha is None:
        assert photo.alpha is None
    else:
        assert photo.alpha.dtype == pixels.dtype
        np.testing.assert_array_equal(photo.alpha, alpha)


def three(gray):
    return np.repeat(gray[..., None], 3, axis=2)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.bmp", "a.jpg"])
def test_eight_bits(tmp_path, name):
    image = np.full((16, 24, 3), (200, 100, 50), np.uint8) if name == "a.jpg" else RGB
    Image.fromarray(image).save(tmp_path / name, lossless=True, quality=95)
    photo = read_photo(tmp_path / name)
    assert photo.pixels.dtype == np.uint8 and photo.alpha is None and not photo.grey
    np.testing.assert_allclose(photo.pixels, image, atol=4 if name == "a.jpg" else 0)


def test_the_content_counts_not_the_suffix(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    check(read_photo((tmp_path / "a.png").rename(tmp_path / "b.jpg")), RGB)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png(tmp_path, channels):
    colours = DEEP if channels > 2 else DEEP[..., :1]
    samples = colours if channels % 2 else np.dstack([colours, ALPHA])
    photo = read_photo(written(tmp_path / "a.png", png(samples)))
    check(photo, DEEP if channels > 2 else three(DEEP[..., 0]), None if channels % 2 else ALPHA, channels < 3)


@pytest.mark.parametrize("grey", [False, True])
def test_transparent_colour_of_sixteen_bit_png(tmp_path, grey):
    samples = DEEP[..., :1] if grey else DEEP
    key = chunk(b"tRNS", samples[3, 4].astype(">u2").tobytes())
    photo = read_photo(written(tmp_path / "a.png", png(samples, key)))
    assert photo.alpha is not None and photo.alpha[3, 4] == 0 and (np.delete(photo.alpha, 94) == 65535).all()


TIFFS = {
    "plain": {},
    "deflate": {"compression": "zlib", "predictor": True},
    "big-endian": {"byteorder": ">"},
    "tiles": {"tile": (16, 16)},
    "BigTIFF": {"bigtiff": True},
    "planes": {"planarconfig": "separate"},
    "deflated planes": {"planarconfig": "separate", "compression": "zlib"},
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("options", TIFFS.values(), ids=TIFFS)
@pytest.mark.parametrize("with_alpha", [False, True])
def test_tiff(tmp_path, dtype, options, with_alpha):
    colours, alpha = (RGB, SHALLOW_ALPHA) if dtype == np.uint8 else (DEEP, ALPHA)
    samples = np.dstack([colours, alpha]) if with_alpha else colours
    planes = np.moveaxis(samples, -1, 0) if "planarconfig" in options else samples
    extra = {"extrasamples": ["unassalpha"]} if with_alpha else {}
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", **options, **extra)
    check(read_photo(tmp_path / "a.tif"), colours, alpha if with_alpha else None)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_tiff(tmp_path, dtype, byteorder):
    gray, alpha = (RGB[..., 0], SHALLOW_ALPHA) if dtype == np.uint8 else (DEEP[..., 0], ALPHA)
    top = np.iinfo(dtype).max
    tifffile.imwrite(tmp_path / "a.tif", gray, photometric="minisblack", byteorder=byteorder)
    check(read_photo(tmp_path / "a.tif"), three(gray), grey=True)
    tifffile.imwrite(tmp_path / "a.tif", gray, photometric="miniswhite", byteorder=byteorder)
    check(read_photo(tmp_path / "a.tif"), three(top - gray), grey=True)
    both, options = np.dstack([gray, alpha]), {"planarconfig": "contig", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", both, photometric="minisblack", byteorder=byteorder, **options)
    check(read_photo(tmp_path / "a.tif"), three(gray), alpha, grey=True)


def test_lzw(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), DEEP[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    check(read_photo(tmp_path / "a.tif"), DEEP)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_multiplied_by_alpha(tmp_path, dtype):
    top = np.iinfo(dtype).max
    colours = np.full((16, 16, 3), (top // 2, top // 4, top // 8), dtype)
    alpha = np.full((16, 16), top // 2, dtype)
    product = np.rint(colours * (alpha[..., None] / top)).astype(dtype)
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([product, alpha]), photometric="rgb", extrasamples=["assocalpha"]
    )
    photo = read_photo(tmp_path / "a.tif")
    np.testing.assert_allclose(photo.pixels.astype(int), colours, atol=2)
    np.testing.assert_array_equal(photo.alpha, alpha)


def test_a_fourth_channel_that_is_no_alpha(tmp_path):
    samples = np.dstack([DEEP, ALPHA])
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["unspecified"])
    check(read_photo(tmp_path / "a.tif"), DEEP)


def test_several_pages_and_frames(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([DEEP, DEEP[::-1]]), photometric="rgb")
    check(read_photo(tmp_path / "a.tif"), DEEP)
    first, second = Image.fromarray(RGB), Image.fromarray(RGB[::-1])
    for name in ("b.tif", "b.png", "b.webp"):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        np.testing.assert_array_equal(read_photo(tmp_path / name).pixels, RGB)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA"])
def test_gray(tmp_path, mode):
    gray = Image.fromarray(RGB[..., 0])
    gray.convert(mode).save(tmp_path / "a.png")
    expected = np.asarray(gray.convert("1").convert("L")) if mode == "1" else RGB[..., 0]
    opaque = np.full((20, 30), 255, np.uint8) if mode == "LA" else None
    check(read_photo(tmp_path / "a.png"), three(expected), opaque, grey=True)


def test_palettes(tmp_path):
    image = Image.fromarray((np.arange(600).reshape(20, 30) // 200).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)[np.asarray(image)]
    image.save(tmp_path / "a.png")
    check(read_photo(tmp_path / "a.png"), expected)
    image.save(tmp_path / "b.png", transparency=bytes([255, 128, 7]))
    alpha = np.array([255, 128, 7], np.uint8)[np.asarray(image)]
    check(read_photo(tmp_path / "b.png"), expected, alpha)


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.linspace(0, 1, 600, dtype=np.float32), np.rint(np.linspace(0, 65535, 600)).astype(np.uint16)),
        (np.arange(600, dtype=np.int32) * 100, (np.arange(600) * 100).astype(np.uint16)),
        (np.arange(600, dtype=np.int16) % 256, (np.arange(600) % 256).astype(np.uint8)),
    ],
)
def test_wide_numbers(tmp_path, values, expected):
    tifffile.imwrite(tmp_path / "a.tif", values.reshape(20, 30))
    np.testing.assert_allclose(read_photo(tmp_path / "a.tif").pixels, three(expected.reshape(20, 30)), atol=1)
    assert read_photo(tmp_path / "a.tif").pixels.dtype == expected.dtype


@pytest.mark.parametrize("low, high", [(-0.5, 1.0), (0, np.nan), (0, np.inf), (-1, 40000)])
def test_numbers_of_no_clear_range(tmp_path, low, high):
    dtype = np.float32 if isinstance(high, float) else np.int32
    tifffile.imwrite(tmp_path / "a.tif", np.array([low, high] * 128, dtype).reshape(16, 16))
    with pytest.raises(ImageFileError, match=r"a.tif: holds numbers from .*; give numbers from 0"):
        read_photo(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "deep.png", "deep.tif", "planes.tif"])
def test_orientation(tmp_path, orientation, name):
    """Against Pillow's transposition of the same picture."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    shallow = (DEEP >> 8).astype(np.uint8)
    tag = [(274, "H", 1, orientation, True)]
    if name == "deep.png":
        written(tmp_path / name, png(DEEP, chunk(b"eXIf", exif.tobytes()[6:])))
    elif name == "deep.tif":
        tifffile.imwrite(tmp_path / name, DEEP, photometric="rgb", extratags=tag)
    elif name == "planes.tif":
        planes = np.moveaxis(DEEP, -1, 0)
        tifffile.imwrite(tmp_path / name, planes, photometric="rgb", planarconfig="separate", extratags=tag)
    else:
        Image.fromarray(shallow).save(tmp_path / name, exif=exif, lossless=True)
    image = Image.fromarray(shallow)
    image.getexif()[0x0112] = orientation
    photo = read_photo(tmp_path / name)
    upright = photo.pixels if photo.pixels.dtype == np.uint8 else (photo.pixels >> 8).astype(np.uint8)
    np.testing.assert_array_equal(upright, np.asarray(ImageOps.exif_transpose(image)))


def test_hidden_colours_become_the_nearest_visible(tmp_path):
    rgba = np.dstack([RGB, np.zeros((20, 30), np.uint8)])
    rgba[5, 5, 3], rgba[14, 24, 3] = 255, 1
    Image.fromarray(rgba).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    y, x = np.mgrid[:20, :30]
    to_first, to_second = np.hypot(y - 5, x - 5), np.hypot(y - 14, x - 24)
    # The distances are those of a chamfer mask, a few percent off.
    assert (photo.pixels[to_first < 0.9 * to_second] == RGB[5, 5]).all()
    assert (photo.pixels[to_second < 0.9 * to_first] == RGB[14, 24]).all()
    np.testing.assert_array_equal(photo.alpha, rgba[..., 3])


@pytest.mark.parametrize("level", [0, 255])
def test_alpha_all_of_one_level_is_kept(tmp_path, level):
    Image.fromarray(np.dstack([RGB, np.full((20, 30), level, np.uint8)])).save(tmp_path / "a.png")
    check(read_photo(tmp_path / "a.png"), RGB, np.full((20, 30), level))


def test_read_image_lays_transparency_over_white(tmp_path):
    rgba = np.dstack([RGB, np.zeros((20, 30), np.uint8)])
    rgba[:, 10:, 3], rgba[:, 20:, 3] = 100, 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    white = Image.new("RGBA", (30, 20), "white")
    expected = np.asarray(Image.alpha_composite(white, Image.fromarray(rgba)).convert("RGB"))
    out = read_image(tmp_path / "a.png")
    assert out.dtype == np.uint8
    np.testing.assert_allclose(out.astype(int), expected, atol=1)
    np.testing.assert_array_equal(out[:, 20:], RGB[:, 20:])


def test_read_image_rounds_sixteen_bits(tmp_path):
    path = written(tmp_path / "a.png", png(DEEP))
    np.testing.assert_array_equal(read_image(path), np.rint(DEEP / 257).astype(np.uint8))


def cmyk_profile(lab):
    """An ICC profile (version 2) by which all inks but black have one colour: a table of 2^4 points, black last."""

    def point(lightness, a, b):
        return bytes([round(lightness * 2.55), round(a) + 128, round(b) + 128])

    points = (point(100, 0, 0) + point(0, 0, 0)) + 7 * (point(*lab) + point(0, 0, 0))
    identity, ramp = [65536, 0, 0, 0, 65536, 0, 0, 0, 65536], bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *identity)
    table += ramp * 4 + points + ramp * 3
    table += bytes(-len(table) % 4)
    head = struct.pack(">I4s4s4s4s4s12s4s", 0, b"", b"\2\x10\0\0", b"prtr", b"CMYK", b"Lab ", b"", b"acsp")
    head += bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    profile = head + tags + table
    return struct.pack(">I", len(profile)) + profile[4:]


def test_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    photo = read_photo(tmp_path / "a.jpg")
    red, green, blue = photo.pixels[8, 8].tolist()
    assert red > 250 and max(green, blue) < 5 and photo.metadata.icc is None


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_through_its_profile(tmp_path, name):
    lab = (60, 30, -20)
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image.save(tmp_path / name, icc_profile=cmyk_profile(lab), quality=95)
    photo = read_photo(tmp_path / name)
    # Both are relative to the white of their own; scikit-image's only is D65 throughout.
    expected = 255 * lab2rgb(np.array([[lab]], float))
    np.testing.assert_allclose(photo.pixels[8, 8], expected[0, 0], atol=4)
    assert photo.metadata.icc and photo.metadata.icc[16:20] == b"RGB "


def test_cmyk_with_a_profile_for_other_colours(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("CMYK", (16, 16)).save(tmp_path / "a.jpg", icc_profile=srgb)
    with pytest.raises(ImageFileError, match="CMYK colours with a profile for RGB; convert it to RGB"):
        read_photo(tmp_path / "a.jpg")


def test_lab(tmp_path):
    lab = rgb2lab(np.full((16, 16, 3), (0.8, 0.3, 0.2)))
    stored = np.rint(lab * (255 / 100, 1, 1)).astype(np.int16).astype(np.uint8)
    Image.frombytes("LAB", (16, 16), stored.tobytes()).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), stored)
    np.testing.assert_allclose(read_photo(tmp_path / "a.tif").pixels[8, 8], (204, 76.5, 51), atol=4)
