"""Named presets: every size of every network in one table."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax.numpy as jnp

from diffbir_jax.models.controlnet import IRControlNet
from diffbir_jax.models.restoration_unet import RestorationUNet, RestorationUNetConfig
from diffbir_jax.models.swinir import SwinIR, SwinIRConfig
from diffbir_jax.models.unet import UNet, UNetConfig
from diffbir_jax.models.vae import AutoencoderKL, VAEConfig

RESTORATION_MODULES: dict[type, Any] = {RestorationUNetConfig: RestorationUNet, SwinIRConfig: SwinIR}


@dataclass(frozen=True)
class Preset:
    """Sizes of the networks that make up one DiffBIR.

    Attributes:
        name: key in `PRESETS`.
        rm: configuration of the restoration module; its type says which one.
        vae: of the autoencoder.
        unet: of the diffusion prior and of the IRControlNet that steers it; with a `context_dim`, they read text.
        parameterization: what the prior predicts, "eps" or "v".
        zero_terminal_snr: whether the last timestep is pure noise.
        min_side: images are enlarged until their shorter side has this many pixels before stage 1.
        multiple: image sides are padded to multiples of this many pixels.
        padding: "edge" (repeat the border) or "constant" (zeros, as the reference).
        colour_levels: wavelet levels of the colour correction; what varies over more than about 2^levels pixels comes
            from stage 1 (5 as the reference; 2 leaves a small generator only what x4 downsampling has destroyed).
    """

    name: str
    rm: RestorationUNetConfig | SwinIRConfig
    vae: VAEConfig
    unet: UNetConfig
    parameterization: Literal["eps", "v"] = "eps"
    zero_terminal_snr: bool = False
    min_side: int = 512
    multiple: int = 64
    padding: Literal["edge", "constant"] = "constant"
    colour_levels: int = 5

    def make_rm(self, dtype: Any = jnp.float32) -> RestorationUNet | SwinIR:
        """Return the restoration module, computing in `dtype`."""
        return RESTORATION_MODULES[type(self.rm)](self.rm, dtype)

    def make_vae(self, dtype: Any = jnp.float32, remat: bool = False) -> AutoencoderKL:
        """Return the autoencoder; `remat` recomputes its blocks in the backward pass."""
        return AutoencoderKL(self.vae, dtype, remat)

    def make_unet(self, dtype: Any = jnp.float32) -> UNet:
        """Return the diffusion prior."""
        return UNet(self.unet, dtype)

    def make_control(self, dtype: Any = jnp.float32) -> IRControlNet:
        """Return the IRControlNet, conditioned on the latent of the stage-1 image."""
        return IRControlNet(self.unet, self.vae.embed_dim, dtype)


TINY = Preset(
    name="tiny",
    rm=RestorationUNetConfig(channels=(64, 160), blocks=(2, 4, 3)),
    vae=VAEConfig(
        ch=96,
        ch_mult=(1, 1),
        num_res_blocks=1,
        z_channels=16,
        embed_dim=16,
        scale_factor=1.0,
        patch_size=4,
        mid_attention=False,
        shortcut=True,
    ),
    unet=UNetConfig(
        in_channels=16,
        out_channels=16,
        model_channels=64,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_levels=(),
        num_head_channels=32,
        context_dim=None,
    ),
    parameterization="v",
    zero_terminal_snr=True,
    min_side=64,
    multiple=16,
    padding="edge",
    colour_levels=2,
)

# DiffBIR as published: SwinIR before Stable Diffusion 2.1, fine-tuned to v and zero terminal SNR in v2.1.
V1 = Preset(name="v1", rm=SwinIRConfig(), vae=VAEConfig(), unet=UNetConfig())
V2_1 = replace(V1, name="v2.1", parameterization="v", zero_terminal_snr=True)

PRESETS = {preset.name: preset for preset in (TINY, V1, V2_1)}


def get_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} given, allowed are {', '.join(PRESETS)}")
    return PRESETS[name]
