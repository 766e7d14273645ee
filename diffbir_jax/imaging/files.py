"""Reading and writing image files."""

import contextlib
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MIN_SIDE = 16


class ImageFileError(Exception):
    """An image file that cannot be read or written; the message names it, says why and what to do."""


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read a PNG, JPEG or WebP file.

    The EXIF orientation is applied. Gray, palette and CMYK images become RGB, 16-bit gray is scaled to
    8 bits, transparency is laid over white, an animation gives its first frame.

    Args:
        path: the file.

    Returns:
        (H, W, 3) uint8 RGB, both sides at least 16.

    Raises:
        ImageFileError: the file is missing, a folder, empty, no image of these formats, damaged, or too
        small.
    """
    path = Path(path)
    if not path.exists():
        raise ImageFileError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise ImageFileError(f"{path}: is a folder; give a file, or list it with list_images")
    try:
        if path.stat().st_size == 0:
            raise ImageFileError(f"{path}: is empty (0 bytes); copy or download it again")
        with Image.open(path, formats=FORMATS) as image:
            rgb = np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError:
        raise ImageFileError(
            f"{path}: is not a PNG, JPEG or WebP image; convert it to one of these"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"{path}: is too large ({error}); crop or shrink it") from None
    except PermissionError:
        raise ImageFileError(f"{path}: may not be read; change its permissions") from None
    # Pillow reports damage in many ways, depending on the format.
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageFileError(f"{path}: is damaged or cut off ({error}); copy or download it again") from None
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        size = f"{width}x{height} pixels"
        raise ImageFileError(f"{path}: is {size}; enlarge it until both sides are at least {MIN_SIDE}")
    return rgb


def list_images(folder: str | os.PathLike) -> list[Path]:
    """The PNG, JPEG and WebP files of a folder, sorted by name.

    Files are chosen by suffix; hidden files and files of subfolders are left out.

    Raises:
        ImageFileError: the folder is missing, is a file, or holds no image file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "no such folder; check the path"
        raise ImageFileError(f"{folder}: {problem}")
    paths = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES and p.name[0] != "."]
    paths = [p for p in paths if p.is_file()]
    if not paths:
        raise ImageFileError(
            f"{folder}: holds no image file; put files ending in {', '.join(SUFFIXES)} there"
        )
    return paths


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write a PNG file; whoever looks at `path` finds the old file, or the new one, never half of it.

    Args:
        path: the file; its folder is made if missing.
        image: (H, W, 3) or (H, W) uint8.

    Raises:
        TypeError: the image is not uint8.
        ImageFileError: the file cannot be written.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"image has dtype {image.dtype}; write_png takes uint8, 0 to 255")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(temporary, format="PNG")
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise ImageFileError(f"{path}: cannot be written ({reason}); choose another output folder") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")
