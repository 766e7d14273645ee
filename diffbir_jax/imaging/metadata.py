"""EXIF, XMP and ICC profiles: keep the parts that still hold after an image was turned upright and resized."""

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from PIL import ExifTags, Image, ImageCms

from diffbir_jax.imaging.directories import check_directories
from diffbir_jax.imaging.photo import Metadata

ORIENTATION = 0x0112
DESCRIPTION = 270
XMP, ICC = 700, 34675
SUB_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# TIFF tags that describe the storage of pixels, or that have their own field in Metadata. Photoshop's and IPTC's blocks
# are in the list because they hold thumbnails.
_STRUCTURE = frozenset(
    [*range(254, 269), 273, *range(277, 282), 284, *range(288, 294), 297, 301, 317, *range(320, 326), 330]
    + [*range(332, 335), *range(336, 344), 347, *range(512, 522), *range(529, 533), XMP, 33723, 34377, ICC]
    + [50838, 50839]
)
# PixelXDimension, PixelYDimension, and the interoperability directory (its offset changes).
_STALE = frozenset([0xA002, 0xA003, ExifTags.IFD.Interop])
# Every repetition has a bound, so that the time is linear in the packet's length.
_XMP_SIZES = rb"(?:tiff:Image(?:Width|Length)|exif:Pixel[XY]Dimension)"
_XMP_STALE = re.compile(
    rb'\s%s\s{0,9}=\s{0,9}(?:"[^"<]{0,99}"|\'[^\'<]{0,99}\')|<(%s)>[^<]{0,99}</\1>' % (_XMP_SIZES, _XMP_SIZES)
)
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s{0,9}=\s{0,9}["']|>))\d""")
_XMP_THUMBNAILS = (b"<xmp:Thumbnails", b"</xmp:Thumbnails>")


Tags = dict[int, Any]  # EXIF's or TIFF's, directories within being dicts
Resolution = tuple[float, float]
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
# Pixels per unit to pixels per inch, by EXIF's unit: inch and centimetre.
_PER_INCH = {2: 1.0, 3: 2.54}
_MAKER_NOTE = 0x927C
# JPEG holds no more.
_MOST_DPI = 65535


def carried(tags: Tags, xmp: object, icc: object, dpi: Resolution | None = None) -> Metadata:
    """Return what a result may carry of its input's metadata.

    The orientation becomes 1 ("upright"). Sizes in pixels and thumbnails are left out. EXIF that is too damaged to be
    written again is left out as well, because the pixels are worth more than the metadata.

    Args:
        tags: EXIF of an image, or the first directory of a TIFF file.
        xmp: the packet; anything but bytes counts as none.
        icc: the profile, likewise.
        dpi: pixels per inch, as `image_dpi` returns them.
    """
    packet = xmp if isinstance(xmp, bytes) and xmp else None
    # The header of an ICC profile has 128 bytes; anything shorter is damaged.
    profile = icc if isinstance(icc, bytes) and len(icc) >= 128 else None
    return Metadata(_carried_exif(tags), packet and _carried_xmp(packet), profile, dpi)


def orientation_of(tags: Tags) -> int:
    """Return EXIF's orientation in [1, 8]; 1 if it is missing or invalid."""
    value = tags.get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def image_tags(image: Image.Image) -> Tags:
    """Return the EXIF tags of an image, without those of its thumbnail; {} if they are too damaged to be read."""
    try:
        if exif := image.info.get("exif"):
            check_directories(exif.removeprefix(b"Exif\0\0"))
        return _tags(image.getexif())
    except Exception:  # Pillow parses late, and damage causes many types of errors.
        return {}


def image_dpi(image: Image.Image) -> Resolution | None:
    """Return the pixels per inch of a file that says them beside EXIF: PNG, BMP, and JPEG by its JFIF header."""
    said = image.format != "JPEG" or image.info.get("jfif_unit") in (1, 2)
    return _sound(image.info.get("dpi")) if said else None


def written_dpi(metadata: Metadata) -> Resolution | None:
    """Return the pixels per inch that a result's file says: those of the input's file, else those of its EXIF."""
    if metadata.dpi is not None or metadata.exif is None:
        return metadata.dpi
    tags = parse_exif(metadata.exif)
    scale = _PER_INCH.get(tags.get(RESOLUTION_UNIT, 0))
    x, y = tags.get(X_RESOLUTION), tags.get(Y_RESOLUTION)
    return None if scale is None or not x or not y else _sound((float(x) * scale, float(y) * scale))


def reduced(metadata: Metadata) -> Iterator[tuple[str, Metadata]]:
    """Yield what is left out and the rest, from nothing to everything but the resolution."""
    dpi = None
    with contextlib.suppress(Exception):  # as in `image_tags`
        dpi = written_dpi(metadata)
    # Many cameras' notes are too long for JPEG and of use to their makers only.
    note = replace(metadata, exif=_without_note(metadata.exif), dpi=dpi)
    plain = replace(metadata, exif=None, dpi=dpi)
    yield "", metadata
    if metadata.xmp:
        yield "XMP", replace(metadata, xmp=None)
    if metadata.exif:
        yield "the maker's note", note
        yield "the maker's note and XMP", replace(note, xmp=None)
        yield "EXIF", plain
    yield "EXIF and XMP", replace(plain, xmp=None)
    yield "EXIF, XMP and profile", Metadata(dpi=dpi)
    yield "metadata", Metadata()


def _without_note(exif: bytes | None) -> bytes | None:
    """Return EXIF without its maker's note; None if it cannot be taken apart."""
    with contextlib.suppress(Exception):  # as in `image_tags`
        tags = parse_exif(exif or b"")
        tags.get(ExifTags.IFD.Exif, {}).pop(_MAKER_NOTE, None)
        return _exif_bytes(tags)
    return None


def with_resolution(tags: Tags, dpi: Resolution | None) -> Tags:
    """Return tags that also say the resolution, for formats that have no other place for it."""
    if dpi is None or X_RESOLUTION in tags:
        return tags
    return tags | {X_RESOLUTION: dpi[0], Y_RESOLUTION: dpi[1], RESOLUTION_UNIT: 2}


def exif_with_resolution(metadata: Metadata) -> bytes | None:
    """Return the EXIF of `metadata` with its resolution."""
    if metadata.dpi is None:
        return metadata.exif
    return _exif_bytes(with_resolution(parse_exif(metadata.exif) if metadata.exif else {}, metadata.dpi))


def _sound(dpi: object) -> Resolution | None:
    """Return a resolution that a file can hold, or None."""
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None
    x, y = (float(value) for value in dpi)
    return (x, y) if 0.5 <= x <= _MOST_DPI and 0.5 <= y <= _MOST_DPI else None


def colour_space(icc: bytes | None) -> str:
    """Return the colour space that a profile describes: "RGB", "GRAY", "CMYK", ..., or "" without a profile."""
    return (icc or b"")[16:20].decode("latin-1").strip()


def srgb_profile() -> bytes:
    """Return an ICC profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def parse_exif(exif: bytes) -> Tags:
    """Return EXIF's tags.

    Args:
        exif: as in `Metadata`.
    """
    parsed = Image.Exif()
    parsed.load(b"Exif\0\0" + exif)
    return _tags(parsed)


def _carried_exif(tags: Tags) -> bytes | None:
    kept = {tag: value for tag, value in tags.items() if tag not in _STRUCTURE}
    if _describes_sizes(kept.get(DESCRIPTION, "")):
        del kept[DESCRIPTION]
    if ORIENTATION in kept:
        kept[ORIENTATION] = 1
    try:
        return _exif_bytes(kept) if kept else None
    except Exception:  # as above: struct.error, KeyError, TypeError, SyntaxError, ...
        return None


def _describes_sizes(text: object) -> bool:
    """Whether a description is one by which tifffile, ImageJ or OME state the sizes of the file's arrays."""
    words = text.decode("latin-1") if isinstance(text, bytes) else str(text)
    shaped = words.startswith("{") and '"shape":' in words
    return shaped or words.startswith(("shape=(", "ImageJ=")) or words[-10:].rstrip("\0 \n").endswith("OME>")


def _tags(exif: Image.Exif) -> Tags:
    tags = {tag: value for tag, value in exif.items() if tag not in SUB_DIRECTORIES}
    inner = {tag: dict(exif.get_ifd(tag)) for tag in SUB_DIRECTORIES}
    return tags | {tag: directory for tag, directory in inner.items() if directory}


def _exif_bytes(tags: Tags) -> bytes:
    exif = Image.Exif()
    for tag, value in tags.items():
        if tag in SUB_DIRECTORIES:
            exif.get_ifd(tag).update({key: item for key, item in value.items() if key not in _STALE})
        else:
            exif[tag] = value
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _carried_xmp(xmp: bytes) -> bytes:
    return _XMP_ORIENTATION.sub(rb"\g<1>1", _XMP_STALE.sub(b"", _without_thumbnails(xmp)))


def _without_thumbnails(xmp: bytes) -> bytes:
    """Return a packet without the pictures in it."""
    (opening, closing), parts, at = _XMP_THUMBNAILS, [], 0
    while (begin := xmp.find(opening, at)) >= 0 and (end := xmp.find(closing, begin)) >= 0:
        parts.append(xmp[at:begin])
        at = end + len(closing)
    return b"".join([*parts, xmp[at:]])


def profile_from(icc: bytes) -> ImageCms.ImageCmsProfile:
    """Return a profile for Pillow's colour transforms.

    Raises:
        OSError: it is no profile.
    """
    return ImageCms.ImageCmsProfile(io.BytesIO(icc))
