"""LoRAs of the UNet and of IRControlNet on your own photos: what `diffbir finetune` trains.

The variant is the version: tiny, one-step, v1, v2 or v2.1. Each has the degradation that it was trained for; v2 takes
v1's SwinIR as stage 1, as in its own training. one-step needs the weights of LPIPS (docs/evaluation.md). v1, v2 and
v2.1 need the published weights (docs/published.md) in `weights`; they have not been run at full size yet.

diffbir finetune --photos photos --version tiny -o work/mine
python train.py --config configs/finetune.py:v2 --photos photos --workdir work/mine
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.degradations import first_order, second_order
from configs.source import data_config
from configs.stage2 import stage2_config
from configs.tiny_control import get_config as tiny_control
from configs.tiny_one_step import get_config as tiny_one_step

VERSIONS = ("tiny", "one-step", "v1", "v2", "v2.1")


def get_config(version: str = "tiny") -> ConfigDict:
    """Return the configuration for a version."""
    if version not in VERSIONS:
        raise ValueError(f"no version {version!r} to fine-tune; give one of {', '.join(VERSIONS)}")
    config = _one_step() if version == "one-step" else _sampled(version)
    config.lora = ConfigDict({"rank": 16})
    config.train.update(warmup=20, final_lr=0.1, ema_decay=0.99, eval_every=100, checkpoint_every=100)
    return config


def _data(degradation: ConfigDict, *, size: int, scale: tuple[float, float], batch_size: int) -> ConfigDict:
    """Return settings of a folder of few photos, which stay decoded."""
    data = data_config("", degradation, crop="scaled", batch_size=batch_size)
    data.source = ConfigDict({"kind": "folder", "path": "work/photos/train"})
    data.crop = ConfigDict({"kind": "scaled", "size": size, "scale": scale})
    data.update(flip=True, rotate=True, held_out_every=16, validation_size=8 + batch_size)
    data.update(workers=0, keep_decoded=1024)
    return data


def _sampled(version: str) -> ConfigDict:
    """Return the configuration of a version that samples: the loss of its stage 2."""
    if version == "tiny":
        return _tiny()
    degradation = second_order() if version == "v2.1" else first_order()
    # One image at a time, for the memory.
    data = _data(degradation, size=512, scale=(0.3, 1.0), batch_size=1)
    config = stage2_config(version, data, steps=500, lr=1e-4)
    config.objective = "finetune"
    config.data.pool, config.sampling.images = 1024, 4
    config.weights.rm = "swinir_general" if version == "v2" else config.weights.rm
    config.diffusion.noise_aug = 200 if version == "v2.1" else 0
    return config


def _tiny() -> ConfigDict:
    """Return the configuration of the small networks: crops, loss and optimizer of their own training."""
    own = tiny_control()
    data = _data(own.data.degradation, size=128, scale=(0.2, 0.8), batch_size=8)
    config = stage2_config("tiny", data, steps=500, lr=1e-3)
    config.objective = "finetune"
    config.precision, config.remat = "fp32", False
    config.weights.folder = None
    config.data.pool, config.sampling.images = 1024, 4
    config.diffusion.focus = own.diffusion.focus
    config.train.update(weight_decay=0.0, betas=own.train.betas)
    return config


def _one_step() -> ConfigDict:
    """Return the configuration of the one-step generator: its losses, but those that need a teacher or a critic."""
    config = tiny_one_step()
    config.objective = "finetune_one_step"
    config.data = _data(config.data.degradation, size=96, scale=(0.3, 1.0), batch_size=8)
    config.weights = ConfigDict({"folder": placeholder(str), "lpips": "work/metrics/lpips_alex.safetensors"})
    kept = ("l1", "gradient", "lpips", "fidelity", "grid")
    config.loss = ConfigDict({name: config.loss[name] for name in kept})
    config.train.update(steps=500, lr=5e-4)
    return config
