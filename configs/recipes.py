"""What the recipes of published one-step restorers share: HYPIR and OSEDiff."""

from ml_collections import ConfigDict

from configs.common import tiny_config
from configs.degradations import second_order
from configs.source import data_config


def recipe(version: str, *, rank: int, alpha: float, captions: dict[str, float]) -> ConfigDict:
    """Return the configuration at full size: random crops of 512 pixels, second-order degradation, AdamW, bfloat16.

    Args:
        version: hypir, osediff or osediff-face.
        rank: of the LoRAs.
        alpha: as PEFT's: the LoRAs are scaled by alpha / rank.
        captions: shares of prompts.
    """
    config = tiny_config("one_step_lora", crop=512, batch_size=1, steps=1, lr=1e-5)
    config.preset = version
    config.data = data_config("work/photos", second_order(), crop="random", batch_size=16, captions=captions)
    config.lora = ConfigDict({"rank": rank, "alpha": alpha, "conv_in": False, "encoder": False})
    config.precision, config.remat = "bf16", True
    config.weights = ConfigDict({name: f"weights/{name}.safetensors" for name in ("unet", "vae", "text")})
    config.weights.lpips = "work/metrics/lpips_vgg.safetensors"
    config.train.update(final_lr=1.0, warmup=0, betas=(0.9, 0.999), weight_decay=0.01, clip=1.0)
    config.train.update(eval_every=1000, checkpoint_every=1000)
    return config
