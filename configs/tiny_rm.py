"""Stage 1 of the shipped `tiny` preset: the restoration module, log mean squared error, x4 first-order degradation.

python train.py --config configs/tiny_rm.py --workdir work/rm
"""

from ml_collections import ConfigDict

from configs.common import tiny_config


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = tiny_config("rm", crop=80, batch_size=16, steps=4500, lr=1.5e-3)
    config.loss = "log_mse"
    return config
