"""The image tower of CLIP's ConvNeXt, whose features HYPIR's discriminator judges.

Liu et al., "A ConvNet for the 2020s", 2022, as trained by OpenCLIP (Cherti et al. 2023). Only inference is supported.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.files.trees import Params
from diffbir_jax.models.layers import Dense, Layer, LayerNorm, PlainConv, conv

# Mean and standard deviation of the images in [0, 1] that CLIP's towers were trained on.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
KERNEL = 7


@dataclass(frozen=True)
class ConvNeXtConfig:
    """Sizes of a `ConvNeXt`; the defaults are those of ConvNeXt-XXLarge.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage.
        embedding: features of the projected vector, which CLIP compares with those of texts.
    """

    depths: tuple[int, ...] = (3, 4, 30, 3)
    widths: tuple[int, ...] = (384, 768, 1536, 3072)
    embedding: int = 1024

    @property
    def multiple(self) -> int:
        """Sides of images must be at least this; what exceeds a multiple of it is not seen by the last stage."""
        return 2 ** (len(self.depths) + 1)

    @staticmethod
    def of(params: Params) -> "ConvNeXtConfig":
        """The sizes of the network with these parameters, or with these shapes of parameters."""
        gammas = [params[name]["blocks"]["gamma"].shape for name in sorted(params) if name[:6] == "stage_"]
        depths, widths = zip(*gammas, strict=True)
        return ConvNeXtConfig(depths, widths, params["projection"]["kernel"].shape[1])


class ConvNeXt(nn.Module):
    """Images to the maps of all stages but the last, and CLIP's vector of the last."""

    config: ConvNeXtConfig = ConvNeXtConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> list[Array]:
        """Return features, finest first.

        Args:
            image: (B, H, W, 3), normalised by `CLIP_MEAN` and `CLIP_STD`; sides of at least `config.multiple`.

        Returns:
            in `dtype`, maps (B, H / s, W / s, C) for s = 4, 8, 16 (sides rounded down), and (B, config.embedding).

        Raises:
            ValueError: a side is too short.
        """
        if min(image.shape[1:3]) < self.config.multiple:
            raise ValueError(
                f"ConvNeXt: an image of {image.shape[1]}x{image.shape[2]} given, sides must be at least "
                f"{self.config.multiple}"
            )
        width, maps = self.config.widths[0], []
        x = conv(width, 4, stride=4, padding=(0, 0), dtype=self.dtype, name="stem")(image)
        x = LayerNorm(self.dtype, name="stem_norm")(x)
        for i, (depth, width) in enumerate(zip(self.config.depths, self.config.widths, strict=True)):
            x = Stage(depth, width, i > 0, self.dtype, name=f"stage_{i}")(x)
            maps.append(x)
        x = LayerNorm(self.dtype, name="norm")(x.mean((1, 2)))
        vector = Dense(self.config.embedding, use_bias=False, dtype=self.dtype, name="projection")(x)
        return [*maps[:-1], vector]


class Stage(nn.Module):
    """Blocks of one width; all stages but the first halve the sides before."""

    depth: int
    width: int
    halves: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, C) -> (B, h, w, width), or (B, h / 2, w / 2, width)."""
        if self.halves:
            x = LayerNorm(self.dtype, name="norm")(x)
            x = conv(self.width, 2, stride=2, padding=(0, 0), dtype=self.dtype, name="downsample")(x)
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)
        return blocks(self.dtype, name="blocks")(x, None)[0]


class Block(Layer):
    """A wide depthwise convolution and a feed-forward layer per pixel: the body that `Stage` scans."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        """(B, h, w, C) -> (B, h, w, C), as the carry of a scan."""
        width = x.shape[-1]
        gamma = self.param("gamma", nn.initializers.constant(1e-6), (width,)).astype(self.dtype)
        size = (KERNEL, KERNEL)
        filtered = PlainConv(
            width, size, padding=KERNEL // 2, feature_group_count=width, dtype=self.dtype, name="depthwise"
        )
        y = Dense(4 * width, dtype=self.dtype, name="fc1")(LayerNorm(self.dtype, name="norm")(filtered(x)))
        y = Dense(width, dtype=self.dtype, name="fc2")(nn.gelu(y, approximate=False))
        return x + gamma.reshape(1, 1, 1, -1) * y, None
