"""Diffusion prior of the shipped `tiny` preset: v prediction, zero terminal SNR, on latents of clean photos.

python train.py --config configs/tiny_prior.py --workdir work/prior
"""

from ml_collections import ConfigDict

from configs.common import tiny_config


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = tiny_config("prior", crop=128, batch_size=16, steps=2000, lr=1e-3)
    config.data.pool = 8192
    config.data.cache = "work/latents_prior.npz"
    config.data.degradation = None
    config.weights = ConfigDict({"vae": "work/vae/export/vae.safetensors"})
    # (share of the draws, below this share of T): sampling starts from the condition noised to less than half of T.
    config.diffusion = ConfigDict({"focus": (0.7, 0.5)})
    return config
