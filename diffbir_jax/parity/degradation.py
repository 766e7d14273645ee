"""Degradations: blur kernels by their parameters, filters, differentiable JPEG."""

from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from diffbir_jax.data.kernels import gaussian_kernel, generalized_kernel, plateau_kernel, sinc_kernel
from diffbir_jax.data.operations import filter2d, sharpen
from diffbir_jax.imaging.jpeg import diff_jpeg
from diffbir_jax.parity.case import IMAGE, Arrays, Case, Values, matching, nchw


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of degradation.npz, or of a part of it."""
    for shape in KERNELS:
        if outputs := matching(keys, f"{shape}|*"):
            # Bound as a default: the loop changes `outputs` before the case runs.
            def kernels(_: Arrays, outputs=outputs) -> Values:
                return {key: kernel(key) for key in outputs}

            yield Case(file, shape, outputs, (), IMAGE, kernels)
    if "filtered" in keys:
        yield Case(file, "filter2D", ["filtered"], ["image", "filter_kernels"], IMAGE, filtered)
    if "usm" in keys:
        yield Case(file, "usm", ["usm"], ["image"], IMAGE, sharpened)
    if outputs := matching(keys, "diffjpeg|*", "diffjpeg_differentiable|*"):

        def compressed(golden: Arrays, outputs=outputs) -> Values:
            return {key: jpeg(key, golden) for key in outputs}

        yield Case(file, "diffjpeg", outputs, ["image"], IMAGE, compressed)


def gaussian(size: str, sigma_x: str, sigma_y: str, theta: str, kind: str) -> np.ndarray:
    """Return the kernel of a key gaussian|size|sigma_x|sigma_y|theta|KIND; the kind "iso" ignores sigma_y."""
    return gaussian_kernel(
        int(size), float(sigma_x), float(sigma_x if kind == "iso" else sigma_y), float(theta)
    )


# Shape of a kernel -> function from the other parts of a key to the kernel.
KERNELS: dict[str, Callable[..., np.ndarray]] = {
    "gaussian": gaussian,
    "generalized": lambda size, *shape: generalized_kernel(int(size), *map(float, shape)),
    "plateau": lambda size, *shape: plateau_kernel(int(size), *map(float, shape)),
    "sinc": lambda cutoff, size, pad_to: sinc_kernel(float(cutoff), int(size), int(pad_to)),
}


def kernel(key: str) -> np.ndarray:
    """Return the kernel of a key."""
    shape, *parameters = key.split("|")
    return KERNELS[shape](*parameters)


def filtered(golden: Arrays) -> Values:
    """Filter each image by its own kernel."""
    pairs = zip(images(golden), golden["filter_kernels"])
    return {"filtered": nchw(np.stack([filter2d(image, kernel) for image, kernel in pairs]))}


def sharpened(golden: Arrays) -> Values:
    """Apply unsharp masking to each image."""
    return {"usm": nchw(np.stack([sharpen(image) for image in images(golden)]))}


def jpeg(key: str, golden: Arrays) -> np.ndarray:
    """Compress the images at the key's quality, with the key's kind of rounding."""
    rounding, quality = key.split("|")
    return nchw(
        diff_jpeg(
            jnp.asarray(images(golden)), float(quality), differentiable=rounding.endswith("differentiable")
        )
    )


def images(golden: Arrays) -> np.ndarray:
    """Return the file's images, (B, H, W, 3), contiguous in memory as OpenCV needs them."""
    return np.ascontiguousarray(np.moveaxis(golden["image"], 1, -1))
