"""A published one-step restorer as a generator that is trained: encoder, one evaluation of the UNet, decoder.

LoRAs of UNet and encoder are trained and run beside the frozen kernels. The UNet's first convolution may be trained as
a whole, as in OSEDiff.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.diffusion.schedule import Schedule, make_schedule
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.lora import adapted, runner
from diffbir_jax.models.one_step import OneStep
from diffbir_jax.models.presets import Preset
from diffbir_jax.models.unet import UNet
from diffbir_jax.training.vsd import predict_clean

# Names of trained parameters: LoRAs by network, and the UNet's first convolution.
LORA, CONV_IN = "lora", "conv_in"


def with_first(unet: Params, params: Params) -> Params:
    """Return the UNet with the first convolution that is trained, if it is."""
    if CONV_IN not in params:
        return unet
    return unet | {"encoder": unet["encoder"] | {CONV_IN: params[CONV_IN]}}


@dataclass(frozen=True)
class Generator:
    """A one-step restorer in training.

    Attributes:
        preset: a version whose `one_step` has a coefficient and no modulation.
        lora_scale: alpha / rank.
        dtype: compute dtype of the networks.
        remat: recompute blocks in the backward pass.

    Raises:
        UserError: the preset is another one.
    """

    preset: Preset
    lora_scale: float
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        method = self.preset.one_step
        if method is None or method.coefficient is None or method.modulation is not None:
            raise UserError(
                f"config.preset is {self.preset.name!r}; the recipes of one-step restorers train hypir, osediff and "
                "osediff-face"
            )

    @property
    def method(self) -> OneStep:
        """Timesteps, and whether results are clipped."""
        assert self.preset.one_step is not None
        return self.preset.one_step

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return make_schedule(
            zero_terminal_snr=self.preset.zero_terminal_snr, parameterization=self.preset.parameterization
        )

    @property
    def unet(self) -> UNet:
        """The UNet's module."""
        return self.preset.make_unet(self.dtype, self.remat)

    def restore(
        self, params: Params, frozen: Params, lq: jax.Array, context: jax.Array | None, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the result and its latents.

        Args:
            params: "lora", by network; perhaps "conv_in".
            frozen: "unet" and "vae".
            lq: (B, H, W, 3) in [-1, 1], enlarged, sides multiples of the preset's `multiple`.
            context: (B, tokens, D) text embeddings, or None if the UNet reads no text.
            key: of the encoder's posterior.

        Returns:
            (B, H, W, 3) in about [-1, 1], and (B, h, w, C) as the UNet scales latents.
        """
        z0 = self.predict(params, frozen, self.encode(params, frozen, lq, key), context)
        return self.decode(frozen, z0), z0

    def encode(self, params: Params, frozen: Params, image: jax.Array, key: jax.Array) -> jax.Array:
        """Return a sample of the posterior (B, h, w, C), scaled; arguments as in `restore`."""
        vae = self.preset.make_vae(self.dtype, self.remat)
        with adapted(params[LORA].get("vae", {}), self.lora_scale):
            mean, logvar = apply(vae, frozen["vae"], image, method="encode")
        noise = jax.random.normal(key, mean.shape)
        return self.preset.vae.scale_factor * (mean + jnp.exp(0.5 * logvar) * noise)

    def predict(self, params: Params, frozen: Params, z: jax.Array, context: jax.Array | None) -> jax.Array:
        """Return the clean latents (B, h, w, C) that one evaluation predicts from z (B, h, w, C)."""
        run = runner({LORA: params[LORA]}, {"unet": with_first(frozen["unet"], params)}, self.lora_scale)
        told, coefficient = (jnp.full(len(z), t, jnp.int32) for t in self._timesteps())
        output = run("unet", self.unet, z, told, context)
        return predict_clean(self.schedule, z, output, coefficient)

    def decode(self, frozen: Params, z0: jax.Array) -> jax.Array:
        """Return images (B, H, W, 3) of scaled latents, clipped if the method clips."""
        vae = self.preset.make_vae(self.dtype, self.remat)
        image = apply(vae, frozen["vae"], z0 / self.preset.vae.scale_factor, method="decode")
        return jnp.clip(image, -1.0, 1.0) if self.method.clip else image

    def _timesteps(self) -> tuple[int, int]:
        assert self.method.coefficient is not None
        return self.method.timestep, self.method.coefficient
