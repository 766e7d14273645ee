"""OSEDiff as published (Wu et al., 2024): LoRAs of Stable Diffusion 2.1 and of its encoder, with score distillation.

Timestep 999, rank 4 with alpha 8, the first convolution trained as a whole, 1 MSE + 2 LPIPS (VGG16) + 1 VSD at guidance
7.5, a regulariser with a LoRA of the same rank, AdamW at 5e-5, clipping at 1, batches of 16, no EMA. Prompts are the
captions of your data, where the paper has tags of a tagger. It needs the weights of Stable Diffusion 2.1 base
(docs/published.md) in `weights`, and those of LPIPS (docs/evaluation.md) in `work`. It has not been run at full size.

python train.py --config configs/osediff.py --workdir work/osediff
"""

from ml_collections import ConfigDict

from configs.recipes import recipe

NEGATIVE = (
    "painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, 3D render, unreal engine, "
    "blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, deformed, "
    "lowres, over-smooth"
)


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = recipe("osediff", rank=4, alpha=8.0, captions={"p_long": 0.0, "p_empty": 0.0})
    config.data.update(batch_size=16, flip=True)
    config.lora.update(conv_in=True, encoder=True)
    config.loss = ConfigDict({"mse": 1.0, "lpips": 2.0, "vsd": 1.0, "regulariser": 1.0})
    config.distillation = ConfigDict({"cfg_scale": 7.5, "negative_prompt": NEGATIVE})
    config.train.update(steps=100_000, lr=5e-5, ema_decay=0.0)
    return config
