"""Formats beside the common ones: read for what they are, with a note where that is a choice."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging import decoding
from diffbir_jax.imaging.decoding import HEAD, kind_of
from diffbir_jax.imaging.headers import header_size
from diffbir_jax.imaging.reading import read_photo

RAMP = np.linspace(0, 1, 32 * 40 * 3, dtype=np.float32).reshape(32, 40, 3)
X, Y = np.mgrid[:48, :48].astype(np.float32) / 47
SMOOTH = np.rint(255 * np.stack([X, Y, 0 * X + 0.5], axis=2)).astype(np.uint8)


def tiff(path: Path, array: np.ndarray, **options: object) -> Path:
    photometric = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(path, array, photometric=photometric, **options)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_floats_are_read(tmp_path: Path, dtype: type, compression: str | None, planar: str) -> None:
    values = RAMP.astype(dtype)
    array = np.moveaxis(values, -1, 0) if planar == "separate" else values
    photo = read_photo(tiff(tmp_path / "a.tif", array, compression=compression, planarconfig=planar))
    assert photo.pixels.dtype == np.uint16 and not photo.notes
    np.testing.assert_allclose(photo.pixels / 65535, RAMP, atol=5e-4 if dtype == np.float16 else 1e-5)


def test_gray_floats_are_gray(tmp_path: Path) -> None:
    photo = read_photo(tiff(tmp_path / "a.tif", RAMP[..., 0]))
    assert photo.grey and abs(int(photo.pixels[0, 1, 0]) - round(65535 * float(RAMP[0, 1, 0]))) <= 1


@pytest.mark.parametrize(
    "values, dtype",
    [(255 * RAMP, np.float32), (255 * RAMP, np.int16), (100_000 * RAMP, np.uint32), (7 * RAMP, np.float16)],
)
def test_other_numbers_are_said_and_scaled(tmp_path: Path, values: np.ndarray, dtype: type) -> None:
    photo = read_photo(tiff(tmp_path / "a.tif", values.astype(dtype)))
    whole = values.astype(dtype).max() <= 255 and np.dtype(dtype).kind != "f"
    white = np.iinfo(photo.pixels.dtype).max
    np.testing.assert_allclose(photo.pixels / white, values.astype(dtype) / values.max(), atol=4e-3)
    assert [note.split(" which")[0] for note in photo.notes] == (
        [] if whole else [f"holds numbers up to {values.max():g},"]
    )


@pytest.mark.parametrize("bad", [-RAMP, RAMP + np.inf, RAMP + np.nan, (-100 * RAMP).astype(np.int16)])
def test_numbers_without_a_meaning_are_refused(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(ImageFileError, match=r"a.tif: holds numbers from .* to .*; give numbers from 0"):
        read_photo(tiff(tmp_path / "a.tif", bad))
    with pytest.raises(ImageFileError, match="holds numbers of the kind complex64; give integers or floats"):
        read_photo(tiff(tmp_path / "a.tif", RAMP.astype(np.complex64)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32, np.uint32])
def test_numbers_compressed_with_lzw_are_read(tmp_path: Path, dtype: type) -> None:
    values = SMOOTH / 255 if np.dtype(dtype).kind == "f" else SMOOTH
    photo = read_photo(lzw(tmp_path / "a.tif", values.astype(dtype)))
    white = np.iinfo(photo.pixels.dtype).max
    np.testing.assert_allclose(photo.pixels / white, SMOOTH / 255, atol=1e-4)


def test_planes_of_numbers_are_refused_where_no_library_reads_them(tmp_path: Path) -> None:
    """OpenCV reads them to garbage."""
    path = lzw(tmp_path / "a.tif", np.moveaxis(SMOOTH / 255, -1, 0).astype(np.float32))
    with pytest.raises(ImageFileError, match=r"channels in an unusual order and compression \(number 5\)"):
        read_photo(path)


def test_twelve_bits_are_stretched(tmp_path: Path) -> None:
    """Pillow gives the numbers as they are, 16 times too dark."""
    numbers = np.rint(X * 4095).astype(int)
    rows = b"".join(bytes.fromhex("".join(f"{number:03x}" for number in row)) for row in numbers)
    path = gray(tmp_path / "a.tif", rows, compression=1, bits=12)
    pixels = read_photo(path).pixels
    np.testing.assert_array_equal(pixels[..., 0], np.rint(numbers * (65535 / 4095)))


@pytest.mark.parametrize("compression, name", [(50001, "WebP"), (50002, "JPEG XL"), (34712, "JPEG 2000")])
def test_unread_compressions_are_named(tmp_path: Path, compression: int, name: str) -> None:
    with pytest.raises(ImageFileError, match=f"is compressed as {name} in TIFF, which is not read; save it"):
        read_photo(gray(tmp_path / "a.tif", bytes(48 * 48), compression))


def gray(path: Path, pixels: bytes, compression: int, bits: int = 8) -> Path:
    """A TIFF of 48x48 pixels in one strip."""
    entries = [(256, 4, 1, 48), (257, 4, 1, 48), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 134), (277, 3, 1, 1), (278, 4, 1, 48), (279, 4, 1, len(pixels))]
    tags = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + tags + bytes(16) + pixels)
    return path


def lzw(path: Path, array: np.ndarray) -> Path:
    """A TIFF compressed with LZW, of planes if the channels come first."""
    planes = array if array.shape[0] == 3 else array[None]
    pieces = [_lzw(plane.tobytes()) for plane in planes]
    tiff(path, array, planarconfig="separate" if len(pieces) > 1 else "contig")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        places = {
            code: (tags[code].valueoffset, "<I" if tags[code].dtype == 4 else "<H") for code in (273, 279)
        }
        compression = tags[259].valueoffset
    for number, piece in enumerate(pieces):
        for code, value in ((273, len(data)), (279, len(piece))):
            at, layout = places[code]
            struct.pack_into(layout, data, at + number * struct.calcsize(layout), value)
        data += piece
    struct.pack_into("<H", data, compression, 5)
    path.write_bytes(data)
    return path


def _lzw(data: bytes) -> bytes:
    """Codes of 9 bits; the table is emptied before it needs more."""
    clear, end = "100000000", "100000001"
    groups = [data[at : at + 200] for at in range(0, len(data), 200)]
    bits = "".join(clear + "".join(f"{byte:09b}" for byte in group) for group in groups) + end
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def save(path: Path, kind: str, **options: object) -> Path:
    Image.fromarray(SMOOTH).save(path, kind, **options)
    return path


@pytest.mark.parametrize(
    "name, kind", [("a.jfif", "JPEG"), ("a.dat", "PNG"), ("a", "WEBP"), ("a.avif", "AVIF"), ("a.gif", "GIF")]
)
def test_content_decides(tmp_path: Path, name: str, kind: str) -> None:
    photo = read_photo(save(tmp_path / name, kind))
    assert photo.pixels.shape == SMOOTH.shape and not photo.notes
    assert np.abs(photo.pixels.astype(float) - SMOOTH).mean() < (12 if kind == "GIF" else 4)


TURNED = {1: 0, 3: 2, 6: 1, 8: 3}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "JXL"])
def test_orientation_of_other_formats(tmp_path: Path, kind: str, orientation: int) -> None:
    """Some of Pillow's readers turn images by themselves, others leave that to us."""
    if kind != "AVIF":
        pytest.importorskip({"HEIF": "pillow_heif", "JXL": "pillow_jxl"}[kind])
        decoding.register(kind)
    exif, wide = Image.Exif(), SMOOTH[:32]
    exif[0x0112] = orientation
    turned = np.ascontiguousarray(np.rot90(wide, TURNED[orientation]))
    Image.fromarray(turned).save(tmp_path / "a", kind, exif=exif.tobytes(), quality=95)
    photo = read_photo(tmp_path / "a")
    assert photo.pixels.shape == wide.shape and np.abs(photo.pixels.astype(float) - wide).mean() < 4
    assert header_size(tmp_path / "a") == wide.shape[:2]


def test_further_pages_are_said(tmp_path: Path) -> None:
    """But not the same image in small, as cameras and editors write it."""
    pages = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    for kind, expected in ((0, ("has several pages; its first image is taken",)), (1, ())):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(pages[0], photometric="rgb")
            file.write(pages[1], photometric="rgb", subfiletype=kind)
        photo = read_photo(tmp_path / "a.tif")
        assert photo.notes == expected
        np.testing.assert_array_equal(photo.pixels, pages[0])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_gives_its_first_image_and_says_so(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "a", kind, save_all=True, append_images=[Image.fromarray(255 - SMOOTH)])
    photo = read_photo(path)
    assert photo.notes == ("is an animation; its first image is taken",)
    assert np.abs(photo.pixels.astype(float) - SMOOTH).mean() < 12


def test_the_jpeg_of_a_phone_is_no_animation(tmp_path: Path) -> None:
    """Its further images are its preview and its depth."""
    path = save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.fromarray(SMOOTH[::2, ::2])])
    with Image.open(path) as image:
        assert image.format == "MPO" and image.is_animated
    photo = read_photo(path)
    assert photo.notes == () and photo.pixels.shape == SMOOTH.shape


@pytest.mark.parametrize(
    "module, kind, name", [("pillow_heif", "HEIF", "HEIC"), ("pillow_jxl", "JXL", "JPEG XL")]
)
def test_formats_of_other_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, kind: str, name: str
) -> None:
    pytest.importorskip(module)
    decoding.register(kind)
    path = save(tmp_path / "a", kind, quality=95)
    assert np.abs(read_photo(path).pixels.astype(float) - SMOOTH).mean() < 3

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(decoding.importlib, "import_module", missing)
    with pytest.raises(
        ImageFileError, match=rf"is a {name} file; pip install 'diffbir-jax\[formats\]' to read it"
    ):
        read_photo(path)


def raw(height: int = 64, orientation: int = 1) -> bytes:
    """A camera's raw file: DNG, the colours of a Bayer mosaic in 16 bits."""
    mosaic = np.zeros((height, 64), np.uint16)
    mosaic[0::2, 0::2], mosaic[1::2, 1::2], mosaic[0::2, 1::2], mosaic[1::2, 0::2] = (
        40_000,
        9_000,
        20_000,
        20_000,
    )
    rational = lambda values: [number for value in values for number in (round(value * 10_000), 10_000)]  # noqa: E731
    tags = [
        *((33421, 3, 2, (2, 2)), (33422, 1, 4, bytes([0, 1, 1, 2])), (50706, 1, 4, bytes([1, 4, 0, 0]))),
        *((50708, 2, 5, "Test"), (50717, 4, 1, 65535), (50778, 3, 1, 21)),
        (50721, 10, 9, rational([3.24, -1.54, -0.5, -0.97, 1.88, 0.04, 0.06, -0.2, 1.06])),
        (50728, 5, 3, rational([1, 1, 1])),
        (274, 3, 1, orientation),
    ]
    file = io.BytesIO()
    tifffile.imwrite(file, mosaic, photometric=32803, extratags=[(*tag, True) for tag in tags])
    return file.getvalue()


def test_a_raw_file_is_developed(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    (tmp_path / "a.dng").write_bytes(raw())
    photo = read_photo(tmp_path / "a.dng")
    red, green, blue = photo.pixels[16:48, 16:48].mean(axis=(0, 1))
    assert photo.pixels.dtype == np.uint16 and photo.pixels.shape[2] == 3 and red > green > blue
    assert "developed" in photo.notes[0]


def test_the_preview_of_a_raw_file_is_not_taken_for_the_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NEF and ARW begin with a small picture."""
    monkeypatch.setattr(
        decoding.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name))
    )
    with pytest.raises(ImageFileError, match="is a camera's raw file; pip install"):
        read_photo(tiff(tmp_path / "a.nef", SMOOTH, subfiletype=1))
    for head in (
        b"FUJIFILMCCD-RAW 0201",
        b"IIU\0\x08\0\0\0",
        b"II*\0\x10\0\0\0CR\x02\0",
        b"\0\0\0\x18ftypcrx \0\0\0\1",
    ):
        assert kind_of(head.ljust(HEAD, b"\0")) == "RAW"


def test_a_preview_in_front_of_the_photo_is_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(SMOOTH[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(SMOOTH, photometric="rgb")
    with pytest.raises(ImageFileError, match="begins with a preview of its next image"):
        read_photo(tmp_path / "a.tif")


def test_containers_are_told_apart() -> None:
    box = lambda *brands: struct.pack(">I", 8 + 4 * len(brands)) + b"ftyp" + b"".join(brands)  # noqa: E731
    assert kind_of(box(b"avif", bytes(4))) == kind_of(box(b"mif1", bytes(4), b"miaf", b"avif")) == "AVIF"
    assert kind_of(box(b"heic", bytes(4))) == kind_of(box(b"mif1", bytes(4), b"heic")) == "HEIF"
    assert kind_of(box(b"isom", bytes(4))) is None


@pytest.mark.parametrize(
    "content, module, name",
    [
        (b"\xff\x0a" + bytes(100), "pillow_jxl", "JPEG XL"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "pillow_heif", "HEIC"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(100), "rawpy", "camera's raw"),
    ],
)
def test_damaged_files_of_other_packages_are_told_in_our_words(
    tmp_path: Path, content: bytes, module: str, name: str
) -> None:
    pytest.importorskip(module)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageFileError) as caught:
        read_photo(tmp_path / "a.png")
    told = f"is a damaged {name} file, or one of a rare sort; copy it again, or convert it to PNG"
    assert str(caught.value) == f"{tmp_path / 'a.png'}: {told}"


def bmp(rgba: np.ndarray) -> bytes:
    """A 32-bit BMP with a mask of the transparency (a header of version 4)."""
    height, width, _ = rgba.shape
    size = struct.pack("<IiiHHII", 108, width, -height, 1, 32, 3, rgba.size)
    masks = struct.pack("<iiII4I", 2835, 2835, 0, 0, 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = size + masks + b"BGRs" + bytes(48)
    pixels = np.ascontiguousarray(rgba[..., [2, 1, 0, 3]]).tobytes()
    return (
        struct.pack("<2sIHHI", b"BM", 14 + len(header) + rgba.size, 0, 0, 14 + len(header)) + header + pixels
    )


def test_a_bmp_without_a_visible_pixel_is_opaque(tmp_path: Path) -> None:
    alpha = np.zeros((48, 48, 1), np.uint8)
    (tmp_path / "zero.bmp").write_bytes(bmp(np.concatenate([SMOOTH, alpha], axis=2)))
    photo = read_photo(tmp_path / "zero.bmp")
    assert photo.alpha is None
    np.testing.assert_array_equal(photo.pixels, SMOOTH)
    alpha[0, 0] = 200
    (tmp_path / "some.bmp").write_bytes(bmp(np.concatenate([SMOOTH, alpha], axis=2)))
    assert read_photo(tmp_path / "some.bmp").alpha is not None


def test_apples_png_is_called_by_its_name(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, "PNG")
    plain = file.getvalue()
    (tmp_path / "icon.png").write_bytes(
        plain[:8] + struct.pack(">I4sII", 4, b"CgBI", 0x50002002, 0) + plain[8:]
    )
    with pytest.raises(ImageFileError, match="Apple's own form"):
        read_photo(tmp_path / "icon.png")
