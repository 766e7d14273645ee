"""Data of blind face restoration, stage 2 of DiffBIR: FFHQ, aligned faces stored at 512x512.

Batches of 256; first-order degradation (CodeFormer), which was made for faces. `configs/bfr.py:tiny` takes small crops
of the photos in work/photos.
"""

from ml_collections import ConfigDict

from configs.degradations import first_order
from configs.source import check_variant, data_config, shrink


def get_config(variant: str = "") -> ConfigDict:
    """Return the configuration; `variant` is "" or "tiny"."""
    config = ConfigDict({"preset": "v1", "seed": 0})
    config.data = data_config("work/ffhq", first_order(), crop="none", batch_size=256)
    if check_variant(variant):
        shrink(config.data)
    return config
