"""Autoencoder of the shipped `tiny` preset, last touch: local spectra, and latents as noisy as sampling makes them.

python train.py --config configs/tiny_texture.py --workdir work/texture
"""

from ml_collections import ConfigDict

from configs import tiny_decoder


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = tiny_decoder.get_config()
    config.weights.vae = "work/decoder/export/vae.safetensors"
    config.train.steps = 2000
    config.latent_noise = 0.25
    config.loss.spectral = 0.0
    config.loss.texture = 0.05
    return config
