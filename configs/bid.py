"""Data of blind denoising, stage 2 of DiffBIR: photos as for stage 1, with noise of many kinds.

512x512 centre crops in batches of 192, as stage 2 of v1 has them; Gaussian, Poisson and sensor noise and JPEG (after
SCUNet). `configs/bid.py:tiny` takes small crops of the photos in work/photos.
"""

from ml_collections import ConfigDict

from configs.degradations import denoise
from configs.source import check_variant, data_config, shrink


def get_config(variant: str = "") -> ConfigDict:
    """Return the configuration; `variant` is "" or "tiny"."""
    config = ConfigDict({"preset": "v1", "seed": 0})
    config.data = data_config("work/imagenet", denoise(), crop="center", batch_size=192)
    if check_variant(variant):
        shrink(config.data)
    return config
