"""IRControlNet, the control branch of DiffBIR (Lin et al. 2023, section 3.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.files.trees import Params
from diffbir_jax.models.layers import conv
from diffbir_jax.models.unet import UNetConfig, UNetEncoder

# Channels of ControlNet's hint encoder, per resolution.
HINT_WIDTHS = (16, 32, 96, 256)


class IRControlNet(nn.Module):
    """A copy of the UNet's encoder that also sees the condition, then zero-initialised 1x1 convolutions.

    `config` is the controlled UNet's. With `remat`, the backward pass recomputes the inside of each block.
    """

    config: UNetConfig = UNetConfig()
    hint_channels: int = 4
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, hint: Array, t: Array, context: Array | None = None) -> list[Array]:
        """Controls of one evaluation.

        Args:
            x: (B, h, w, in_channels) noisy latent.
            hint: (B, h, w, hint_channels) latent of the stage-1 image.
            t: (B,) timesteps.
            context: (B n, tokens, context_dim) text embeddings, see `UNet`; None if the configuration has no
                `context_dim`.

        Returns:
            one array per skip connection of the UNet, highest resolution first, then one for the middle block; in the
            compute dtype, with the same number of rows.

        Raises:
            ValueError: the channels of the hint, a size or the context does not fit.
        """
        if hint.shape != (*x.shape[:3], self.hint_channels):
            raise ValueError(f"hint is {hint.shape}; expected {(*x.shape[:3], self.hint_channels)}")
        x = jnp.concatenate([x, hint], axis=-1)
        skips, x, _ = UNetEncoder(self.config, self.dtype, self.remat, name="encoder")(x, t, context)
        return [
            # Zero weights: an untrained control leaves the UNet's output unchanged.
            conv(y.shape[-1], 1, zero=True, name=f"zero_conv_{i}", dtype=self.dtype)(y)
            for i, y in enumerate([*skips, x])
        ]


class ConditionEncoder(nn.Module):
    """The convolutional encoder of ControlNet's hints (Zhang et al. 2023), trained together with the control.

    Its last convolution starts at random, because the control's weights for the hint start at zero. If both factors
    were zero, neither would get a gradient.
    """

    channels: int = 4
    downsample: int = 8
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """Encode.

        Args:
            image: (B, H, W, 3) in about [-1, 1], clipped to that range; H and W are multiples of `downsample`, a power
                of two.

        Returns:
            float32 (B, H/downsample, W/downsample, channels), used in place of a latent.
        """
        x = nn.silu(conv(HINT_WIDTHS[0], name="conv_in", dtype=self.dtype)(jnp.clip(image, -1.0, 1.0)))
        for level in range(self.downsample.bit_length() - 1):
            width = HINT_WIDTHS[min(level + 1, len(HINT_WIDTHS) - 1)]
            x = nn.silu(conv(x.shape[-1], name=f"level_{level}", dtype=self.dtype)(x))
            x = nn.silu(conv(width, stride=2, name=f"level_{level}_downsample", dtype=self.dtype)(x))
        # float32 like a latent, because noise may be added to it.
        return conv(self.channels, name="conv_out", dtype=self.dtype)(x).astype(jnp.float32)


def init_from_unet(unet_params: Params, hint_channels: int = 4) -> Params:
    """Parameters of an `IRControlNet` that starts as a copy of a UNet and has no effect yet.

    The first convolution's weights for the hint are zero, and so are the zero convolutions.

    Args:
        unet_params: parameters of a `UNet`.
        hint_channels: channels of the hint.

    Returns:
        new parameters; unchanged arrays are shared with `unet_params`.
    """
    encoder: Params = jax.tree.map(lambda x: x, dict(unet_params["encoder"]))
    kernel = encoder["conv_in"]["kernel"]
    # Zero weights for the hint: the copied encoder computes at first what the UNet's does.
    extra = jnp.zeros((*kernel.shape[:2], hint_channels, kernel.shape[3]), kernel.dtype)
    encoder["conv_in"]["kernel"] = jnp.concatenate([jnp.asarray(kernel), extra], axis=2)
    zero_convs = {
        f"zero_conv_{i}": {"kernel": jnp.zeros((1, 1, channels, channels)), "bias": jnp.zeros(channels)}
        for i, channels in enumerate(_control_channels(encoder))
    }
    return {"encoder": encoder, **zero_convs}


def _control_channels(encoder: Params) -> list[int]:
    """Channels of the encoder's skip connections in order, then of its middle block."""

    def in_order(name: str) -> tuple[str, bool, str]:
        # Within a level the downsampling follows the stages, but sorts before them by name.
        return name.split("_")[1], name.endswith("downsample"), name

    outputs = [encoder["conv_in"]]
    for name in sorted((name for name in encoder if name.startswith("down_")), key=in_order):
        outputs.append(encoder[name]["block"]["conv2"] if "block" in encoder[name] else encoder[name])
    outputs.append(encoder["mid_stage_1"]["block"]["conv2"])
    return [convolution["bias"].size for convolution in outputs]
