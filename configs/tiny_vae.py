"""Autoencoder of the shipped `tiny` preset, first half: L1, gradient L1, small KL, a touch of spectral loss.

python train.py --config configs/tiny_vae.py --workdir work/vae
"""

from ml_collections import ConfigDict

from configs.common import tiny_config


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = tiny_config("vae", crop=64, batch_size=16, steps=1800, lr=1e-3)
    config.data.degradation = None
    config.loss = ConfigDict({"l1": 1.0, "gradient": 0.5, "spectral": 0.01, "texture": 0.0, "kl": 1e-3})
    return config
