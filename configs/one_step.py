"""One step at full size: UNet, IRControlNet and decoder of v2.1 as a generator, after HYPIR (Lin et al., 2025).

Timestep 200 and the weight of LPIPS are HYPIR's. HYPIR trains a low-rank adapter of the prior, with a ConvNeXt
discriminator; this trains all of the prior, the control and the decoder, with a patch discriminator. It needs the
published weights of v2.1 (docs/published.md) in `weights`, and those of LPIPS (docs/one_step.md) in `work`. It has not
been run at full size yet.

python train.py --config configs/one_step.py --workdir work/one_step_full
"""

from ml_collections import ConfigDict

from configs.degradations import second_order
from configs.source import data_config
from configs.tiny_one_step import get_config as tiny_one_step


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = tiny_one_step()
    config.preset = "v2.1"
    config.data = data_config("work/unsplash", second_order(), crop="none", batch_size=64)
    config.timestep, config.noise, config.start_point = 199, 0.0, "cond"
    config.precision, config.remat = "bf16", True
    config.mesh.fsdp = 8
    names = {"rm": "swinir_realesrgan", "vae": "vae_zsnr", "unet": "unet_zsnr", "control": "control_v2.1"}
    for name, stem in (names | {"text": "text_zsnr"}).items():
        config.weights[name] = f"weights/{stem}.safetensors"
    config.loss = ConfigDict(
        {"l1": 1.0, "perceptual": 0.0, "lpips": 5.0, "adversarial": 0.5, "discriminator": 1.0}
    )
    config.discriminator.ch = 64
    config.train.update(steps=30_000, lr=1e-5, final_lr=1.0, warmup=0, betas=(0.9, 0.999), weight_decay=0.01)
    return config
