"""TIFF files. Pillow reads 8 bits, OpenCV reads 16 bits with interleaved channels, tifffile reads the rest."""

import contextlib
import io
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import TiffImagePlugin

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.completeness import CUT_OFF, inflated_length
from diffbir_jax.imaging.metadata import SUB_DIRECTORIES, Tags, orientation_of
from diffbir_jax.imaging.samples import from_bgr, unassociated, upright

_DEFLATE = (8, 32946)


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


def first_directory(data: bytes) -> Tags:
    """Return the tags of the first image of a TIFF file, including its EXIF.

    Raises:
        ImageFileError: a big-endian BigTIFF, which Pillow cannot read.
    """
    if data[:4] == b"MM\0+":
        raise ImageFileError("is a BigTIFF of big-endian numbers; save it as plain TIFF, or as PNG")
    head = data[: 16 if data[2] == 43 else 8]  # 43: offsets of 64 bits
    tags = _directory(data, head)
    for tag in {*SUB_DIRECTORIES} & tags.keys():
        offset = tags.pop(tag)
        # The pixels do not depend on these two directories, so damage in them is no error.
        with contextlib.suppress(Exception):
            tags[tag] = _directory(data, head, offset, group=tag)
    return tags


def _directory(data: bytes, head: bytes, offset: int | None = None, group: int | None = None) -> Tags:
    directory = TiffImagePlugin.ImageFileDirectory_v2(head, group=group)
    file = io.BytesIO(data)
    file.seek(directory.next if offset is None else offset)
    directory.load(file)
    return dict(directory)


def layout(tags: Tags) -> Layout:
    """Return the storage of a directory's image.

    Raises:
        ImageFileError: the directory does not state the size.
    """
    if not {256, 257} <= set(tags):
        raise ImageFileError("is damaged: it does not say how large its image is; copy or download it again")
    (width,), (height,), (samples,) = (_numbers(tags, tag, 1) for tag in (256, 257, 277))
    (photometric,), (planar,), (compression,) = (_numbers(tags, tag, 1) for tag in (262, 284, 259))
    bits, formats, extra = _numbers(tags, 258, 1), _numbers(tags, 339, 1), _numbers(tags, 338)
    return Layout(
        width, height, bits, formats, photometric, samples, extra, planar, compression, orientation_of(tags)
    )


def check_complete(tags: Tags, data: bytes) -> None:
    """Raise ImageFileError if the directory's pixels are cut off or detectably damaged.

    Decoders stop when they have enough pixels, even wrong ones, and never read the checksum of a deflated piece.
    """
    (compression,) = _numbers(tags, 259, 1)
    for offsets, counts in ((273, 279), (324, 325)):
        for begin, count in zip(_numbers(tags, offsets), _numbers(tags, counts), strict=False):
            if begin + count > len(data):
                raise ImageFileError(CUT_OFF)
            if compression in _DEFLATE:
                inflated_length(data[begin : begin + count])


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
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ImageFileError("is damaged, or compressed in a way that cannot be read; save it again as PNG")
    return from_bgr(array)


def _with_tifffile(data: bytes, tags: Layout) -> np.ndarray:
    if tags.compression not in (1, *_DEFLATE):
        raise ImageFileError(
            f"holds 16-bit channels in an unusual order and compression (number {tags.compression}); "
            "save it interleaved, with deflate or without compression, or as PNG"
        )
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        array = file.pages[0].asarray()
    if array.ndim == 2:
        array = array[..., None]
    return upright(np.moveaxis(array, 0, -1) if tags.planar == 2 else array, tags.orientation)


def _without_extra(array: np.ndarray, tags: Layout) -> np.ndarray:
    """Keep gray or RGB, with white as 65535, and alpha if there is any."""
    colours = 3 if tags.photometric == 2 else 1
    if array.shape[2] < colours:
        raise ImageFileError("is damaged: it has too few channels; copy or download it again")
    if tags.photometric == 0:
        array = np.concatenate([65535 - array[..., :1], array[..., 1:]], axis=2)
    # Without a description, a fourth channel is alpha; Pillow reads it in the same way.
    extra = tags.extra[:1] or (2,)
    if array.shape[2] == colours or extra == (0,):
        return array[..., :colours]
    array = array[..., : colours + 1]
    return unassociated(array) if extra == (1,) else array


def _numbers(tags: Tags, tag: int, *default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple | list) else (value,)
