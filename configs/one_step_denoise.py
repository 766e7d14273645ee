"""Stage 1 of `one-step` for photos at their own size (`--task denoise`): removes noise of every pixel, too.

python train.py --config configs/one_step_denoise.py --workdir work/denoise/rm
"""

from ml_collections import ConfigDict

from configs.common import everyday
from configs.one_step_rm import get_config as stage1

SHARES = (0.34, 0.24, 0.24, 0.06, 0.04, 0.08)


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = stage1()
    config.task = "denoise"
    config.data.crop.size = 96
    del config.data.degradation
    config.data.degradation = ConfigDict(everyday(SHARES, noisy=0.7))
    return config
