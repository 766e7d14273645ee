"""TIFF files. Pillow reads 8 bits, OpenCV reads 16 bits with interleaved channels, tifffile reads the rest."""

import contextlib
import io
import mmap
from typing import IO, NamedTuple, cast

import cv2
import numpy as np
import tifffile
from PIL import TiffImagePlugin

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.completeness import CUT_OFF, inflated_length
from diffbir_jax.imaging.directories import check_directories
from diffbir_jax.imaging.jpeg_files import check_pixels
from diffbir_jax.imaging.metadata import SUB_DIRECTORIES, Tags, orientation_of
from diffbir_jax.imaging.samples import from_bgr, scaled, unassociated, upright

_DEFLATE, _JPEG = (8, 32946), 7
# Compressions that no library here reads, or only with messages of its own.
_UNREAD = {
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34933: "PNG",
    50001: "WebP",
    50002: "JPEG XL",
}
_UNREAD |= {22610: "JPEG XR", 34676: "LogLuv", 34677: "LogLuv", 34934: "JPEG XR", 52546: "JPEG XL"}
# Tables that the pieces of a TIFF of JPEGs share.
_TABLES = 347
# What tifffile reads without further packages.
_READABLE = (1, *_DEFLATE)
_DNG = 50706
# Where cameras put directories of further images.
_INNER = 330
# Photometric interpretations of raw files: colour filter array, linear raw.
_SENSOR = (32803, 34892)
# Pixels that a tile may have in an image of any size, and that all tiles may have beyond four times their image.
_TILE, _BEYOND = 1 << 20, 1 << 25
# Channels and bits of a channel that a photo may have: libraries hold all of them before some are left out.
_CHANNELS, _BITS = 16, 64


class Layout(NamedTuple):
    """The storage of the first image in a TIFF file; names are those of the tags.

    Attributes:
        width, height: in pixels, before the orientation is applied.
        bits: bits of each sample of a pixel.
        formats: format of each sample; 1 is unsigned, 2 signed, 3 float.
        photometric: 0 and 1 gray (0: white is 0), 2 RGB, 3 palette, 5 CMYK, 6 YCbCr, 8 LAB.
        samples: number of samples per pixel.
        extra: meaning of the samples after the colours: 0 unspecified, 1 alpha with premultiplied colours, 2 alpha.
        planar: 1 interleaved, 2 one plane after the other.
        compression: 1 none, 5 LZW, 8 deflate, ....
        orientation: 1 upright, ..., as in EXIF.
    """

    width: int
    height: int
    bits: tuple[int, ...]
    formats: tuple[int, ...]
    photometric: int
    samples: int
    extra: tuple[int, ...]
    planar: int
    compression: int
    orientation: int

    @property
    def deep(self) -> bool:
        """Whether this is gray or RGB in 16 bits."""
        kind = (set(self.bits), set(self.formats))
        return kind == ({16}, {1}) and self.photometric in (0, 1, 2)

    @property
    def unusual(self) -> bool:
        """Whether samples are floats, signed, or of 32 bits or more."""
        return not {*self.formats} <= {1, 4} or max(self.bits) >= 32


def first_directory(data: bytes | mmap.mmap) -> Tags:
    """Return the tags of the first image of a TIFF file, including its EXIF.

    Raises:
        ImageFileError: a big-endian BigTIFF, which Pillow cannot read.
    """
    if data[:4] == b"MM\0+":
        raise ImageFileError("is a BigTIFF of big-endian numbers; save it as plain TIFF, or as PNG")
    check_directories(data)
    head = data[: 16 if data[2] == 43 else 8]  # 43: offsets of 64 bits
    tags = _directory(data, head)
    for tag in {*SUB_DIRECTORIES} & tags.keys():
        offset = tags.pop(tag)
        # The pixels do not depend on these two directories, so damage in them is no error.
        with contextlib.suppress(Exception):
            tags[tag] = _directory(data, head, offset, group=tag)
    return tags


def has_pages(data: bytes | mmap.mmap) -> bool:
    """Whether another image follows the first one, which is not the same in small."""
    head = data[: 16 if data[2] == 43 else 8]
    first = TiffImagePlugin.ImageFileDirectory_v2(head)
    file = io.BytesIO(data) if isinstance(data, bytes) else cast(IO[bytes], data)
    file.seek(first.next)
    # Damage beyond the first image does not matter to it.
    with contextlib.suppress(Exception):
        first.load(file)
        check_directories(data, first.next)
        return first.next > 0 and not _numbers(_directory(data, head, first.next), 254, 0)[0] & 1
    return False


def _directory(
    data: bytes | mmap.mmap, head: bytes, offset: int | None = None, group: int | None = None
) -> Tags:
    directory = TiffImagePlugin.ImageFileDirectory_v2(head, group=group)
    file = io.BytesIO(data) if isinstance(data, bytes) else cast(IO[bytes], data)
    file.seek(directory.next if offset is None else offset)
    directory.load(file)
    return dict(directory)


def layout(tags: Tags) -> Layout:
    """Return the storage of a directory's image.

    Raises:
        ImageFileError: the directory does not state the size, or states more channels or bits than a photo has, or a
            compression that is not read.
    """
    if not {256, 257} <= set(tags):
        raise ImageFileError("is damaged: it does not say how large its image is; copy or download it again")
    (width,), (height,), (samples,) = (_numbers(tags, tag, 1) for tag in (256, 257, 277))
    (photometric,), (planar,), (compression,) = (_numbers(tags, tag, 1) for tag in (262, 284, 259))
    bits, formats, extra = _numbers(tags, 258, 1), _numbers(tags, 339, 1), _numbers(tags, 338)
    if name := _UNREAD.get(compression):
        raise ImageFileError(
            f"is compressed as {name} in TIFF, which is not read; save it with LZW or deflate, or as PNG"
        )
    if not 1 <= samples <= _CHANNELS or not 1 <= max(bits) <= _BITS:
        raise ImageFileError(
            f"has {samples} channels of {max(bits)} bits; save it as RGB or gray with up to {_BITS} bits, or as PNG"
        )
    return Layout(
        width, height, bits, formats, photometric, samples, extra, planar, compression, orientation_of(tags)
    )


def check_complete(tags: Tags, data: bytes) -> None:
    """Raise ImageFileError if the directory's pixels are cut off or detectably damaged.

    Decoders stop when they have enough pixels, even wrong ones, never read the checksum of a deflated piece, and hide
    what JPEG's decoder warns of.
    """
    (compression,) = _numbers(tags, 259, 1)
    number, most, left = _pieces(tags)
    for offsets, counts in ((273, 279), (324, 325)):
        places = zip(_numbers(tags, offsets)[:number], _numbers(tags, counts), strict=False)
        for begin, count in places:
            if begin + count > len(data):
                raise ImageFileError(CUT_OFF)
            if compression in _DEFLATE:
                left -= inflated_length(data[begin : begin + count], min(most, left))
            if compression == _JPEG:
                check_pixels(_jpeg(tags, data[begin : begin + count]), most)


def _jpeg(tags: Tags, piece: bytes) -> bytes:
    """Return a strip or tile as a JPEG file; the tables that all share stand between two markers."""
    tables = tags.get(_TABLES)
    return tables[:-2] + piece[2:] if isinstance(tables, bytes) and tables else piece


def _pieces(tags: Tags) -> tuple[int, int, int]:
    """Return how many strips or tiles the image has, and how many bytes one of them and all of them may have."""
    found, tiled = layout(tags), 324 in tags
    (wide,), (high,) = (_numbers(tags, tag, size) for tag, size in ((322, found.width), (323, found.height)))
    (rows,) = _numbers(tags, 278, found.height)
    width, height = (wide, high) if tiled else (found.width, min(rows, found.height))
    pixels, columns = 4 * found.width * found.height, -(-found.width // max(width, 1))
    number = columns * -(-found.height // max(height, 1))
    too_many = width * height > max(pixels, _TILE) or number * width * height > pixels + _BEYOND
    if min(width, height) < 1 or too_many:
        raise ImageFileError(
            f"is damaged: it has tiles of {width}x{height} pixels; copy or download it again"
        )
    planes = found.samples if found.planar == 2 else 1
    samples = 1 if found.planar == 2 else found.samples
    one = height * (-(-width * samples * max(found.bits) // 8) + 8)
    return planes * number, one, planes * number * one


def is_raw(tags: Tags, data: bytes | mmap.mmap) -> bool:
    """Whether a file with this first directory is a camera's raw: DNG, or a preview of an image that lies elsewhere.

    Raises:
        ImageFileError: it is a preview of the next image.
    """
    if _DNG in tags or _numbers(tags, 262, 1)[0] in _SENSOR:
        return True
    preview = bool(_numbers(tags, 254, 0)[0] & 1)
    if preview and _INNER not in tags and has_pages(data):
        raise ImageFileError(
            "begins with a preview of its next image; save that one alone as TIFF, or as PNG"
        )
    return preview


def decode_numbers(data: bytes, tags: Layout) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode floats, signed numbers and numbers of 32 bits or more.

    Returns:
        (H, W, C) uint8 or uint16, C as in `samples.from_pillow`, upright; and notes, see `samples.scaled`.

    Raises:
        ImageFileError: the storage is not supported, or the numbers have no clear range.
    """
    if tags.photometric not in (0, 1, 2):
        raise ImageFileError(
            "holds colours as floats or wide integers in an unusual way; save it as RGB, or as PNG"
        )
    # OpenCV reads planes without an error, to garbage.
    by_opencv = tags.compression not in _READABLE and tags.planar == 1
    samples, notes = scaled(_with_opencv(data) if by_opencv else _with_tifffile(data, tags))
    if samples.shape[2] != tags.samples:
        raise ImageFileError("is damaged: its pixels are not what its tags say; copy or download it again")
    return _without_extra(samples, tags), notes


def decode_deep(data: bytes, tags: Layout) -> np.ndarray:
    """Decode 16-bit gray or RGB. Pillow reduces it to 8 bits or cannot read it.

    Returns:
        (H, W, C) uint16, C as in `samples.from_pillow`, upright.

    Raises:
        ImageFileError: the storage is not supported, or the file is damaged.
    """
    interleaved = tags.planar == 1 and tags.samples in (1, 3, 4)
    array = _with_opencv(data) if interleaved else _with_tifffile(data, tags)
    size = (tags.height, tags.width) if tags.orientation < 5 else (tags.width, tags.height)
    if array.shape != (*size, tags.samples) or array.dtype != np.uint16:
        raise ImageFileError("is damaged: its pixels are not what its tags say; copy or download it again")
    return _without_extra(array, tags)


def _with_opencv(data: bytes) -> np.ndarray:
    # OpenCV turns TIFF upright by itself.
    array = None
    with contextlib.suppress(cv2.error):
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ImageFileError("is damaged, or compressed in a way that cannot be read; save it again as PNG")
    return from_bgr(array)


def _with_tifffile(data: bytes, tags: Layout) -> np.ndarray:
    unusual = ImageFileError(
        f"holds its channels in an unusual order and compression (number {tags.compression}); "
        "save it interleaved, with deflate or without compression, or as PNG"
    )
    if tags.compression not in _READABLE:
        raise unusual
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        try:
            array = file.pages[0].asarray()
        except (ValueError, KeyError) as error:  # a predictor that tifffile does not know alone
            raise unusual from error
    if array.ndim == 2:
        array = array[..., None]
    return upright(np.moveaxis(array, 0, -1) if tags.planar == 2 else array, tags.orientation)


def _without_extra(array: np.ndarray, tags: Layout) -> np.ndarray:
    """Keep gray or RGB, with white as the largest number, and alpha if there is any."""
    colours = 3 if tags.photometric == 2 else 1
    if array.shape[2] < colours:
        raise ImageFileError("is damaged: it has too few channels; copy or download it again")
    if tags.photometric == 0:
        array = np.concatenate([np.iinfo(array.dtype).max - array[..., :1], array[..., 1:]], axis=2)
    # Without a description, a fourth channel is alpha; Pillow reads it in the same way.
    extra = tags.extra[:1] or (2,)
    if array.shape[2] == colours or extra == (0,):
        return array[..., :colours]
    array = array[..., : colours + 1]
    return unassociated(array) if extra == (1,) else array


def _numbers(tags: Tags, tag: int, *default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple | list) else (value,)
