"""The second half of the autoencoder's training: the decoder alone, with added perceptual and adversarial losses.

The encoder is frozen, so latents keep their meaning for a prior that was trained on them. One scalar holds the losses
of decoder and discriminator. Each sees the other through `stop_gradient`, so one optimizer step updates both. The
losses are hinge losses as in VQGAN (Esser et al., 2021).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.models.apply import Params, abstract, apply, init
from diffbir_jax.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from diffbir_jax.models.presets import get_preset
from diffbir_jax.models.vae import AutoencoderKL
from diffbir_jax.training.config import Config
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.perceptual import load_features, perceptual_loss
from diffbir_jax.training.report import tile_grid
from diffbir_jax.training.rm import mean_psnr
from diffbir_jax.training.sources import to_signed, training_batches
from diffbir_jax.training.vae import reconstruction_terms, weighted_sum
from diffbir_jax.weights.safetensors import load_weights

# Parts of the autoencoder that define the latents; all other parts are trained.
ENCODER = ("encoder", "quant_conv", "to_latent")


def make(config: Config) -> Objective:
    """Build the decoder objective; batches hold `hq` (B, H, W, 3) uint8.

    Args:
        config: `weights.vae` is the autoencoder to start from, `weights.perceptual` the converted MobileNetV2,
            `latent_noise` the standard deviation of the noise added to latents (relative to theirs), `loss` the
            weights of the terms. The weight of `adversarial` is relative to the gradient of all other terms.
    """
    preset = get_preset(config.preset)
    vae, discriminator = preset.make_vae(), PatchDiscriminator(DiscriminatorConfig(**config.discriminator))
    train, held_out = training_batches(config)
    sample = to_signed(held_out(0)["hq"])
    params, frozen = starting_weights(config, vae, discriminator, sample)

    def judge(params: dict, image: jax.Array) -> jax.Array:
        return apply(discriminator, params, image)

    def reconstruct(params: dict, frozen: dict, image: jax.Array, key: jax.Array, noise: float) -> jax.Array:
        weights = params["vae"] | frozen["vae"]
        mean, logvar = apply(vae, weights, image, method="encode")
        # Noise makes the decoder robust against the errors of sampled latents. Variances add up.
        sigma = jnp.sqrt(jnp.exp(logvar) + jnp.square(noise * jnp.std(mean)))
        z = mean + (sigma * jax.random.normal(key, mean.shape) if noise else 0.0)
        return apply(vae, weights, z, method="decode")

    def loss(params: dict, frozen: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        image, critic = to_signed(batch["hq"]), params["discriminator"]
        out = reconstruct(params, frozen, image, key, config.latent_noise)

        def likeness(out: jax.Array) -> tuple[jax.Array, dict]:
            perceptual = {"perceptual": perceptual_loss(frozen["features"], out, image)}
            terms = reconstruction_terms(out, image) | perceptual
            return weighted_sum(config.loss, terms), terms

        def fooling(out: jax.Array) -> jax.Array:
            # The decoder's loss must not train the discriminator.
            return -jnp.mean(judge(jax.lax.stop_gradient(critic), out))

        alike, terms = likeness(out)
        terms["adversarial"] = fooling(out)
        terms["discriminator"] = hinge(judge(critic, image), judge(critic, jax.lax.stop_gradient(out)))
        balance = gradient_ratio(lambda x: likeness(x)[0], fooling, out)
        weight = config.loss.adversarial * balance
        total = alike + weight * terms["adversarial"] + config.loss.discriminator * terms["discriminator"]
        return total, terms | {"adversarial_weight": weight}

    rebuild = jax.jit(
        lambda params, frozen, image: reconstruct(params, frozen, image, jax.random.key(0), 0.0)
    )

    def validate(params: dict, frozen: dict) -> tuple[dict[str, float], np.ndarray]:
        out = np.clip((np.asarray(rebuild(params, frozen, sample)) + 1) / 2, 0, 1)
        image = (np.asarray(sample) + 1) / 2
        return {"psnr": mean_psnr(out, image)}, tile_grid([out[:8], image[:8]])

    def export(ema: dict) -> dict:
        return {"vae": ema["vae"] | frozen["vae"]}

    return Objective(params, frozen, loss, train, validate, export)


def starting_weights(
    config: Config, vae: AutoencoderKL, discriminator: PatchDiscriminator, sample: jax.Array
) -> tuple[Params, Params]:
    """Return the trained parameters (decoder, new discriminator) and the frozen ones (encoder, perceptual features)."""
    loaded = load_weights(config.weights.vae, abstract(vae, sample))
    frozen = {
        "vae": {k: loaded[k] for k in ENCODER if k in loaded},
        "features": load_features(config.weights.perceptual),
    }
    params = {
        "vae": {k: v for k, v in loaded.items() if k not in ENCODER},
        "discriminator": init(discriminator, jax.random.key(config.seed), sample[:1]),
    }
    return params, frozen


def gradient_ratio(numerator: Callable, denominator: Callable, out: jax.Array) -> jax.Array:
    """Return |d numerator / d out| / |d denominator / d out|, without a gradient of its own.

    It keeps the adversarial term at a fixed share of the other terms while the discriminator changes. This is VQGAN's
    adaptive weight, but taken at the image, not at the last layer.
    """
    top, bottom = (
        jnp.linalg.norm(jax.grad(f)(jax.lax.stop_gradient(out)).ravel()) for f in (numerator, denominator)
    )
    return jax.lax.stop_gradient(top / (bottom + 1e-6))


def hinge(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Hinge loss of a discriminator's logits on real and on generated patches (Lim and Ye, 2017)."""
    return 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))
