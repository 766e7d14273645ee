"""Stage 1 of the shipped `one-step` preset: removes everyday degradations, scale 1 to 4.

python train.py --config configs/one_step_rm.py --workdir work/rm
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.common import everyday, one_step_config

# Of scale 1, about 2, 4, between 2.5 and 4, JPEG of high quality, and clean inputs.
SHARES = (0.27, 0.27, 0.25, 0.1, 0.04, 0.07)


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = one_step_config("rm", crop=96, batch_size=8, steps=6500, lr=7e-4)
    del config.data.degradation
    # Many photos of their own size have blocks of JPEG, but no noise.
    config.data.degradation = ConfigDict(everyday(SHARES, noisy=0.7))
    config.loss = "log_mse"
    config.floor = 2e-4  # 37 dB: of clean inputs, small errors weigh no more than large ones of others
    config.weights = ConfigDict({"rm": placeholder(str)})  # a file to start from
    return config
