"""What the configurations of stage 2 share."""

from ml_collections import ConfigDict, FieldReference

from configs.common import tiny_config
from configs.source import shrink


def stage2_config(preset: str, data: ConfigDict, *, steps: int, lr: float) -> ConfigDict:
    """Return the configuration at full size: the reference's AdamW at a constant rate, bfloat16 with float32 weights.

    Clipping and EMA are ours, as the papers mention neither.

    Args:
        preset: of the networks.
        data: `config.data`, see `data_config`.
        steps: optimizer steps.
        lr: learning rate; `config.train.lr_steps` changes it on the way.
    """
    config = tiny_config("regeneration", crop=512, batch_size=data.batch_size, steps=steps, lr=lr)
    config.preset = preset
    config.data = data
    # A file of encoded crops to train on instead of encoding in every step, and how many it has (docs/training.md).
    config.data.update(cache=_optional(str), pool=65_536)
    config.precision = "bf16"
    config.remat = True
    config.model = ConfigDict({"stage1": True, "control": {"condition": "vae", "init": "unet"}})
    config.diffusion = ConfigDict({"focus": _optional(tuple), "min_snr": _optional(float), "noise_aug": 0})
    # Held-out images that each validation restores, and how: None is the preset's operating point.
    sampling = {"steps": int, "guidance_scale": float, "cfg_scale": float}
    config.sampling = ConfigDict({"images": 8} | {name: _optional(kind) for name, kind in sampling.items()})
    # The preset's files in `folder` (docs/published.md), but for those that have a path of their own.
    networks = {name: _optional(str) for name in ("rm", "vae", "unet", "text")}
    config.weights = ConfigDict({"folder": _optional(str, "weights")} | networks)
    config.train.update(final_lr=1.0, warmup=0, betas=(0.9, 0.999), weight_decay=0.01)
    config.train.update(ema_decay=0.9999, eval_every=1000, checkpoint_every=1000)
    return config


def shrink_stage2(config: ConfigDict) -> None:
    """Make the configuration train in minutes on a CPU, in place: the shipped small networks, 200 steps."""
    shrink(config.data)
    config.data.pool = 1024
    config.preset = "tiny"
    config.precision = "fp32"
    config.remat = False
    config.weights.update(folder=None, rm=None)
    config.train.update(steps=200, lr=1e-3, lr_steps=(), final_lr=0.02, warmup=20, ema_decay=0.99)
    config.train.update(eval_every=50, checkpoint_every=100)


def _optional(kind: type, value: object = None) -> FieldReference:
    """A setting that may be None and is of a kind otherwise, which flags need to know."""
    return FieldReference(value, field_type=kind)
