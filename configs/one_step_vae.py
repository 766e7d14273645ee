"""Autoencoder of the shipped `one-step` preset: half the downsampling of `tiny`, and twice the channels.

python train.py --config configs/one_step_vae.py --workdir work/vae
"""

from ml_collections import ConfigDict

from configs.common import one_step_config


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = one_step_config("vae", crop=64, batch_size=16, steps=300, lr=1e-3)
    config.data.degradation = None
    config.loss = ConfigDict({"l1": 1.0, "gradient": 0.5, "spectral": 0.01, "texture": 0.0, "kl": 1e-3})
    return config
