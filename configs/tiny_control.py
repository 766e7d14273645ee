"""Stage 2 of the shipped `tiny` preset: IRControlNet on the frozen prior.

python train.py --config configs/tiny_control.py --workdir work/control
"""

from ml_collections import ConfigDict

from configs import tiny_prior


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = tiny_prior.get_config()
    config.objective = "control"
    config.train.steps = 8000
    config.weights.unet = "work/prior/export/unet.safetensors"
    return config
