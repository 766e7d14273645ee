"""AlexNet and VGG16 against the same layers in NumPy, float64, on random weights."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import convolve2d

from diffbir_jax.models.apply import abstract, apply
from diffbir_jax.models.backbones import VGG16, AlexNet, hann_pool

Layers = Iterator[dict[str, np.ndarray]]


def windows(x: np.ndarray, side: int, stride: int) -> np.ndarray:
    """(H, W, C) -> (h, w, C, side, side)."""
    return np.lib.stride_tricks.sliding_window_view(x, (side, side), (0, 1))[::stride, ::stride]


def convolved(x: np.ndarray, layer: dict[str, np.ndarray], stride: int, padding: int) -> np.ndarray:
    """A convolution and its ReLU of (H, W, C)."""
    padded = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    patches = windows(padded, layer["kernel"].shape[0], stride)
    return np.maximum(
        np.einsum("hwcij,ijcd->hwd", patches, layer["kernel"], optimize=True) + layer["bias"], 0
    )


def largest(x: np.ndarray, side: int) -> np.ndarray:
    return windows(x, side, 2).max((-2, -1))


def alexnet(x: np.ndarray, layers: Layers) -> Iterator[np.ndarray]:
    yield (first := convolved(x, next(layers), 4, 2))
    yield (second := convolved(largest(first, 3), next(layers), 1, 2))
    yield (third := convolved(largest(second, 3), next(layers), 1, 1))
    yield (fourth := convolved(third, next(layers), 1, 1))
    yield convolved(fourth, next(layers), 1, 1)


def vgg16(x: np.ndarray, layers: Layers) -> Iterator[np.ndarray]:
    for stage, depth in enumerate((2, 2, 3, 3, 3)):
        x = largest(x, 2) if stage else x
        for layer in itertools.islice(layers, depth):
            x = convolved(x, layer, 1, 1)
        yield x


@pytest.mark.parametrize("net, reference, size", [(AlexNet(), alexnet, (31, 44)), (VGG16(), vgg16, (16, 35))])
def test_stages_are_those_of_the_papers(net: AlexNet | VGG16, reference, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((*size, 3), np.float32)
    shapes = abstract(net, jnp.asarray(image[None]))
    # He's variance keeps the size of activations.
    params = jax.tree.map(
        lambda s: rng.standard_normal(s.shape, np.float32) * np.float32(np.sqrt(2 / np.prod(s.shape[:-1]))),
        shapes,
    )
    found = jax.jit(lambda p, x: apply(net, p, x))(params, image[None])
    wanted = list(reference(image.astype(np.float64), iter(params[name] for name in sorted(params))))
    assert [x.shape for x in found] == [(1, *x.shape) for x in wanted]
    assert tuple(x.shape[-1] for x in found) == net.CHANNELS
    for ours, theirs in zip(found, wanted):
        np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("size", [(8, 9), (1, 5)])
def test_hann_pooling_is_a_filter_of_squares(size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((1, *size, 2), np.float32)
    window = np.hanning(5)[1:-1]
    kernel = np.outer(window, window) / window.sum() ** 2
    wanted = [np.sqrt(convolve2d(x[0, ..., c] ** 2, kernel, "same"))[::2, ::2] for c in range(2)]
    np.testing.assert_allclose(hann_pool(jnp.asarray(x))[0], np.stack(wanted, -1), atol=1e-6)
