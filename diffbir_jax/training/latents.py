"""The latent pool for the small models' prior and stage 2: latents of clean crops and of stage-1 images."""

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.models.apply import Params, abstract, apply
from diffbir_jax.models.presets import get_preset
from diffbir_jax.training.config import Config
from diffbir_jax.training.pool import Encoder, LatentBatches, pool_batches
from diffbir_jax.training.sources import to_signed, to_unit, training_batches
from diffbir_jax.training.state import Batch
from diffbir_jax.weights.safetensors import checksum, load_weights


def latent_batches(config: Config) -> tuple[LatentBatches, LatentBatches]:
    """Return batches of `z0` and, with a restoration module, `condition` (B, h, w, C), see `pool_batches`.

    Args:
        config: `data` as for `training_batches` and `pool_batches`; `weights.vae`; `weights.rm` if batches need
            conditions, which also requires a degradation.

    Raises:
        ValueError: as `pool_batches` does.
    """
    # Checksums, not paths: a pool must not outlive a change of the files.
    networks = {name: checksum(config.weights[name]) for name in ("rm", "vae") if name in config.weights}
    return pool_batches(
        config, lambda: training_batches(config, whole=True), lambda: _encoder(config), networks
    )


def _encoder(config: Config) -> Encoder:
    preset, size = get_preset(config.preset), config.data.crop.size
    rm, vae = preset.make_rm(), preset.make_vae()
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    params = {"vae": load_weights(config.weights.vae, abstract(vae, image))}
    if "rm" in config.weights:
        params["rm"] = load_weights(config.weights.rm, abstract(rm, image))

    def encode(params: Params, batch: Batch) -> Batch:
        images = {"z0": to_signed(batch["hq"])}
        if "rm" in params:
            # Clipped like a stage-1 result in restoration, so that training and sampling see the same
            # conditions.
            images["condition"] = (
                2.0 * jnp.clip(apply(rm, params["rm"], to_unit(batch["lq"])), 0.0, 1.0) - 1.0
            )
        means = {k: apply(vae, params["vae"], v, method="encode")[0] for k, v in images.items()}
        return {k: preset.vae.scale_factor * v for k, v in means.items()}

    return Encoder(encode, params)
