"""Reading takes time in proportion to the file and memory as its size allows, whatever the file says of itself."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.completeness import check_complete
from diffbir_jax.imaging.directories import check_directories
from diffbir_jax.imaging.metadata import carried
from diffbir_jax.imaging.reading import read_photo

RGB = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)


def written(path: Path, image: np.ndarray | Image.Image, kind: str, **options: object) -> Path:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, kind, **options)
    return path


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", **options)
    return file.getvalue()


def looks(work: Callable[[], object]) -> int:
    """How many bytes a function copies and searches, as its memory shows; quadratic work on 1 MB would be 10^12."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(path: Path, message: str) -> None:
    with pytest.raises(ImageFileError, match=message):
        read_photo(path)


@pytest.mark.parametrize(
    "middle",
    [b"\xff" * 3_000_000, b"\xff\xff\x00" * 1_000_000, b"\xff\x00" * 1_500_000],
    ids=["fill", "stuffed fill", "stuffed"],
)
def test_markers_are_found_in_one_pass(middle: bytes) -> None:
    """A pattern that starts at each byte anew would take hours here: the test would not end."""
    with pytest.raises(ImageFileError, match="cut off"):
        check_complete(b"\xff\xd8" + middle + b"\x00", "JPEG")


@pytest.mark.parametrize(
    "piece",
    [
        b" ",
        b' exif:PixelXDimension="<',
        b"<tiff:ImageWidth>",
        b"<xmp:Thumbnails>",
        b"tiff:Orientation ",
        b'tiff:Orientation="',
    ],
)
def test_xmp_is_searched_in_one_pass(piece: bytes) -> None:
    packet = piece * (3_000_000 // len(piece))
    assert carried({}, packet, None).xmp == packet


def test_xmp_loses_sizes_and_thumbnails_and_is_upright() -> None:
    packet = (
        b'<x tiff:ImageWidth="40" exif:PixelYDimension = \'32\' tiff:Orientation="6" dc:title="a">'
        b"<tiff:ImageLength>32</tiff:ImageLength><xmp:Thumbnails>AAAA</xmp:Thumbnails><b/>"
        b"<xmp:Thumbnails open='1'>BB</xmp:Thumbnails></x>"
    )
    assert carried({}, packet, None).xmp == b'<x tiff:Orientation="1" dc:title="a"><b/></x>'


def directory(entries: list[tuple[int, int, int, int]], order: str = "<") -> bytes:
    """A TIFF structure of one directory: tag, type, count and value each."""
    packed = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(entries)) + packed + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_many_tags_with_the_same_bytes_are_refused(tmp_path: Path, order: str) -> None:
    bomb = directory([(40000 + i, 7, 60_000, 8) for i in range(5000)], order)
    with pytest.raises(ImageFileError, match="longer than the file"):
        check_directories(bomb)
    (tmp_path / "a.tif").write_bytes(bomb)
    refused(tmp_path / "a.tif", "its tags are longer than the file")
    # As EXIF of a file they are left out: the pixels count.
    path = written(tmp_path / "a.png", RGB, "PNG", exif=b"Exif\0\0" + bomb)
    assert looks(lambda: read_photo(path)) < 20_000_000
    assert read_photo(path).metadata.exif is None


def test_inner_directories_count_and_circles_end() -> None:
    check_directories(directory([(0x8769, 4, 1, 8)]))
    with pytest.raises(ImageFileError):
        check_directories(directory([(0x8769, 4, 1, 8), (40000, 7, 30, 8)]))


def tiff_with(strips: list[bytes], height: int, rows: int, width: int = 40) -> bytes:
    """A gray TIFF of deflated strips, which may be one and the same."""
    bodies = {strip: None for strip in strips}
    at, places = 8, {}
    for body in bodies:
        places[body] = at
        at += len(body)
    arrays = [np.array([places[s] for s in strips], "<u4"), np.array([len(s) for s in strips], "<u4")]
    many = len(strips) > 1
    values = [at, at + arrays[0].nbytes] if many else [int(array[0]) for array in arrays]
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    tags += [(273, 4, len(strips), values[0]), (278, 4, 1, rows), (279, 4, len(strips), values[1])]
    body = b"".join(bodies) + (b"".join(array.tobytes() for array in arrays) if many else b"")
    listing = directory(tags)[8:]
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + listing


def test_strips_inflate_to_what_the_size_says(tmp_path: Path) -> None:
    """10 MB each, a thousand times the same: refused at the first."""
    path, strip = tmp_path / "a.tif", zlib.compress(bytes(10_000_000), 9)
    path.write_bytes(tiff_with([strip] * 1000, 1000, 1))
    assert looks(lambda: refused(path, "more pixels than it says")) < 30_000_000
    path.write_bytes(tiff_with([zlib.compress(bytes(40))] * 1000, 1000, 1))
    assert read_photo(path).pixels.shape == (1000, 40, 3)


def test_a_tile_is_not_much_larger_than_its_image(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(64, 64), compression="zlib")
    assert (read_photo(path).pixels == RGB).all()
    data = path.read_bytes()
    for tag in (322, 323):
        at = data.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in data else None
        at = data.index(struct.pack("<HHI", tag, 3, 1)) if at is None else at
        data = data[: at + 8] + struct.pack("<I", 60_000) + data[at + 12 :]
    path.write_bytes(data)
    refused(path, "tiles of 60000x60000 pixels")


@pytest.mark.parametrize("wide, high", [(16, 10**6), (1, 16 * 10**6)])
def test_all_tiles_together_are_not_much_larger_than_their_image(
    tmp_path: Path, wide: int, high: int
) -> None:
    """Each may be as large as a few images, though all lie at one place: 32 KB would take hours."""
    body, number = zlib.compress(bytes(16_000_000), 9), 2000 // wide
    places = struct.pack("<I", 8) * number + struct.pack("<I", len(body)) * number
    tags = [(256, 4, 1, 2000), (257, 4, 1, 2000), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    tags += [(322, 4, 1, wide), (323, 4, 1, high), (324, 4, number, 8 + len(body))]
    tags += [(325, 4, number, 8 + len(body) + 4 * number)]
    end = struct.pack("<I", 8 + len(body) + len(places))
    (tmp_path / "a.tif").write_bytes(b"II*\0" + end + body + places + directory(tags)[8:])
    refused(tmp_path / "a.tif", f"is damaged: it has tiles of {wide}x{high} pixels")


@pytest.mark.parametrize("samples", [17, 1000])
def test_a_photo_has_few_channels(tmp_path: Path, samples: int) -> None:
    """Libraries hold all of them: 12 KB would take gigabytes."""
    pixels = np.zeros((100, 100, samples), np.float32)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", planarconfig="contig", extrasamples=[0] * (samples - 3)
    )
    refused(tmp_path / "a.tif", f"has {samples} channels of 32 bits; save it as RGB or gray")


def test_png_inflates_to_what_the_size_says(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", RGB, "PNG")
    data = path.read_bytes()
    bomb = zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(bomb)) + b"IDAT" + bomb + struct.pack(">I", zlib.crc32(b"IDAT" + bomb))
    path.write_bytes(data[:33] + chunk + data[-12:])
    assert looks(lambda: refused(path, "more pixels than it says")) < 30_000_000


def test_a_jpeg_of_many_scans_is_refused(tmp_path: Path) -> None:
    """Each scan visits the whole image, in a few bytes."""
    data = jpeg(progressive=True)
    scan = data.index(b"\xff\xda")
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:-2] + (data[scan : scan + 14] + b"\x00") * 200 + data[-2:])
    refused(path, "more than 100 scans")


def test_what_the_decoder_only_warns_of_is_damage(tmp_path: Path) -> None:
    """Half of the pixels and an end marker: Pillow fills the rest with gray."""
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = jpeg(quality=95, **options)
        (tmp_path / "a.jpg").write_bytes(data[: len(data) * 3 // 4] + b"\xff\xd9")
        refused(tmp_path / "a.jpg", "is damaged")
    data = jpeg(quality=95, mode="CMYK")
    path = written(tmp_path / "a.jpg", Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4] + b"\xff\xd9")
    refused(path, "is damaged")


def test_superfluous_bytes_are_said_and_cost_nothing(tmp_path: Path) -> None:
    """Some webcams write them."""
    data = jpeg()
    (tmp_path / "a.jpg").write_bytes(data[:-2] + bytes(9) + data[-2:])
    photo = read_photo(tmp_path / "a.jpg")
    np.testing.assert_array_equal(photo.pixels, np.asarray(Image.open(io.BytesIO(data))))
    assert "extraneous bytes before marker" in photo.notes[0]


def of_jpeg(piece: bytes) -> bytes:
    """A TIFF of one strip, a JPEG file."""
    entries = [(256, 4, 1, 40), (257, 4, 1, 32), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 122), (277, 3, 1, 1), (278, 4, 1, 32), (279, 4, 1, len(piece))]
    return directory(entries) + piece


def test_damaged_jpegs_within_tiff(tmp_path: Path) -> None:
    """Its decoder hides what JPEG's warns of."""
    file = io.BytesIO()
    Image.fromarray(RGB[..., 0]).save(file, "JPEG", quality=95)
    data = file.getvalue()
    path = tmp_path / "a.tif"
    path.write_bytes(of_jpeg(data))
    np.testing.assert_array_equal(read_photo(path).pixels[..., 0], np.asarray(Image.open(file)))
    path.write_bytes(of_jpeg(data[: len(data) * 3 // 4] + b"\xff\xd9"))
    refused(path, "is damaged")
    at = data.index(b"\xff\xc0") + 5
    path.write_bytes(of_jpeg(data[:at] + b"\xf0\0\xf0\0" + data[at + 4 :]))
    assert looks(lambda: refused(path, "holds more pixels than it says")) < 20_000_000


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe2\0\x1aICC_PROFILE\0\1\3" + bytes(10),
        b"\xff\xe2\0\x1aICC_PROFILE\0\0\0" + bytes(10),
        b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x09",
    ],
    ids=["part 1 of 3", "part 0 of 0", "unknown colours"],
)
def test_damaged_metadata_of_jpeg_cost_no_picture(tmp_path: Path, segment: bytes) -> None:
    # Behind JFIF's header, Adobe's counts for nothing.
    data = jpeg().replace(b"JFIF", b"----")
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    photo = read_photo(tmp_path / "a.jpg")
    np.testing.assert_array_equal(photo.pixels, np.asarray(Image.open(io.BytesIO(data))))
    assert photo.notes[0].startswith("has damaged metadata (")
    # Damage of the pixels is not hidden by it.
    data = data[: len(data) * 3 // 4] + b"\xff\xd9"
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    refused(tmp_path / "a.jpg", "is damaged")
