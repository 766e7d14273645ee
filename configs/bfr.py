"""Stage 2 of DiffBIR v2 for blind face restoration: FFHQ, aligned faces stored at 512x512.

Batches of 256, 30,000 steps at a learning rate of 1e-4, then 50,000 at 1e-5; first-order degradation (CodeFormer),
which was made for faces; no captions. Needs the published weights of v2 but for the control (docs/published.md) in
`weights`, and v1's SwinIR, as v2 is trained with it and takes other restoration modules only later.

python train.py --config configs/bfr.py --workdir work/bfr
python train.py --config configs/bfr.py:tiny --workdir work/bfr_tiny    # shipped networks, photos in work/photos/train
"""

from ml_collections import ConfigDict

from configs.degradations import first_order
from configs.source import check_variant, data_config
from configs.stage2 import shrink_stage2, stage2_config


def get_config(variant: str = "") -> ConfigDict:
    """Return the configuration; `variant` is "" or "tiny"."""
    data = data_config("work/ffhq", first_order(), crop="none", batch_size=256)
    config = stage2_config("v2", data, steps=80_000, lr=1e-4)
    config.train.lr_steps = ((30_000, 1e-5),)
    config.weights.rm = "weights/swinir_general.safetensors"
    if check_variant(variant):
        shrink_stage2(config)
    return config
