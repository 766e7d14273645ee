"""Convert all kinds of pixels in files to gray or RGB, with or without alpha, in 8 or 16 bits."""

import cv2
import numpy as np
from PIL import Image, ImageCms

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.metadata import colour_space, profile_from, srgb_profile

# How to turn an array upright, by EXIF's orientation.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W, C) upright by EXIF's orientation, 1 to 8."""
    turn = _UPRIGHT.get(orientation)
    return np.ascontiguousarray(turn(samples)) if turn else samples


def from_pillow(image: Image.Image, icc: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """Return the samples of a loaded image, and their colour profile.

    Args:
        image: an image of any of Pillow's modes.
        icc: its profile, or None.

    Returns:
        (H, W, C) uint8 or uint16, C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha; and `icc`, or sRGB's profile
        if colours had to be converted.

    Raises:
        ImageFileError: numbers without a clear range, or a profile for other colours than the file's.
    """
    if image.mode in ("CMYK", "LAB"):
        return _from_print(image, icc)
    if image.mode[0] in "IF":
        return _from_numbers(image), icc
    modes = ("L", "LA") if _is_grey(image) else ("RGB", "RGBA")
    samples = np.asarray(image.convert(modes[image.has_transparency_data]))
    return (samples if samples.ndim == 3 else samples[..., None]), icc


def from_bgr(array: np.ndarray) -> np.ndarray:
    """Return OpenCV's (H, W), BGR or BGRA as (H, W, C) in our order of channels."""
    if array.ndim == 2:
        return array[..., None]
    if array.dtype not in (np.uint8, np.uint16, np.float32):
        return array[..., [2, 1, 0, 3][: array.shape[2]]]
    # Unlike NumPy's choice of channels, this lets other threads run.
    return cv2.cvtColor(array, cv2.COLOR_BGR2RGB if array.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def widened(samples: np.ndarray, bits: int) -> np.ndarray:
    """Return uint16 numbers of fewer bits, such as 12, with white as 65535."""
    most = (1 << bits) - 1
    return np.rint(np.minimum(samples, most) * np.float32(65535 / most)).astype(np.uint16)


def unassociated(samples: np.ndarray) -> np.ndarray:
    """Undo the multiplication of colours by alpha, the last channel of (H, W, C) uint8 or uint16."""
    # At least 1: fully transparent pixels have no colour to recover.
    alpha = np.maximum(samples[..., -1:], 1).astype(np.float32)
    white = np.float32(np.iinfo(samples.dtype).max)
    colours = np.minimum(np.rint(samples[..., :-1] * (white / alpha)), white)
    return np.concatenate([colours.astype(samples.dtype), samples[..., -1:]], axis=2)


def without_hidden(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Give every fully transparent pixel the colour of the nearest visible one.

    The colours of transparent pixels are often garbage; networks and filters would smear them into visible pixels.

    Args:
        pixels: (H, W, C) uint8 or uint16, C = 1 or 3.
        alpha: (H, W), 0 where transparent.

    Returns:
        (H, W, C); unchanged if no pixel or every pixel is transparent.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return pixels
    mask = hidden.view(np.uint8)
    # Each visible pixel has its own label. Each transparent pixel gets the label of the nearest visible one.
    _, labels = cv2.distanceTransformWithLabels(mask, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    # The nearest visible pixel always touches a transparent one. The others need no entry in the table.
    edge = cv2.dilate(mask, np.ones((3, 3), np.uint8)) != mask
    numbers = _packed(pixels)
    nearest = np.zeros(labels.max() + 1, numbers.dtype)
    nearest[labels[edge]] = numbers[edge]
    numbers[hidden] = nearest[labels[hidden]]
    return _unpacked(numbers, pixels)


def _packed(pixels: np.ndarray) -> np.ndarray:
    """Copy (H, W, 1 or 3) to (H, W), one number per pixel: NumPy moves numbers several times faster than triples."""
    if pixels.shape[2] == 1:
        return pixels[..., 0].copy()
    wide = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)
    return wide.view(np.dtype(f"u{4 * wide.itemsize}"))[..., 0]


def _unpacked(numbers: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Undo `_packed` for pixels `like` these."""
    if like.shape[2] == 1:
        return numbers[..., None]
    return cv2.cvtColor(numbers[..., None].view(like.dtype), cv2.COLOR_RGBA2RGB)


def apart(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Return the colours of samples as RGB, their alpha, and whether they hold no colour.

    Args:
        samples: (H, W, C): C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.

    Returns:
        (H, W, 3); (H, W), or None without alpha; whether the three channels are one.
    """
    colours, alpha = samples, None
    if samples.shape[2] in (2, 4):
        colours, alpha = samples[..., :-1], np.ascontiguousarray(samples[..., -1])
        colours = without_hidden(colours, alpha)
    grey = colours.shape[2] == 1
    return (_threefold(colours) if grey else np.ascontiguousarray(colours)), alpha, grey


def _threefold(grey: np.ndarray) -> np.ndarray:
    """Return (H, W, 1) as (H, W, 3). NumPy's repetition would stop all other threads for seconds."""
    return cv2.cvtColor(np.ascontiguousarray(grey), cv2.COLOR_GRAY2RGB)


def scaled(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert numbers of any kind to samples.

    Args:
        values: (H, W, C), floats or integers.

    Returns:
        (H, W, C) uint8 or uint16: floats in 0 to 1 and integers up to 255 or 65535 are taken for what they are, larger
        ones are divided by the largest; and a note if that happened.

    Raises:
        ImageFileError: negative or complex numbers, or numbers that are not finite.
    """
    if values.dtype.kind not in "biuf":
        raise ImageFileError(f"holds numbers of the kind {values.dtype}; give integers or floats from 0")
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all() or low < 0:
        raise ImageFileError(f"holds numbers from {low:g} to {high:g}; give numbers from 0")
    floats = values.dtype.kind == "f"
    if not floats and high <= 65535:
        return values.astype(np.uint8 if high <= 255 else np.uint16), ()
    white = 1.0 if high <= 1 else high
    samples = np.rint(values * (np.float64(65535) / white)).astype(np.uint16)
    return samples, () if white == 1 else (f"holds numbers up to {high:g}, which is taken for white",)


def _is_grey(image: Image.Image) -> bool:
    """Whether the file has no colour, by its kind of pixels or, with a palette, by the colours in use."""
    if image.mode in ("P", "PA"):
        # The palette may have colours that no pixel uses, so the pixels are checked.
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
        return bool((colours == colours[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La")


def _from_print(image: Image.Image, icc: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """Convert CMYK (by its profile, if it has one) or LAB (needs none) to sRGB."""
    if image.mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    elif icc is None:
        return np.asarray(image.convert("RGB")), None
    elif colour_space(icc) == "CMYK":
        source = profile_from(icc)
    else:
        raise ImageFileError(
            f"holds CMYK colours with a profile for {colour_space(icc)}; convert it to RGB, or remove the profile"
        )
    srgb = srgb_profile()
    rgb = ImageCms.profileToProfile(image, source, profile_from(srgb), outputMode="RGB")
    return np.asarray(rgb), srgb


def _from_numbers(image: Image.Image) -> np.ndarray:
    """Convert gray integers or floats to samples."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        samples = values.astype(np.uint16)
    else:
        samples = _scaled(values)
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return samples[..., None]
    return np.dstack([samples, np.where(samples == key, 0, 65535).astype(np.uint16)])


def _scaled(values: np.ndarray) -> np.ndarray:
    """Convert (H, W) int32 or float32 to uint8 or uint16, if the range shows what black and white are."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(values * np.float64(65535)).astype(np.uint16)
    if values.dtype.kind != "f" and low >= 0 and high <= 65535:
        return values.astype(np.uint8 if high <= 255 else np.uint16)
    raise ImageFileError(
        f"holds numbers from {low:g} to {high:g}; scale floats to 0 to 1 or integers to 0 to 65535, "
        "or convert it to an 8-bit or 16-bit image"
    )
