"""Feature extractor MobileNetV2.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018. Only inference is supported:
batch normalisation is folded into the convolutions when the weights are converted
(`scripts/convert_mobilenet.py`), so every layer is a convolution with a bias.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffbir_jax.models.layers import Layer, PlainConv

# (expansion of the hidden width, output channels, number of blocks, stride of the first block)
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32


def relu6(x: jax.Array) -> jax.Array:
    """Clip to [0, 6], the activation of MobileNetV2."""
    return jnp.clip(x, 0, 6)


class DepthwiseConv(Layer):
    """3x3 depthwise convolution as nine shifted multiply-adds, with a zero border of 1.

    XLA's grouped convolution is 10 to 20 times slower on CPUs, and its gradient is the slowest part.
    """

    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Filter (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), C)."""
        _, height, width, channels = x.shape
        kernel = self.param("kernel", nn.initializers.normal(1 / 3), (3, 3, channels)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,)).astype(self.dtype)
        # Explicit padding: with stride 2 and even sides, SAME would pad only after the image, unlike PyTorch.
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
        out = bias.reshape(1, 1, 1, -1)
        for i in range(3):
            for j in range(3):
                tap = padded[:, i : i + height : self.stride, j : j + width : self.stride]
                out = out + tap * kernel[i, j].reshape(1, 1, 1, -1)
        return out


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel, project by a linear 1x1 convolution.

    The input is added if the shapes are equal.
    """

    features: int
    expansion: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), features)."""
        h = x
        if self.expansion > 1:
            h = relu6(PlainConv(self.expansion * x.shape[-1], (1, 1), dtype=self.dtype, name="expand")(h))
        h = relu6(DepthwiseConv(self.stride, self.dtype, name="depthwise")(h))
        h = PlainConv(self.features, (1, 1), dtype=self.dtype, name="project")(h)
        # Linear output, no activation: ReLU6 would destroy information in few channels (linear bottleneck).
        return x + h if h.shape == x.shape else h


class MobileNetV2(nn.Module):
    """The convolutional part of MobileNetV2 at width 1, up to its last bottleneck.

    Attributes:
        stages: number of stages to run, up to seven.
        dtype: compute dtype.
    """

    stages: int = len(STAGES)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """Return the output of every stage, finest first.

        Args:
            image: (B, H, W, 3), normalised by the mean and deviation of ImageNet.

        Returns:
            `stages` arrays (B, ceil(H / s), ceil(W / s), C) in `dtype`, with s = 2, 4, 8, 16, 16, 32, 32 and
            C = 16, 24, 32, 64, 96, 160, 320: linear bottlenecks, so values have both signs.
        """
        x = PlainConv(STEM_CHANNELS, (3, 3), 2, padding=1, dtype=self.dtype, name="stem")(image)
        x, features = relu6(x), []
        for i, (expansion, channels, blocks, first_stride) in enumerate(STAGES[: self.stages]):
            for j in range(blocks):
                stride = first_stride if j == 0 else 1
                x = InvertedResidual(channels, expansion, stride, self.dtype, name=f"stage{i}_{j}")(x)
            features.append(x)
        return features
