"""Stage 1 at full size: SwinIR on ImageNet, with which DiffBIR trains its stage 2 (Lin et al., 2023).

512x512 crops, batches of 96, 150,000 steps at a learning rate of 1e-4, mean squared error, first-order degradation.
What the paper does not say is ours: gradient clipping, the EMA, one image of 1,000 held out.

python train.py --config configs/rm_swinir.py --workdir work/rm_swinir
python train.py --config configs/rm_swinir.py:tiny --workdir work/rm_tiny  # small, photos in work/photos/train
"""

from ml_collections import ConfigDict

from configs.common import tiny_config
from configs.degradations import first_order
from configs.source import check_variant, data_config, shrink


def get_config(variant: str = "") -> ConfigDict:
    """Return the configuration; `variant` is "" or "tiny"."""
    tiny = check_variant(variant)
    config = tiny_config("rm", crop=512, batch_size=96, steps=150_000, lr=1e-4)
    config.preset = "v1"
    config.loss = "mse"
    config.data = data_config("work/imagenet", first_order(), crop="center", batch_size=96)
    # A final_lr of 1 keeps the rate constant.
    config.train.update(final_lr=1.0, betas=(0.9, 0.999), eval_every=5000, checkpoint_every=5000)
    if tiny:
        config.preset = "tiny"
        shrink(config.data)
        config.train.update(steps=1000, lr=1e-3, final_lr=0.02, eval_every=100, checkpoint_every=100)
    return config
