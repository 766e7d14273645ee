"""Known degradations in the pipeline: what a request says about its result, on canvases and on pixels."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.bytes import to_depth
from diffbir_jax.imaging.canvas import from_depth
from diffbir_jax.imaging.filling import fill
from diffbir_jax.imaging.reading import over_white, read_photo, to_eight
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration import names
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.restoration.geometry import Sides
from diffbir_jax.sampling.known import weights
from diffbir_jax.sampling.operators import LUMA, Basis, Measured, Separable, Spec, parse, project
from diffbir_jax.sampling.options import Options

# Rounding of the input counts as noise: coefficients of which it would be more than 1/50 of the range are left alone.
ROUNDING_SHARE = 50
# The same for inputs of floats, and for inputs whose noise is given.
LEAST = 1e-4


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What an image says about its result.

    Attributes:
        measured: y in the basis of the operator, in [-1, 1].
        spec: the operator.
        weight: of the last projection, on pixels.
    """

    measured: Measured
    spec: Spec
    weight: np.ndarray

    def finish(self, image: np.ndarray) -> np.ndarray:
        """Project a result (H, W, 3) float32 in about [0, 1], so that the operator gives y again."""
        return (project(self.measured, 2.0 * image - 1.0, self.weight) + 1.0) / 2.0


def check(preset: Preset, options: Options) -> None:
    """Raise UserError if a version cannot restore with the operator of the options, or its mask cannot be read."""
    if options.operator is None:
        return
    if preset.stage1_only or default_options(preset.name).steps == 1:
        raise UserError(
            f"version {preset.name} does not sample in several steps, which `operator` corrects; take one of "
            f"{', '.join(names.OPERATOR_VERSIONS)}"
        )
    if options.detail == 0.0:
        raise UserError(
            "`detail` is 0, which leaves stage 2 out, but `operator` corrects it; give more, or leave it out"
        )
    if path := parse(options.operator).mask:
        read_mask(path)


def check_sides(spec: Spec, image: Sequence[int], sides: Sides, preset: Preset) -> None:
    """Raise UserError unless an image (height, width) becomes a result that the operator is about."""
    wanted = tuple(side * spec.scale for side in image[:2])
    if sides.output != wanted:
        raise UserError(
            f"operator {spec.words} makes {wanted[1]}x{wanted[0]} of {image[1]}x{image[0]}, not "
            f"{sides.output[1]}x{sides.output[0]}; give `upscale` {spec.scale}"
        )
    if sides.work != sides.output:
        raise UserError(
            f"the result has {wanted[1]}x{wanted[0]} pixels, and preset {preset.name} enlarges it to at least "
            f"{preset.min_side}, where operator {spec.words} is another; give a larger image"
        )


def knowledge(image: np.ndarray, options: Options, sides: tuple[int, int], sigma: float) -> Knowledge:
    """What an input says about its result of the given sides.

    Args:
        image: (h, w, 3) uint8, uint16 or float32 in [0, 1].
        options: with an operator.
        sides: height and width of the result.
        sigma: noise / signal of the last call of the network.

    Raises:
        UserError: the mask has other sides, or the operator makes gray and the input has colours.
    """
    assert options.operator is not None
    spec = parse(options.operator)
    y = 2.0 * from_depth(image) - 1.0
    if spec.gray:
        if np.any(image[..., :2] != image[..., 1:]):
            raise UserError(
                "operator gray needs a gray input, and this one has colours; convert it, or leave gray out"
            )
        y = y @ np.array(LUMA, np.float32)[:, None]
    measured = Separable(spec, sides, _mask(spec, image), _least(image, spec)).measure(y)
    batched = jax.tree.map(lambda a: jnp.asarray(a)[None], measured)
    return Knowledge(measured, spec, np.asarray(weights(batched, jnp.float32(sigma)))[0])


def without_holes(image: np.ndarray, options: Options) -> np.ndarray:
    """The input for the stages that know no operator: pixels that a mask hides get smooth colours around them."""
    mask = None if options.operator is None else _mask(parse(options.operator), image)
    if mask is None:
        return image
    filled = fill(from_depth(image), mask)
    return filled if image.dtype.kind == "f" else to_depth(filled, image.dtype)


def stacked(all_: Sequence[Knowledge], canvas: tuple[int, int]) -> Measured:
    """What images say about their results, padded to canvases: an axis B before each array."""
    padded = [_padded(each, canvas) for each in all_]
    return jax.tree.map(lambda *arrays: np.stack(arrays), *padded)


def abstract(spec: Spec, images: int, canvas: tuple[int, int]) -> Measured:
    """The shapes of `stacked`."""
    sides = [side // spec.scale for side in canvas]
    axes = [(side, kept) if spec.axes else None for side, kept in zip(canvas, sides)]
    channels = 1 if spec.gray else 3

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((images, *shape), jnp.float32)

    rows, columns = (None if axis is None else array(*axis) for axis in axes)
    colours = (array(3, 1), array(1, 3)) if spec.gray else None
    one = array(*sides, 1)
    return Measured(Basis(rows, columns, colours), array(*sides, channels), one, one, array())


def _padded(known: Knowledge, canvas: tuple[int, int]) -> Measured:
    """Nothing is known outside the image, and no direction of the basis leads there."""
    measured, scale = known.measured, known.spec.scale
    sides = (canvas[0] // scale, canvas[1] // scale)
    rows, columns = (
        None if axis is None else _grown(axis, (whole, kept))
        for axis, whole, kept in zip(measured.basis[:2], canvas, sides)
    )
    data, held, values = (
        _grown(a, (*sides, a.shape[2])) for a in (measured.data, measured.known, measured.values)
    )
    return Measured(Basis(rows, columns, measured.basis.colours), data, held, values, measured.deviation)


def _grown(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return np.pad(array, [(0, whole - side) for side, whole in zip(array.shape, shape)])


def _least(image: np.ndarray, spec: Spec) -> float:
    """The share of the largest singular value below which y says nothing."""
    if image.dtype.kind == "f" or spec.noise:
        return LEAST
    return max(LEAST, ROUNDING_SHARE / (np.sqrt(12.0) * np.iinfo(image.dtype).max))


def _mask(spec: Spec, image: np.ndarray) -> np.ndarray | None:
    """Which pixels of the input are known, (h, w) bool; None: all."""
    if spec.mask is None:
        return None
    check_mask(spec.mask, image.shape[:2])
    return read_mask(spec.mask)


def check_mask(path: str, image: Sequence[int]) -> None:
    """Raise UserError unless a mask has the sides of the image, (height, width)."""
    mask = read_mask(path).shape
    if mask != tuple(image):
        raise UserError(
            f"mask {path} has {mask[1]}x{mask[0]} pixels, the image {image[1]}x{image[0]}; give a mask of the image's "
            "size"
        )


def read_mask(path: str) -> np.ndarray:
    """Read a mask, (h, w) bool: where it is lighter than middle gray; errors as in `read_photo`."""
    file = Path(path).absolute()
    # A file that changes is read again.
    seen = file.stat() if file.is_file() else None
    return _read_mask(str(file), seen and (seen.st_mtime_ns, seen.st_size))


@functools.lru_cache(maxsize=4)
def _read_mask(path: str, seen: tuple[int, int] | None) -> np.ndarray:
    return to_eight(over_white(read_photo(path))).mean(axis=2) >= 128
