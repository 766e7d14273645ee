"""The autoencoder of latent diffusion: reconstruction and a small KL (Rombach et al., 2022)."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from diffbir_jax.console.section import Section
from diffbir_jax.models.apply import Params, apply, init
from diffbir_jax.models.layers import space_to_depth
from diffbir_jax.models.presets import get_preset
from diffbir_jax.models.vae import AutoencoderKL
from diffbir_jax.training.config import Config
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.report import tile_grid
from diffbir_jax.training.rm import mean_psnr
from diffbir_jax.training.sources import to_signed, training_batches


def make(config: Config) -> Objective:
    """Build the autoencoder objective; batches hold `hq` (B, H, W, 3) uint8.

    If the preset's decoder has dense blocks, the encoder is trained here with a plain decoder.
    `scripts/start_decoder.py` then replaces that decoder.
    """
    module = AutoencoderKL(replace(get_preset(config.preset).vae, dense_blocks=0))
    train, held_out = training_batches(config)
    params = init(module, jax.random.key(config.seed), to_signed(held_out(0)["hq"][:1]))
    if module.config.shortcut:
        params = start_from_principal_components(params, to_signed(train(0)["hq"]), module.config.downsample)

    def loss(params: dict, frozen: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        image = to_signed(batch["hq"])
        mean, logvar = apply(module, params, image, method="encode")
        # The reparameterised sample keeps the gradient to the encoder (Kingma and Welling, 2014).
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        out = apply(module, params, z, method="decode")
        terms = reconstruction_terms(out, image) | {"kl": kl(mean, logvar)}
        return weighted_sum(config.loss, terms), terms | {"latent_std": jnp.std(mean)}

    @jax.jit
    def reconstruct(params: dict, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Restoration uses the posterior mean, so validation does too.
        mean, _ = apply(module, params, image, method="encode")
        return apply(module, params, mean, method="decode"), jnp.std(mean)

    def validate(params: dict, frozen: dict) -> tuple[dict[str, float], np.ndarray]:
        image = to_signed(held_out(0)["hq"])
        out, std = reconstruct(params, image)
        out, image = np.clip((np.asarray(out) + 1) / 2, 0, 1), (np.asarray(image) + 1) / 2
        return {"psnr": mean_psnr(out, image), "latent_std": float(std)}, tile_grid([out[:8], image[:8]])

    return Objective(params, {}, loss, train, validate, lambda ema: {"vae": ema})


def start_from_principal_components(params: Params, images: jax.Array, patch: int) -> Params:
    """Set the shortcuts to the whitened principal components of image patches; the networks start by adding 0.

    Args:
        params: parameters of an `AutoencoderKL` with shortcuts.
        images: (B, H, W, 3) in [-1, 1]; the components are estimated from them.
        patch: side of a patch (pixels), the autoencoder's downsampling factor.

    Returns:
        New parameters. The autoencoder then is the best linear one of its size for these images.
    """
    patches = np.asarray(space_to_depth(images, patch)).reshape(-1, 3 * patch**2)
    mean, count = patches.mean(axis=0), params["to_latent"]["bias"].size // 2
    _, sizes, basis = np.linalg.svd(patches - mean, full_matrices=False)
    deviation = sizes[:count] / np.sqrt(len(patches))
    encode = basis[:count].T / deviation
    # The posterior starts with a standard deviation of 0.1.
    kernel = np.concatenate([encode, np.zeros_like(encode)], axis=1)
    bias = np.concatenate([-mean @ encode, np.full(count, np.log(0.01))])
    shortcuts = {
        "to_latent": {"kernel": kernel, "bias": bias},
        "to_patch": {"kernel": basis[:count] * deviation[:, None], "bias": mean},
    }
    # Zero output layers: the networks learn a residual to the linear autoencoder.
    silent = {"quant_conv": jax.tree.map(jnp.zeros_like, params["quant_conv"])}
    decoder = params["decoder"] | {"conv_out": jax.tree.map(jnp.zeros_like, params["decoder"]["conv_out"])}
    started = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), shortcuts)
    return params | silent | {"decoder": decoder} | started


def reconstruction_terms(out: jax.Array, image: jax.Array) -> dict[str, jax.Array]:
    """Pixel losses of (B, H, W, 3) images in [-1, 1].

    Returns:
        `l1` is the mean absolute error. `gradient` is the same for horizontal and vertical differences, added up.
        For `spectral` see `spectral_error`, for `texture` see `texture_error`.
    """
    error = out - image
    gradient = jnp.mean(jnp.abs(jnp.diff(error, axis=1))) + jnp.mean(jnp.abs(jnp.diff(error, axis=2)))
    return {
        "l1": jnp.mean(jnp.abs(error)),
        "gradient": gradient,
        "spectral": spectral_error(out, image),
        "texture": texture_error(out, image),
    }


def spectral_error(out: jax.Array, image: jax.Array) -> jax.Array:
    """Return the mean absolute difference of the log power spectra of two (B, H, W, 3) images' channel means; scalar.

    Similar to the focal frequency loss (Jiang et al., 2021), but of logarithms.
    """

    def log_power(x: jax.Array) -> jax.Array:
        f = jnp.fft.rfft2(jnp.mean(x, axis=-1), norm="ortho")
        # The constant bounds the logarithm where a spectrum is near 0.
        return jnp.log(jnp.square(f.real) + jnp.square(f.imag) + 1e-4)

    return jnp.mean(jnp.abs(log_power(out) - log_power(image)))


def texture_error(out: jax.Array, image: jax.Array, side: int = 16) -> jax.Array:
    """`spectral_error` of Hann-windowed tiles: it also checks where in the image the fine detail lies.

    Args:
        out: (B, H, W, 3), H and W multiples of `side`.
        image: the same shape.
        side: side of the tiles (pixels). A second grid of tiles is shifted by half a side.
    """
    window = jnp.asarray(np.outer(np.hanning(side), np.hanning(side)), jnp.float32)[None, :, :, None]

    def tiles(x: jax.Array) -> jax.Array:
        return window * rearrange(x, "b (h p) (w q) c -> (b h w) p q c", p=side, q=side)

    # An image of one tile has no room for the shifted grid.
    starts = (0, side // 2) if min(image.shape[1:3]) > side else (0,)
    grids = [slice(start, -start or None) for start in starts]
    errors = [spectral_error(tiles(out[:, g, g]), tiles(image[:, g, g])) for g in grids]
    return jnp.stack(errors).mean()


def kl(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence from N(mean, exp(logvar)) to N(0, 1), averaged over elements (nats)."""
    return 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)


def weighted_sum(weights: Section | Mapping[str, float], terms: dict[str, jax.Array]) -> jax.Array:
    """Return the sum of the loss terms, each times the weight of its name."""
    return jnp.stack([weights[name] * value for name, value in terms.items()]).sum()
