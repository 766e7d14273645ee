"""ImageNet classifiers whose features measure the similarity of images: AlexNet and VGG16, without their heads.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, and Simonyan and Zisserman, "Very
Deep Convolutional Networks for Large-Scale Image Recognition", 2014, with the sizes and borders of torchvision, whose
weights are used.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.layers import PlainConv

Pool = Callable[[Array], Array]
VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Layer(NamedTuple):
    """A convolution and its ReLU; `pooled`: a 3x3 maximum with stride 2 comes first."""

    features: int
    kernel: int
    stride: int = 1
    padding: int = 1
    pooled: bool = False


ALEXNET_LAYERS = (
    Layer(64, 11, stride=4, padding=2),
    Layer(192, 5, padding=2, pooled=True),
    Layer(384, 3, pooled=True),
    Layer(256, 3),
    Layer(256, 3),
)


class AlexNet(nn.Module):
    """The convolutions of AlexNet.

    Attributes:
        dtype: compute dtype.
    """

    CHANNELS: ClassVar = tuple(layer.features for layer in ALEXNET_LAYERS)
    SIDE: ClassVar = 31  # the last maximum needs 3 pixels
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> list[Array]:
        """Return the activations after every ReLU.

        Args:
            image: (B, H, W, 3) float32, normalised; H and W at least `SIDE`.

        Returns:
            Five arrays (B, h, w, C) of `dtype`, not negative, with C of `CHANNELS` and h, w about 1/4, 1/8, 1/16, 1/16
            and 1/16 of H, W.
        """
        x, features = image, []
        for i, layer in enumerate(ALEXNET_LAYERS):
            x = nn.max_pool(x, (3, 3), (2, 2)) if layer.pooled else x
            kernel = (layer.kernel, layer.kernel)
            conv = PlainConv(
                layer.features, kernel, layer.stride, layer.padding, dtype=self.dtype, name=f"conv{i}"
            )
            x = nn.relu(conv(x))
            features.append(x)
        return features


class VGG16(nn.Module):
    """The convolutions of VGG16.

    Attributes:
        pool: halves the resolution between stages; 2x2 maxima in the original VGG16.
        dtype: compute dtype.
    """

    CHANNELS: ClassVar = tuple(stage[-1] for stage in VGG16_STAGES)
    SIDE: ClassVar = 16  # one pixel after four maxima
    pool: Pool = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> list[Array]:
        """Return the activations after the last ReLU of every stage.

        Args:
            image: (B, H, W, 3) float32, normalised; H and W at least `SIDE`, or 1 with `hann_pool`.

        Returns:
            Five arrays (B, h, w, C) of `dtype`, not negative, with C of `CHANNELS` and h, w 1, 1/2, 1/4, 1/8 and 1/16
            of H, W, rounded as by `pool`.
        """
        x, features = image, []
        for i, stage in enumerate(VGG16_STAGES):
            x = self.pool(x) if i else x
            for j, channels in enumerate(stage):
                x = nn.relu(PlainConv(channels, (3, 3), padding=1, dtype=self.dtype, name=f"conv{i}_{j}")(x))
            features.append(x)
        return features


def hann_pool(x: Array) -> Array:
    """Halve the resolution without aliasing: the square root of squares averaged by a Hann window, as in DISTS.

    Hénaff and Simoncelli, "Geodesics of Learned Representations", 2016. The window is (1, 2, 1) / 4 along each axis,
    with a border of zeros.

    Args:
        x: (B, H, W, C) float32.

    Returns:
        (B, ceil(H / 2), ceil(W / 2), C) float32, at least 1e-6.
    """
    _, height, width, _ = x.shape
    squares = jnp.pad(jnp.square(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    # Sums of slices: XLA's convolution of single channels is an order of magnitude slower on CPUs.
    top, middle, bottom = (squares[:, i : i + height : 2] for i in range(3))
    rows = (top + 2 * middle + bottom) / 4
    left, middle, right = (rows[:, :, j : j + width : 2] for j in range(3))
    means = (left + 2 * middle + right) / 4
    return jnp.sqrt(means + 1e-12)
