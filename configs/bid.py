"""Stage 2 of DiffBIR v1 for blind denoising: photos as for stage 1, with noise of many kinds.

512x512 centre crops in batches of 192, 25,000 steps at a learning rate of 1e-4; Gaussian, Poisson and sensor noise and
JPEG (after SCUNet); no captions. Needs the published weights of v1 but for the control (docs/published.md) in
`weights`; `--config.weights.rm=work/rm_swinir/export/rm.safetensors` takes a stage 1 of one's own.

python train.py --config configs/bid.py --workdir work/bid
python train.py --config configs/bid.py:tiny --workdir work/bid_tiny    # shipped networks, photos in work/photos/train
"""

from ml_collections import ConfigDict

from configs.degradations import denoise
from configs.source import check_variant, data_config
from configs.stage2 import shrink_stage2, stage2_config


def get_config(variant: str = "") -> ConfigDict:
    """Return the configuration; `variant` is "" or "tiny"."""
    data = data_config("work/imagenet", denoise(), crop="center", batch_size=192)
    config = stage2_config("v1", data, steps=25_000, lr=1e-4)
    if check_variant(variant):
        shrink_stage2(config)
    return config
