"""Stage 2 of the shipped `tiny` preset: IRControlNet on the frozen prior.

python train.py --config configs/tiny_control.py --workdir work/control
"""

from ml_collections import ConfigDict

from configs import tiny_prior
from configs.common import tiny_config


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = tiny_config("control", crop=128, batch_size=16, steps=5000, lr=1e-3)
    config.data.pool = 8192
    config.data.cache = "work/latents_control.npz"
    config.diffusion = tiny_prior.get_config().diffusion
    config.weights = ConfigDict(
        {
            "rm": "work/rm/export/rm.safetensors",
            "vae": "work/vae/export/vae.safetensors",
            "unet": "work/prior/export/unet.safetensors",
        }
    )
    return config
