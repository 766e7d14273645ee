"""Degradations: blur kernels by their parameters; what the project does not have yet is listed as such."""

from collections.abc import Iterator, Sequence

import numpy as np

from diffbir_jax.data.degradation import gaussian_kernel
from diffbir_jax.parity.case import IMAGE, Arrays, Case, Values, matching

# Case -> (patterns of its outputs, its inputs): known, and waiting for the second-order degradation.
ABSENT = {
    "generalized": (["generalized|*"], []),
    "plateau": (["plateau|*"], []),
    "sinc": (["sinc|*"], []),
    "filter2D": (["filtered"], ["image", "filter_kernels"]),
    "usm": (["usm"], ["image"]),
    "diffjpeg": (["diffjpeg|*", "diffjpeg_differentiable|*"], ["image"]),
}


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """The cases of degradation.npz, or of a part of it."""
    gaussian = matching(keys, "gaussian|*")

    def kernels(_: Arrays) -> Values:
        return {key: kernel(key) for key in gaussian}

    if gaussian:
        yield Case(file, "gaussian", gaussian, (), IMAGE, kernels)
    for name, (patterns, inputs) in ABSENT.items():
        if outputs := matching(keys, *patterns):
            yield Case(file, name, outputs, inputs, IMAGE)


def kernel(key: str) -> np.ndarray:
    """The kernel gaussian|size|sigma_x|sigma_y|theta|KIND; the kind "iso" ignores sigma_y."""
    _, size, sigma_x, sigma_y, theta, kind = key.split("|")
    sigmas = float(sigma_x), float(sigma_x if kind == "iso" else sigma_y)
    return gaussian_kernel(int(size), *sigmas, float(theta))
