"""Decode the bytes of an image file to pixels; incomplete or damaged files are errors."""

import contextlib
import importlib
import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, cast

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging import jxl, tiff
from diffbir_jax.imaging.completeness import DAMAGED, check_complete, check_end, png_without_metadata
from diffbir_jax.imaging.jpeg_files import decode_jpeg
from diffbir_jax.imaging.metadata import ICC, XMP, carried, image_dpi, image_tags, orientation_of
from diffbir_jax.imaging.opencv import SILENT, logged
from diffbir_jax.imaging.photo import MIN_SIDE, Metadata
from diffbir_jax.imaging.samples import from_bgr, from_pillow, upright, widened

# Bytes of a file that tell its format.
HEAD = 64
# AVIF and HEIC share a container, and may call it "mif1"; its other names follow.
_SIGNATURES = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF....WEBP",
    "AVIF": rb"....ftyp(?:avi[fs]|m(?:if|sf)1.{4}(?:.{4}){0,8}avi[fs])",
    "HEIF": rb"....ftyp(?:he[iv][cxms]|m(?:if|sf)1)",
    "JXL": rb"\xff\x0a|\0{3}\x0cJXL \r\n\x87\n",
    "GIF": rb"GIF8[79]a",
    "RAW": rb"FUJIFILMCCD-RAW|FOVb|II(?:U\0|R[OS])|MMOR|II\*\0....CR|....ftypcrx ",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "BMP": rb"BM",
}
FORMATS = "PNG, JPEG, WebP, AVIF, GIF, TIFF or BMP"
_UNREADABLE = "is a damaged {} file, or one of a rare sort; copy it again, or convert it to PNG"
# What other packages than Pillow read, by its name.
_OTHERS = {"HEIF": "HEIC", "JXL": "JPEG XL", "RAW": "camera's raw"}
_APPLES = "is a PNG from inside an app, in Apple's own form; save it as a plain PNG, for instance in Preview"
_MISSING = "is a {} file; pip install 'diffbir-jax[formats]' to read it, or convert it to PNG"


class Decoded(NamedTuple):
    """An upright image.

    Attributes:
        samples: (H, W, C) uint8 or uint16, see `samples.from_pillow`.
        metadata: the file's.
        notes: what a user should know of how it was read, such as "is an animation; its first image is taken".
    """

    samples: np.ndarray
    metadata: Metadata
    notes: tuple[str, ...] = ()


def kind_of(head: bytes) -> str | None:
    """Return Pillow's name of the format (or "RAW") of a file that starts with these bytes, `HEAD` of them."""
    return next((kind for kind, mark in _SIGNATURES.items() if re.match(mark, head, re.DOTALL)), None)


def decode(data: bytes, kind: str, max_pixels: int) -> Decoded:
    """Decode an image file; of several images the first.

    Args:
        data: the file.
        kind: as `kind_of` returns it.
        max_pixels: largest number of pixels; the file's header is checked before decoding.

    Raises:
        ImageFileError: too small or too large, cut off, or not readable; the message has no path.
        Exception: almost anything else, if the file is damaged.
    """
    with undisturbed:
        try:
            if kind == "RAW":
                return _decode_raw(data, max_pixels)
            if kind == "PNG":
                return _decode_png(data, max_pixels)
            return _decode_tiff(data, max_pixels) if kind == "TIFF" else _decode(data, kind, max_pixels)
        except UnidentifiedImageError:
            # Pillow's message would name a BytesIO object, not the file.
            raise ImageFileError(_UNREADABLE.format(_OTHERS.get(kind, kind))) from None
        except (ImageFileError, MemoryError):
            raise
        except Exception:
            # Other packages speak of how they are built, or quote bytes.
            if kind not in _OTHERS:
                raise
            raise ImageFileError(_UNREADABLE.format(_OTHERS[kind])) from None


def _decode_png(data: bytes, max_pixels: int) -> Decoded:
    """Decode a PNG; texts and profiles that Pillow refuses, such as long ones, cost no picture."""
    if data[12:16] == b"CgBI":
        raise ImageFileError(_APPLES)
    try:
        return _decode(data, "PNG", max_pixels)
    except (ImageFileError, MemoryError):
        raise
    except Exception:
        decoded = _decode(png_without_metadata(data), "PNG", max_pixels)
        notes = ("has metadata that are damaged or too long; they are left out",)
        return decoded._replace(notes=(*decoded.notes, *notes))


def _decode(data: bytes, kind: str, max_pixels: int) -> Decoded:
    register(kind)
    turned = False
    if kind == "JXL":
        # Its plug-in decodes as soon as it opens a file.
        header = jxl.read_header(io.BytesIO(data))
        check_most(header[:2], max_pixels)
        turned = header.orientation != 1
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        _check_size(image.size, max_pixels)
        # Before decoding, because Pillow pads cut-off files without an error.
        check_complete(data, kind)
        check_end(data, kind, image.info.get("exif") or b"")
        # The further images in a phone's JPEG are the same in small, or its depth.
        animated = kind != "JPEG" and getattr(image, "is_animated", False)
        notes = ("is an animation; its first image is taken",) if animated else ()
        samples, icc, warned = _samples(data, kind, image)
        tags = image_tags(image)
        metadata = carried(tags, image.info.get("xmp"), icc, image_dpi(image))
        # The plug-in turns images of JPEG XL, but not a JPEG that is stored in one.
        orientation = 1 if turned and not getattr(image, "jpeg", False) else orientation_of(tags)
    return Decoded(upright(samples, orientation), metadata, (*notes, *warned))


def _samples(data: bytes, kind: str, image: Image.Image) -> tuple[np.ndarray, bytes | None, tuple[str, ...]]:
    """Return the samples of an image that Pillow has opened, its colour profile, and notes."""
    icc = image.info.get("icc_profile")
    # Bit depth and colour type of the header. Pillow keeps 16 bits only for plain gray (type 0).
    if kind == "PNG" and data[24] == 16 and data[25] != 0:
        return _deep_png(data), icc, ()
    if kind == "JPEG":
        samples, warned = decode_jpeg(data, image.mode)
        if samples is not None:
            return samples, icc, warned
    image.load()
    if kind == "PNG" and image.mode == "P":
        _check_palette(image)
    if kind == "BMP" and is_blank(image):
        image = image.convert("RGB")
    return *from_pillow(image, icc), ()


def is_blank(image: Image.Image) -> bool:
    """Whether every pixel is transparent, as in a BMP whose program left the fourth byte zero."""
    return image.mode == "RGBA" and image.getchannel("A").getextrema()[1] == 0


def _check_palette(image: Image.Image) -> None:
    """Raise ImageFileError if pixels name colours beyond the palette, which Pillow shows as black."""
    _, highest = cast(tuple[int, int], image.getextrema())
    if 3 * highest >= len(image.getpalette() or ()):
        raise ImageFileError("is damaged: its palette lacks colours of its pixels; copy or download it again")


def register(kind: str) -> None:
    """Make a format known to Pillow; ImageFileError if its package is missing."""
    try:
        if kind == "HEIF":
            importlib.import_module("pillow_heif").register_heif_opener()
        if kind == "JXL":
            importlib.import_module("pillow_jxl")
    except ImportError:
        raise ImageFileError(_MISSING.format(_OTHERS[kind])) from None


@contextlib.contextmanager
def opened_raw(file: BinaryIO) -> Iterator[Any]:
    """Yield rawpy's object for a camera's raw file, without its pixels; ImageFileError if the package is missing."""
    try:
        rawpy = importlib.import_module("rawpy")
    except ImportError:
        raise ImageFileError(_MISSING.format(_OTHERS["RAW"])) from None
    with rawpy.RawPy() as raw:
        raw.open_buffer(file)
        yield raw


def _decode_raw(data: bytes, max_pixels: int) -> Decoded:
    """Develop a camera's raw file with its white balance, to 16 bits of sRGB; its metadata stay behind."""
    with opened_raw(io.BytesIO(data)) as raw:
        _check_size((raw.sizes.width, raw.sizes.height), max_pixels)
        raw.unpack()
        samples = raw.postprocess(use_camera_wb=True, output_bps=16)
    return Decoded(samples, Metadata(), ("is a camera's raw file, developed with its white balance",))


def _decode_tiff(data: bytes, max_pixels: int) -> Decoded:
    tags = tiff.first_directory(data)
    if tiff.is_raw(tags, data):
        return decode(data, "RAW", max_pixels)
    layout = tiff.layout(tags)
    _check_size((layout.width, layout.height), max_pixels)
    tiff.check_complete(tags, data)
    icc, notes = tags.get(ICC), ()
    if layout.deep:
        samples = tiff.decode_deep(data, layout)
    elif layout.unusual:
        samples, notes = tiff.decode_numbers(data, layout)
    else:
        # Pillow turns TIFF upright by itself, but no other format.
        with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
            image.load()
            samples, icc = from_pillow(image, icc)
        if samples.dtype == np.uint16 and 8 < max(layout.bits) < 16:
            samples = widened(samples, max(layout.bits))
    pages = ("has several pages; its first image is taken",) if tiff.has_pages(data) else ()
    return Decoded(samples, carried(tags, tags.get(XMP), icc), (*pages, *notes))


def _deep_png(data: bytes) -> np.ndarray:
    """Decode 16-bit RGB, RGB and alpha, or gray and alpha; Pillow would reduce them to 8 bits."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise ImageFileError(DAMAGED)
    rgba = from_bgr(array)
    return rgba[..., ::3] if data[25] == 4 else rgba


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    check_most(size, max_pixels)
    width, height = size
    if min(width, height) < MIN_SIDE:
        raise ImageFileError(
            f"is {width}x{height} pixels; enlarge it until both sides are at least {MIN_SIDE}"
        )


def check_most(size: tuple[int, int], max_pixels: int) -> None:
    """Raise ImageFileError if an image of this width and height has too many pixels."""
    width, height = size
    if width * height > max_pixels:
        raise ImageFileError(
            f"is {width}x{height} = {width * height} pixels, more than the limit of {max_pixels}; "
            "crop or shrink it, or raise `max_pixels` if you trust it"
        )


class _Undisturbed:
    """A context with only our own size limit, in which no library prints messages (they become one error of ours).

    Pillow's limit, its warnings and the log levels of OpenCV and tifffile are settings of the process. Threads share
    the context, so that all can decode at once: the first one changes the settings, the last one restores them.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._settings = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._settings.enter_context(_silenced())
            self._inside += 1

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._settings.close()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Change the settings of the process for `_Undisturbed`."""
    tifffile = logging.getLogger("tifffile")
    with warnings.catch_warnings(), logged(SILENT):
        warnings.simplefilter("ignore")
        # Our own limit (`max_pixels`) is checked from the header; Pillow's would override --max-pixels.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        tifffile.disabled, disabled = True, tifffile.disabled
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
            tifffile.disabled = disabled


undisturbed = _Undisturbed()
