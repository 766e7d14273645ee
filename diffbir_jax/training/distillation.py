"""The scores of score distillation (`vsd.py`): a frozen UNet with guidance, and the same UNet with a trained LoRA."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffbir_jax.diffusion.schedule import Schedule
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.lora import adapted
from diffbir_jax.models.unet import UNet
from diffbir_jax.training.vsd import Score, guided, regulariser_loss, vsd_loss

# OSEDiff's timesteps, as shares of T: the direction is drawn without the ends.
FIRST, LAST = 0.02, 0.98


@dataclass(frozen=True)
class Distillation:
    """Both scores on one UNet.

    Attributes:
        schedule: noise schedule and parameterization.
        unet: the module.
        lora_scale: alpha / rank of the regulariser's LoRA.
        cfg_scale: guidance scale of the real score.
    """

    schedule: Schedule
    unet: UNet
    lora_scale: float
    cfg_scale: float

    def real(self, unet: Params, context: jax.Array | None, negative: jax.Array | None) -> Score:
        """Return the frozen model, guided from a negative prompt to a prompt.

        Args:
            unet: its parameters.
            context: (B, tokens, D) embeddings of the prompts; None if the UNet reads no text, without guidance.
            negative: (B, tokens, D) of the negative prompt.
        """
        if context is None or negative is None:
            return lambda z, t: apply(self.unet, unet, z, t, None)

        def score(z: jax.Array, t: jax.Array) -> jax.Array:
            # One call for both prompts, for the chips' sake.
            both = jnp.concatenate([context, negative])
            output = apply(self.unet, unet, jnp.concatenate([z, z]), jnp.concatenate([t, t]), both)
            positive, avoided = jnp.split(output, 2)
            return guided(positive, avoided, self.cfg_scale)

        return score

    def fake(self, regulariser: Params, unet: Params, context: jax.Array | None) -> Score:
        """Return the model that follows the generator; `regulariser` is its LoRA, the rest as for `real`."""

        def score(z: jax.Array, t: jax.Array) -> jax.Array:
            with adapted(regulariser, self.lora_scale):
                return apply(self.unet, unet, z, t, context)

        return score

    def losses(self, real: Score, fake: Score, latents: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Return `vsd`, which moves the generator's latents (B, h, w, C), and `regulariser`, which moves the LoRA.

        Timesteps and noise of the two are drawn apart.
        """
        keys, total = jax.random.split(key, 4), self.schedule.num_timesteps
        inner = round(FIRST * total), round(LAST * total)
        times = [
            jax.random.randint(key, latents.shape[:1], *span, jnp.int32)
            for key, span in zip(keys[:2], (inner, (0, total)), strict=True)
        ]
        noises = [jax.random.normal(key, latents.shape) for key in keys[2:]]
        return {
            "vsd": vsd_loss(self.schedule, real, fake, latents, times[0], noises[0]),
            "regulariser": regulariser_loss(self.schedule, fake, latents, times[1], noises[1]),
        }
