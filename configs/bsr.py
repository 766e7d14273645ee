"""Stage 2 of DiffBIR v2.1 for blind super-resolution: filtered Unsplash photos with captions.

Batches of 512 at a learning rate of 1e-5, v prediction with zero terminal SNR, conditions noised to timesteps below
200; images stored at 512x512; second-order degradation (Real-ESRGAN); of the prompts 20 % are long, 20 % empty, the
others short. The number of steps is ours: the one that v2 takes at this rate. Needs the published weights of v2.1 but
for the control (docs/published.md) in `weights`.

python train.py --config configs/bsr.py --workdir work/bsr
python train.py --config configs/bsr.py:tiny --workdir work/bsr_tiny    # shipped networks, photos in work/photos/train
"""

from ml_collections import ConfigDict

from configs.degradations import second_order
from configs.source import check_variant, data_config
from configs.stage2 import shrink_stage2, stage2_config


def get_config(variant: str = "") -> ConfigDict:
    """Return the configuration; `variant` is "" or "tiny"."""
    data = data_config(
        "work/unsplash", second_order(), crop="none", batch_size=512, captions={"p_long": 0.2, "p_empty": 0.2}
    )
    config = stage2_config("v2.1", data, steps=50_000, lr=1e-5)
    config.diffusion.noise_aug = 200
    if check_variant(variant):
        shrink_stage2(config)
    return config
