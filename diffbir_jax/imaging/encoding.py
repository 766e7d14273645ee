"""Encode pixels and metadata as an image file.

Pillow writes 8 bits. Of 16-bit images it writes only gray, so this module builds 16-bit PNG files and all TIFF files.
"""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
from PIL import Image, TiffImagePlugin

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.metadata import (
    ICC,
    XMP,
    Tags,
    exif_with_resolution,
    parse_exif,
    with_resolution,
    written_dpi,
)
from diffbir_jax.imaging.photo import Metadata

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# PNG's colour types by the number of channels.
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
# Largest content of a JPEG segment. The names of XMP (29 bytes) and EXIF (6 bytes) are part of it.
_JPEG_SEGMENT = 65533
_STRIP = 1 << 20


def encode_png(samples: np.ndarray, metadata: Metadata) -> bytes:
    """Return a PNG file of (H, W, C) uint8 or uint16; C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha."""
    if samples.dtype == np.uint8:
        plain = _pillow(samples, "PNG")
    else:
        plain = _png16(samples)
    # The header is always a chunk of 13 bytes (25 with its frame). Profiles must come before the pixels.
    end = len(_SIGNATURE) + 25
    return plain[:end] + _png_metadata(metadata) + plain[end:]


def encode_jpeg(samples: np.ndarray, metadata: Metadata, quality: int) -> bytes:
    """Return a JPEG file with full colour resolution (4:4:4) of (H, W, 1 or 3) uint8.

    Raises:
        ImageFileError: metadata too large for the format; the message has no path.
    """
    for name, block, head in (("EXIF", metadata.exif, 6), ("XMP", metadata.xmp, 29)):
        if block and len(block) + head > _JPEG_SEGMENT:
            raise ImageFileError(
                f"{name} of {len(block)} bytes does not fit into JPEG; write PNG, WebP or TIFF"
            )
    dpi = written_dpi(metadata)
    more = _pillow_metadata(metadata) | ({"dpi": dpi} if dpi else {})
    return _pillow(samples, "JPEG", quality=quality, subsampling=0, **more)


def encode_webp(samples: np.ndarray, metadata: Metadata, quality: int) -> bytes:
    """Return a lossy WebP file of (H, W, 3 or 4) uint8; colours under transparency are kept."""
    metadata = replace(metadata, exif=exif_with_resolution(metadata))
    return _pillow(samples, "WEBP", quality=quality, exact=True, **_pillow_metadata(metadata))


def encode_tiff(samples: np.ndarray, metadata: Metadata) -> bytes:
    """Return a TIFF file, deflated, of (H, W, C) uint8 or uint16; C as in `encode_png`.

    Raises:
        ImageFileError: it would exceed 4 GB; the message has no path.
    """
    height, width, channels = samples.shape
    rows = max(1, _STRIP // (width * channels * samples.itemsize))
    strips = [zlib.compress(_differences(samples[top : top + rows])) for top in range(0, height, rows)]
    lengths = [len(strip) for strip in strips]
    if sum(lengths) > 2**32 - 2**24:
        raise ImageFileError("a TIFF file cannot exceed 4 GB; write PNG, or a smaller image")
    ifd = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in _tiff_tags(samples, rows, lengths, metadata).items():
        ifd[tag] = value
    file = io.BytesIO()
    ifd.save(file)
    return file.getvalue() + b"".join(strips)


def _pillow(samples: np.ndarray, kind: str, **options: object) -> bytes:
    """Return Pillow's file of (H, W, C) uint8."""
    file = io.BytesIO()
    Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples).save(file, format=kind, **options)
    return file.getvalue()


def _pillow_metadata(metadata: Metadata) -> dict[str, bytes]:
    exif = b"Exif\0\0" + metadata.exif if metadata.exif else None
    blocks = {"exif": exif, "xmp": metadata.xmp, "icc_profile": metadata.icc}
    return {name: block for name, block in blocks.items() if block}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_metadata(metadata: Metadata) -> bytes:
    chunks = b""
    if metadata.icc:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc))
    if metadata.exif:
        chunks += _chunk(b"eXIf", metadata.exif)
    if dpi := written_dpi(metadata):
        # Pixels per metre.
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1))
    if metadata.xmp:
        # Keyword, uncompressed, no language, no translated keyword.
        chunks += _chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + metadata.xmp)
    return chunks


def _png16(samples: np.ndarray) -> bytes:
    """Return a PNG file of (H, W, C) uint16; rows are stored as differences to the row above (filter 2)."""
    height, width, channels = samples.shape
    packer, parts = zlib.compressobj(), []
    above = np.zeros((1, width * channels * 2), np.uint8)
    rows = max(1, _STRIP // above.size)
    for top in range(0, height, rows):
        block = samples[top : top + rows].astype(">u2").reshape(-1, width * channels).view(np.uint8)
        filtered = block - np.concatenate([above, block[:-1]])
        parts.append(packer.compress(np.insert(filtered, 0, 2, axis=1).tobytes()))
        above = block[-1:]
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    # One chunk per part: a chunk must be below 2 GB, and readers need memory for a whole chunk.
    pixels = b"".join(_chunk(b"IDAT", part) for part in [*parts, packer.flush()] if part)
    return _SIGNATURE + _chunk(b"IHDR", header) + pixels + _chunk(b"IEND", b"")


def _differences(block: np.ndarray) -> bytes:
    """Subtract its left neighbour from each sample of (h, W, C), modulo the type's range: TIFF's predictor 2."""
    result = block.copy()
    result[:, 1:] -= block[:, :-1]
    return result.astype(block.dtype.newbyteorder("<")).tobytes()


def _tiff_tags(samples: np.ndarray, rows: int, lengths: list[int], metadata: Metadata) -> Tags:
    """Return the tags of an image with strips of `rows` rows and these lengths (bytes)."""
    height, width, channels = samples.shape
    tags = with_resolution(parse_exif(metadata.exif) if metadata.exif else {}, metadata.dpi)
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    tags |= {256: width, 257: height, 258: (8 * samples.itemsize,) * channels, 259: 8}  # deflate
    tags |= {262: 2 if channels > 2 else 1, 273: tuple(starts), 277: channels, 278: rows, 279: tuple(lengths)}
    tags |= {284: 1, 317: 2}
    if channels in (2, 4):
        tags[338] = 2  # unassociated alpha: colours are not multiplied by it
    tags |= {tag: block for tag, block in ((XMP, metadata.xmp), (ICC, metadata.icc)) if block}
    return tags
