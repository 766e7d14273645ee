"""Results that are the input's file, byte for byte: where a copy has everything that was asked for."""

from collections.abc import Collection
from pathlib import Path

from diffbir_jax.batch.settings import BitDepth, Recipe
from diffbir_jax.files.writing import replace_file
from diffbir_jax.imaging.decoding import kind_of
from diffbir_jax.imaging.photo import Photo

# Formats of files by the suffixes of results.
KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
# Formats for which a quality can be asked.
LOSSY = ("JPEG", "WEBP")
# PNG's header: bits of a sample, and the type of colours, of which 3 is a palette.
_BITS, _COLOURS, _PALETTE = 24, 25, 3


def can_copy(photo: Photo, head: bytes, suffix: str, recipe: Recipe, given: Collection[str]) -> bool:
    """Whether the file of a photo that is left alone has all that a result should have.

    It has not if the result has another format, other bits, or a quality that the user set; nor if reading told of
    something, such as further pages or damaged metadata, because a result is then one sound image.

    Args:
        photo: as `read_photo` returns it.
        head: the first bytes of its file, `decoding.HEAD` of them: the content decides the format, not the name.
        suffix: of the result.
        recipe: what the user asks for.
        given: names of what the user set.
    """
    kind = kind_of(head)
    if kind is None or kind != KINDS.get(suffix.lower()) or photo.notes:
        return False
    if kind in LOSSY and "quality" in given:
        return False
    return recipe.bit_depth == "same" or recipe.bit_depth == _bits(kind, head)


def _bits(kind: str, head: bytes) -> BitDepth | None:
    """Bits per channel of a file, 8 or 16, where its head tells them."""
    if kind in LOSSY:
        return "8"
    if kind != "PNG" or head[_COLOURS] == _PALETTE:
        return None
    return {8: "8", 16: "16"}.get(head[_BITS])  # pyright: ignore[reportReturnType]


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; readers of `target` see the old file or the whole new one.

    Raises:
        OSError: the file cannot be read.
        ImageFileError: the copy cannot be written.
    """
    replace_file(target, source.read_bytes())
