"""The autoencoder of latent diffusion: reconstruction and a small KL (Rombach et al., 2022)."""

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.models.apply import apply, init
from diffbir_jax.models.presets import get_preset
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.report import tile_grid
from diffbir_jax.training.rm import mean_psnr
from diffbir_jax.training.sources import photo_batches, to_signed
from diffbir_jax.training.state import Config


def make(config: Config) -> Objective:
    """Build the autoencoder objective; batches hold `hq` (B, H, W, 3) uint8."""
    module = get_preset(config.preset).make_vae()
    train, held_out = photo_batches(config)
    params = init(module, jax.random.key(config.seed), to_signed(held_out(0)["hq"][:1]))

    def loss(params: dict, frozen: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        image = to_signed(batch["hq"])
        mean, logvar = apply(module, params, image, method="encode")
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        out = apply(module, params, z, method="decode")
        terms = reconstruction_terms(out, image) | {"kl": kl(mean, logvar)}
        return weighted_sum(config.loss, terms), terms | {"latent_std": jnp.std(mean)}

    @jax.jit
    def reconstruct(params: dict, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, _ = apply(module, params, image, method="encode")
        return apply(module, params, mean, method="decode"), jnp.std(mean)

    def validate(params: dict, frozen: dict) -> tuple[dict[str, float], np.ndarray]:
        image = to_signed(held_out(0)["hq"])
        out, std = reconstruct(params, image)
        out, image = np.clip((np.asarray(out) + 1) / 2, 0, 1), (np.asarray(image) + 1) / 2
        return {"psnr": mean_psnr(out, image), "latent_std": float(std)}, tile_grid([out[:8], image[:8]])

    return Objective(params, {}, loss, train, validate, lambda ema: {"vae": ema})


def reconstruction_terms(out: jax.Array, image: jax.Array) -> dict[str, jax.Array]:
    """Pixel losses of (B, H, W, 3) images in [-1, 1].

    Returns:
        `l1`, mean absolute error; `gradient`, the same of horizontal and vertical differences; `spectral`, see
        `spectral_error`.
    """
    error = out - image
    gradient = jnp.mean(jnp.abs(jnp.diff(error, axis=1))) + jnp.mean(jnp.abs(jnp.diff(error, axis=2)))
    return {"l1": jnp.mean(jnp.abs(error)), "gradient": gradient, "spectral": spectral_error(out, image)}


def spectral_error(out: jax.Array, image: jax.Array) -> jax.Array:
    """Mean absolute difference of log power spectra of the channel means of (B, H, W, 3) images, a scalar.

    A logarithmic relative of the focal frequency loss (Jiang et al., 2021).
    """

    def log_power(x: jax.Array) -> jax.Array:
        f = jnp.fft.rfft2(jnp.mean(x, axis=-1), norm="ortho")
        return jnp.log(jnp.square(f.real) + jnp.square(f.imag) + 1e-4)

    return jnp.mean(jnp.abs(log_power(out) - log_power(image)))


def kl(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence from N(mean, exp(logvar)) to N(0, 1), averaged over elements (nats)."""
    return 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)


def weighted_sum(weights: Config, terms: dict[str, jax.Array]) -> jax.Array:
    """Return the sum of the loss terms, each times the weight of its name."""
    return jnp.stack([weights[name] * value for name, value in terms.items()]).sum()
