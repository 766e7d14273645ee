"""Stage 1 of the shipped `tiny` preset: the restoration module, mean squared error, x4 first-order degradation.

python train.py --config configs/tiny_rm.py --workdir work/rm
"""

from ml_collections import ConfigDict

from configs.common import tiny_config


def get_config() -> ConfigDict:
    """Return the configuration."""
    return tiny_config("rm", crop=96, batch_size=16, steps=3200, lr=5e-4)
