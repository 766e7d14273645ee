"""Image operations: colour correction, resizing, tiling, and measures of similarity."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.imaging.colour import low_frequencies, wavelet_colour
from diffbir_jax.imaging.resize import resize
from diffbir_jax.imaging.tiling import gaussian_weights
from diffbir_jax.metrics.fidelity import psnr, rgb_to_ycbcr
from diffbir_jax.parity.case import IMAGE, Arrays, Case, Values, matching, nchw, nhwc
from diffbir_jax.parity.tiles import tile_windows, tiled

# Functions whose result depends on the whole tile, so that a wrong window shows.
TILE_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tiled": lambda tile: jnp.tanh(tile) * jnp.mean(tile),
    "tiled_up4": lambda tile: jnp.repeat(jnp.repeat(tile, 4, axis=1), 4, axis=2) + jnp.mean(tile),
}


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of image_ops.npz."""
    pair = ["content", "style"]
    yield Case(file, "wavelet", ["low", "high", "reconstruction"], pair, IMAGE, wavelet)
    for method in ("bicubic_antialias", *(f"interpolate_{name}" for name in ("area", "bilinear", "bicubic"))):
        outputs = matching(keys, f"{method}|*")

        def resized(golden: Arrays, outputs=outputs) -> Values:
            return {key: resized_as(key, golden["content"]) for key in outputs}

        yield Case(file, method, outputs, ["content"], IMAGE, resized)
    yield Case(file, "likeness", ["psnr", "psnr_y_crop4", "ycbcr"], pair, IMAGE, likeness)
    # A golden file may hold only some of these, so the keys decide.
    outputs = matching(keys, "windows|*", "gaussian_weights|*", "tiled|*", "tiled_up4|*")

    def in_tiles(golden: Arrays) -> Values:
        return {key: tiling(key, golden["content"]) for key in outputs}

    yield Case(file, "tiling", outputs, ["content"], IMAGE, in_tiles)


def wavelet(golden: Arrays) -> Values:
    """Decompose the content, and give it the colours of the style."""
    content, style = nhwc(golden["content"]), nhwc(golden["style"])
    low = low_frequencies(content)
    values = {"low": low, "high": content - low, "reconstruction": wavelet_colour(content, style)}
    return {key: nchw(value) for key, value in values.items()}


def resized_as(key: str, content: np.ndarray) -> np.ndarray:
    """Resize `content` (B, C, H, W) by the method and to the size of a key METHOD|HEIGHTxWIDTH."""
    method, size = key.removeprefix("interpolate_").split("|")
    height, width = map(int, size.split("x"))
    return nchw(resize(nhwc(content), (height, width), method))  # pyright: ignore[reportArgumentType]


def likeness(golden: Arrays) -> Values:
    """Return the PSNR of two images, that of their luma without a 4-pixel border, and Y, Cb, Cr of the first."""
    content, style = (np.moveaxis(golden[key][0], 0, -1) for key in ("content", "style"))
    luma = psnr(content, style, y_only=True, crop=4)
    return {
        "psnr": np.array([psnr(content, style)]),
        "psnr_y_crop4": np.array([luma]),
        "ycbcr": nchw(rgb_to_ycbcr(content))[None],
    }


def tiling(key: str, content: np.ndarray) -> np.ndarray:
    """Return the array of a key: windows|HEIGHT|WIDTH|SIZE|STRIDE, gaussian_weights|SIZE or FUNCTION|SIZE|STRIDE.

    A function is applied to `content` (B, C, H, W).
    """
    name, *numbers = key.split("|")
    sizes = [int(number) for number in numbers]
    if name == "windows":
        return tile_windows(*sizes)
    if name == "gaussian_weights":
        return gaussian_weights(*sizes, *sizes)
    return nchw(tiled(TILE_FUNCTIONS[name], nhwc(content), *sizes))
