"""Stage 1 of the shipped `one-step` preset: removes everyday degradations, scale 1 to 4.

python train.py --config configs/one_step_rm.py --workdir work/rm
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.common import everyday, one_step_config


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = one_step_config("rm", crop=112, batch_size=8, steps=6000, lr=1e-3)
    # Clean photos and those of their own size: at these scales stage 1 alone is the default.
    del config.data.degradation
    config.data.degradation = ConfigDict(everyday((0.34, 0.24, 0.24, 0.06, 0.04, 0.08)))
    config.loss = "log_mse"
    config.floor = 2e-4  # 37 dB: of clean inputs, small errors weigh no more than large ones of others
    config.weights = ConfigDict({"rm": placeholder(str)})  # a file to start from
    return config
