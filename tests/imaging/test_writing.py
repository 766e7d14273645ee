"""What is written, as other libraries read it."""

import io
import os
import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging import writing
from diffbir_jax.imaging.photo import Metadata, Photo
from diffbir_jax.imaging.reading import read_photo
from diffbir_jax.imaging.writing import check_output, write_photo, write_png

RNG = np.random.default_rng(0)
SHALLOW = Photo(RNG.integers(0, 256, (20, 30, 3), np.uint8), RNG.integers(0, 256, (20, 30), np.uint8))
DEEP = Photo(RNG.integers(0, 65536, (20, 30, 3), np.uint16), RNG.integers(0, 65536, (20, 30), np.uint16))
SMOOTH = (np.mgrid[:20, :30].sum(0)[..., None] * (2, 3, 5)).astype(np.uint8)
SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"]


def variants(photo):
    """Colour and gray, with alpha and without."""
    for grey in (False, True):
        pixels = np.repeat(photo.pixels[..., :1], 3, axis=2) if grey else photo.pixels
        yield Photo(pixels, None, grey)
        yield Photo(pixels, photo.alpha, grey)


def expected(photo):
    """(H, W) or (H, W, C): what a file without loss must hold."""
    colours = photo.pixels[..., :1] if photo.grey else photo.pixels
    return np.squeeze(colours if photo.alpha is None else np.dstack([colours, photo.alpha]))


def profile(space):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb[:16] + space + srgb[20:]


def exif():
    """Of a camera: EXIF and GPS within, a thumbnail, and what is no longer true of a result."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x011A], exif[0x0100] = "Maker", 6, 72.5, 4000
    exif.get_ifd(0x8769).update({0x9003: "2020:02:03 04:05:06", 0xA002: 4000, 0xA003: 3000, 0x829A: 0.125})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.5)})
    return exif.tobytes().removeprefix(b"Exif\0\0")


EXIF = exif()
METADATA = Metadata(EXIF, b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>\xc3\xa9</x:xmpmeta>", profile(b"RGB "))


def by_opencv(path):
    """An image file as OpenCV reads it, in our order of channels."""
    out = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert out is not None
    return out if out.ndim == 2 else out[..., [2, 1, 0, 3][: out.shape[2]]]


@pytest.mark.parametrize("photo", [*variants(SHALLOW), *variants(DEEP)])
def test_tiff_by_tifffile(tmp_path, photo):
    write_photo(tmp_path / "a.tif", photo)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        np.testing.assert_array_equal(page.asarray(), expected(photo))
        assert page.asarray().dtype == photo.pixels.dtype and page.compression.name == "ADOBE_DEFLATE"
        alpha = () if photo.alpha is None else (tifffile.EXTRASAMPLE.UNASSALPHA,)
        assert page.extrasamples == alpha
        assert page.photometric.name == ("MINISBLACK" if photo.grey else "RGB")


@pytest.mark.parametrize("photo", list(variants(DEEP)))
def test_sixteen_bit_png_by_opencv(tmp_path, photo):
    write_photo(tmp_path / "a.png", photo)
    out = by_opencv(tmp_path / "a.png")
    assert out.dtype == np.uint16
    if photo.grey and photo.alpha is not None:
        out = out[..., [0, 3]]
    np.testing.assert_array_equal(out, expected(photo))
    # OpenCV makes four channels of gray with alpha; the colour type in the header tells.
    assert (tmp_path / "a.png").read_bytes()[25] == 2 * (not photo.grey) + 4 * (photo.alpha is not None)


@pytest.mark.parametrize("photo", list(variants(SHALLOW)))
def test_eight_bit_png_by_pillow(tmp_path, photo):
    write_photo(tmp_path / "a.png", photo)
    out = Image.open(tmp_path / "a.png")
    out.load()
    np.testing.assert_array_equal(np.asarray(out), expected(photo))
    assert out.mode == ("L" if photo.grey else "RGB") + ("" if photo.alpha is None else "A")


@pytest.mark.parametrize("size", [(700, 400), (16, 40000)])
def test_files_of_many_strips(tmp_path, size):
    pixels = RNG.integers(0, 65536, (*size, 3), np.uint16)
    for name in ("a.png", "a.tif"):
        write_photo(tmp_path / name, Photo(pixels))
        np.testing.assert_array_equal(by_opencv(tmp_path / name), pixels)


@pytest.mark.parametrize("photo", [*variants(SHALLOW), *variants(DEEP)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_what_is_written_is_read(tmp_path, photo, suffix):
    visible = None if photo.alpha is None else np.maximum(photo.alpha, 1)
    write_photo(tmp_path / f"a{suffix}", Photo(photo.pixels, visible, photo.grey))
    back = read_photo(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.pixels, photo.pixels)
    assert back.grey == photo.grey and (back.alpha is None) == (visible is None)
    if visible is not None:
        np.testing.assert_array_equal(back.alpha, visible)


@pytest.mark.parametrize("deep", [False, True])
def test_lossy_formats(tmp_path, deep):
    # Not whole multiples of 257, so that rounding differs from cutting off.
    pixels = SMOOTH.astype(np.uint16) * 257 + 120 if deep else SMOOTH
    alpha = np.full((20, 30), np.iinfo(pixels.dtype).max, pixels.dtype)
    alpha[:, :8] = 0
    for suffix in (".jpg", ".webp"):
        write_photo(tmp_path / f"a{suffix}", Photo(pixels, alpha))
    jpeg, webp = Image.open(tmp_path / "a.jpg"), Image.open(tmp_path / "a.webp")
    assert (jpeg.format, webp.format, jpeg.mode, webp.mode) == ("JPEG", "WEBP", "RGB", "RGBA")
    assert [layer[1:3] for layer in jpeg.layer] == [(1, 1)] * 3, "chroma is not to be reduced"
    assert (np.asarray(jpeg)[:, :7] > 245).all()
    np.testing.assert_allclose(np.asarray(jpeg)[:, 10:].astype(int), SMOOTH[:, 10:], atol=12)
    np.testing.assert_allclose(np.asarray(webp)[..., :3].astype(int), SMOOTH, atol=16)
    np.testing.assert_array_equal(
        np.asarray(webp)[..., 3], np.where(np.arange(30) < 8, 0, 255)[None].repeat(20, 0)
    )


def test_sixteen_bits_are_rounded_not_cut(tmp_path):
    pixels = np.full((16, 16, 3), 100 * 257 + 200, np.uint16)
    write_photo(tmp_path / "a.jpg", Photo(pixels), quality=100)
    assert (np.asarray(Image.open(tmp_path / "a.jpg")) == 101).all()


def test_quality(tmp_path):
    for suffix in (".jpg", ".webp"):
        sizes = []
        for quality in (30, 95, 100):
            write_photo(tmp_path / f"a{suffix}", Photo(SHALLOW.pixels), quality=quality)
            sizes.append((tmp_path / f"a{suffix}").stat().st_size)
        assert sizes == sorted(set(sizes))
    write_photo(tmp_path / "b.jpg", Photo(SHALLOW.pixels))
    write_photo(tmp_path / "c.jpg", Photo(SHALLOW.pixels), quality=95)
    assert (tmp_path / "b.jpg").read_bytes() == (tmp_path / "c.jpg").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_grey_is_brightness(tmp_path, suffix):
    write_photo(tmp_path / f"a{suffix}", Photo(SMOOTH, grey=True), quality=100)
    out = Image.open(tmp_path / f"a{suffix}")
    assert out.mode == "L"
    np.testing.assert_allclose(
        np.asarray(out).astype(int), np.asarray(Image.fromarray(SMOOTH).convert("L")), atol=2
    )


def blocks_by_opencv(path):
    """EXIF, XMP and ICC as OpenCV finds them."""
    _, kinds, blocks = cv2.imdecodeWithMetadata(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    found = {kind: block.tobytes() for kind, block in zip(kinds, blocks)}
    # It leaves the names of JPEG's segments in place.
    marks = {
        cv2.IMAGE_METADATA_EXIF: b"Exif\0\0",
        cv2.IMAGE_METADATA_XMP: b"http://ns.adobe.com/xap/1.0/\0",
        cv2.IMAGE_METADATA_ICCP: b"",
    }
    return [found[kind].removeprefix(mark) for kind, mark in marks.items()]


new_opencv = pytest.mark.skipif(not hasattr(cv2, "imdecodeWithMetadata"), reason="OpenCV before 4.12")


@new_opencv
@pytest.mark.parametrize("photo", [SHALLOW, DEEP, Photo(DEEP.pixels)], ids=["8", "16", "16 opaque"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_metadata_by_opencv(tmp_path, photo, suffix):
    write_photo(tmp_path / f"a{suffix}", Photo(photo.pixels, photo.alpha, False, METADATA))
    found, xmp, icc = blocks_by_opencv(tmp_path / f"a{suffix}")
    assert found == METADATA.exif
    assert xmp.rstrip(b"\0") == METADATA.xmp and icc == METADATA.icc


@pytest.mark.parametrize("photo", [*variants(SHALLOW), *variants(DEEP)])
def test_metadata_of_tiff_by_tifffile(tmp_path, photo):
    icc = profile(b"GRAY" if photo.grey else b"RGB ")
    metadata = Metadata(METADATA.exif, METADATA.xmp, icc)
    write_photo(tmp_path / "a.tif", Photo(photo.pixels, photo.alpha, photo.grey, metadata))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        assert tags["InterColorProfile"].value == icc and tags["XMP"].value == METADATA.xmp
        assert tags["Make"].value == "Maker" and tags["XResolution"].value == (145, 2)
        assert tags["ExifTag"].value["DateTimeOriginal"] == "2020:02:03 04:05:06"
        assert tags["GPSTag"].value["GPSLatitude"] == (52, 1, 31, 1, 25, 2)
        np.testing.assert_array_equal(file.asarray(), expected(photo))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_what_is_carried(tmp_path, suffix):
    """Read and written again: a stale thumbnail, orientation and sizes are gone, the rest is there."""
    thumbnail = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(thumbnail, "JPEG")
    block = EXIF + thumbnail.getvalue()
    xmp = b'<a tiff:Orientation="6" tiff:ImageWidth="4000"  b="1"><exif:PixelXDimension>9</exif:PixelXDimension>'
    Image.fromarray(SMOOTH).save(
        tmp_path / "in.jpg", exif=b"Exif\0\0" + block, xmp=xmp, icc_profile=METADATA.icc, quality=95
    )
    photo = read_photo(tmp_path / "in.jpg")
    assert photo.pixels.shape == (30, 20, 3)
    write_photo(tmp_path / f"out{suffix}", photo)
    out = Image.open(tmp_path / f"out{suffix}")
    out.load()
    tags = out.getexif()
    assert (tags[0x010F], tags.get(0x0112, 1), tags[0x011A]) == ("Maker", 1, 72.5)
    inner = tags.get_ifd(0x8769)
    assert inner[0x9003] == "2020:02:03 04:05:06" and inner[0x829A] == 0.125
    assert not {0xA002, 0xA003} & set(inner)
    assert tags.get_ifd(0x8825)[2] == (52.0, 31.0, 12.5)
    assert tags.get(0x0100) in (None, 20)
    assert photo.metadata.exif and b"\xff\xd8" not in photo.metadata.exif
    assert photo.metadata.xmp == b'<a tiff:Orientation="1"  b="1">'
    assert out.info["xmp"] == photo.metadata.xmp and out.info["icc_profile"] == METADATA.icc


def test_exif_of_tiff_is_carried_without_its_structure(tmp_path):
    write_photo(tmp_path / "a.tif", Photo(DEEP.pixels, None, False, METADATA))
    metadata = read_photo(tmp_path / "a.tif").metadata
    assert (metadata.xmp, metadata.icc) == (METADATA.xmp, METADATA.icc)
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + (metadata.exif or b""))
    assert set(exif) == {0x010F, 0x0112, 0x011A, 0x8769, 0x8825} and exif[0x0112] == 1
    assert exif.get_ifd(0x8769) == {0x9003: "2020:02:03 04:05:06", 0x829A: 0.125}


DESCRIPTIONS = [
    {},
    {"metadata": {"axes": "YXS", "author": "me"}},
    {"imagej": True},
    {"ome": True},
    {"description": 'a cat, {"in": "a box"}'},
    {"description": "ImageJ is a program; OME> too, but not here"},
]


@pytest.mark.parametrize("options", DESCRIPTIONS, ids=str)
@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_descriptions_of_sizes_are_left_out_and_others_kept(tmp_path, options, suffix):
    """A result has another size than its input."""
    own = options.get("description")
    options = options | ({"metadata": None} if own else {})
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((24, 32, 3), np.uint8), photometric="rgb", **options)
    photo = read_photo(tmp_path / "in.tif")
    write_photo(tmp_path / f"out{suffix}", replace(photo, pixels=np.zeros((48, 64, 3), np.uint8)))
    with Image.open(tmp_path / f"out{suffix}") as out:
        assert out.getexif().get(270) == own
        assert 305 in out.getexif()


def test_without_metadata_there_is_none(tmp_path):
    for suffix in SUFFIXES:
        write_photo(tmp_path / f"a{suffix}", Photo(SMOOTH))
        assert read_photo(tmp_path / f"a{suffix}").metadata == Metadata()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("grey", [False, True])
def test_profiles_for_other_colours_are_dropped(tmp_path, suffix, grey):
    for space in (b"RGB ", b"GRAY", b"CMYK"):
        photo = Photo(np.repeat(SMOOTH[..., :1], 3, 2), None, grey, Metadata(icc=profile(space)))
        write_photo(tmp_path / f"a{suffix}", photo)
        fits = space == (b"GRAY" if grey and suffix != ".webp" else b"RGB ")
        assert (Image.open(tmp_path / f"a{suffix}").info.get("icc_profile") is not None) == fits


def test_formats_and_their_limits(tmp_path):
    wide = Photo(np.zeros((1, 16384, 3), np.uint8))
    with pytest.raises(
        ImageFileError, match=r"a.webp: 16384x1 pixels are more than webp allows \(16383 a side\)"
    ):
        write_photo(tmp_path / "a.webp", wide)
    with pytest.raises(
        ImageFileError, match=r"a.JPG: 20x65501 pixels .* write .png or .tif, or a smaller image"
    ):
        check_output(tmp_path / "a.JPG", 65501, 20)
    check_output(tmp_path / "a.jpg", 65500, 65500)
    write_photo(tmp_path / "a.jpg", Photo(np.zeros((65500, 1, 3), np.uint8)))
    for name in ("a.bmp", "a", "a.gif"):
        with pytest.raises(ImageFileError, match="end it in one of .png, .jpg, .jpeg, .webp, .tif, .tiff"):
            write_photo(tmp_path / name, SHALLOW)
    assert os.listdir(tmp_path) == ["a.jpg"]


def with_note(length: int, tag: int = 0x927C) -> bytes:
    """EXIF with a long tag; by default a maker's note, as cameras write them."""
    found = Image.Exif()
    found.load(b"Exif\0\0" + EXIF)
    found.get_ifd(0x8769)[tag] = bytes(length)
    return found.tobytes().removeprefix(b"Exif\0\0")


def encoder_that_fails(*_: object) -> bytes:
    raise struct.error("bad tag")


@pytest.mark.parametrize(
    "given, left_out",
    [
        ({"xmp": bytes(65510), "exif": EXIF}, "XMP"),
        ({"exif": with_note(65536), "xmp": b"<x/>"}, "the maker's note"),
        ({"exif": with_note(65536), "xmp": bytes(65510)}, "the maker's note and XMP"),
        ({"exif": EXIF + bytes(65536)}, "the maker's note"),
        ({"exif": with_note(65536, 0x9286), "xmp": bytes(65510)}, "EXIF and XMP"),
    ],
)
def test_metadata_that_do_not_fit_cost_no_pixels(tmp_path, given, left_out):
    """The resolution stays."""
    path = tmp_path / "a.jpg"
    notes = write_photo(
        path, Photo(SMOOTH, None, False, Metadata(icc=METADATA.icc, dpi=(300.0, 300.0), **given))
    )
    assert notes == (f"is written without {left_out}, which jpg cannot hold, or not as much of it",)
    back = read_photo(path)
    assert back.metadata.dpi == (300.0, 300.0) and back.metadata.icc == METADATA.icc
    assert bool(back.metadata.exif) == ("EXIF" not in left_out and "exif" in given)
    assert bool(back.metadata.xmp) == ("XMP" not in left_out and "xmp" in given)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_that_no_encoder_can_take_apart(tmp_path, suffix):
    broken = Metadata(b"II*\0\xff\xff\xff\x7f" + bytes(40), b"<x/>", b"no profile", (300.0, 300.0))
    write_photo(tmp_path / f"a{suffix}", Photo(SMOOTH, None, False, broken))
    assert read_photo(tmp_path / f"a{suffix}").pixels.shape == SMOOTH.shape


def test_an_encoder_that_cannot_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "encode_png", encoder_that_fails)
    with pytest.raises(ImageFileError, match=r"a.png: cannot be encoded \(bad tag\)"):
        write_photo(tmp_path / "a.png", SHALLOW)


@new_opencv
def test_the_largest_metadata_that_jpeg_takes(tmp_path):
    metadata = Metadata(EXIF.ljust(65533 - 6, b"\0"), b"x" * (65533 - 29), METADATA.icc)
    write_photo(tmp_path / "a.jpg", Photo(SMOOTH, None, False, metadata))
    found, xmp, _ = blocks_by_opencv(tmp_path / "a.jpg")
    assert found == metadata.exif and xmp == metadata.xmp


def test_wrong_arguments(tmp_path):
    for pixels, alpha in ((SMOOTH / 255, None), (SMOOTH, DEEP.alpha)):
        with pytest.raises(TypeError, match="give uint8 or uint16, the same for both"):
            write_photo(tmp_path / "a.png", Photo(pixels, alpha))
    for pixels, alpha in ((SMOOTH[..., 0], None), (SMOOTH, DEEP.pixels[:-1, :, 0].astype(np.uint8))):
        with pytest.raises(ValueError, match=r"give \(H, W, 3\), and \(H, W\) for alpha"):
            write_photo(tmp_path / "a.png", Photo(pixels, alpha))
    with pytest.raises(ValueError, match="quality is 101; allowed are 1 to 100"):
        write_photo(tmp_path / "a.png", SHALLOW, quality=101)
    with pytest.raises(TypeError, match="float64"):
        write_png(tmp_path / "a.png", SMOOTH / 255)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "array", [SMOOTH, SMOOTH[..., 0], DEEP.pixels, DEEP.alpha], ids=["8", "8 gray", "16", "16 gray"]
)
def test_write_png(tmp_path, array):
    write_png(tmp_path / "new" / "a.png", array)
    np.testing.assert_array_equal(by_opencv(tmp_path / "new" / "a.png"), array)
    assert os.listdir(tmp_path / "new") == ["a.png"]
