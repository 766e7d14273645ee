"""Data of blind super-resolution, stage 2 of DiffBIR v2.1: filtered Unsplash photos with captions.

Batches of 512 (at a learning rate of 1e-5); images stored at 512x512; second-order degradation (Real-ESRGAN); of the
prompts 20 % are long, 20 % empty, the others short. `configs/bsr.py:tiny` takes small crops of the photos in
work/photos, without captions.
"""

from ml_collections import ConfigDict

from configs.degradations import second_order
from configs.source import check_variant, data_config, shrink


def get_config(variant: str = "") -> ConfigDict:
    """Return the configuration; `variant` is "" or "tiny"."""
    config = ConfigDict({"preset": "v2.1", "seed": 0})
    config.data = data_config(
        "work/unsplash", second_order(), crop="none", batch_size=512, captions={"p_long": 0.2, "p_empty": 0.2}
    )
    if check_variant(variant):
        shrink(config.data)
    return config
