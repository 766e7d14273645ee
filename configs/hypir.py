"""HYPIR as published (Lin et al., 2025): a LoRA of Stable Diffusion 2.1 and a discriminator on features.

Timestep 200, rank 256 with alpha 256, 1 MSE + 5 LPIPS (VGG16) + 0.5 GAN with the label 0.8, AdamW at 1e-5, clipping at
1, EMA 0.999, batches of 6 for each device, of the generator and of the discriminator. The published weights come from
batches of 1024. Two things differ: the data are yours, and the discriminator judges features of VGG16. For those of
CLIP's ConvNeXt-XXLarge, as published, convert that file and give --config.critic.features=convnext and
--config.weights.critic=weights/convnext.safetensors (docs/published_one_step.md).

It needs the weights of Stable Diffusion 2.1 base (docs/published.md) in `weights`, and those of LPIPS
(docs/evaluation.md) in `work`. It has not been run at full size.

python train.py --config configs/hypir.py --workdir work/hypir
"""

from ml_collections import ConfigDict

from configs.recipes import recipe


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = recipe("hypir", rank=256, alpha=256.0, captions={"p_long": 1.0, "p_empty": 0.0})
    # Half of a batch is the generator's, the other half the discriminator's: 6 each on eight devices.
    config.data.batch_size = 96
    config.loss = ConfigDict({"mse": 1.0, "lpips": 5.0, "gan": 0.5})
    config.critic = ConfigDict({"features": "vgg", "width": 512})
    config.weights.critic = config.weights.lpips
    config.train.update(steps=30_000, lr=1e-5, ema_decay=0.999)
    return config
