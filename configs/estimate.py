"""The network that reads from a photo how it was degraded, for `diffbir inspect` and `restore --auto`.

diffbir train --config configs/estimate.py --workdir work/estimate
"""

from ml_collections import ConfigDict

from configs.common import MODES, one_step_config


def degradation() -> dict:
    """Return what the network learns to read: one blur, one reduction, noise and JPEG, and clean photos.

    Most photos that were reduced are enlarged again before noise and JPEG, as far as a file shows; some after them.
    """
    blur = ("maybe", {"steps": (("blur", {"size": 21, "sigma": (0.2, 2.5)}),), "probability": 0.7})
    smaller = ("downscale", {"factor": (1.0, 4.0), "modes": MODES})
    back = (
        "resize",
        {
            "scale": (1.0, 1.0),
            "probabilities": (0.0, 0.0, 1.0),
            "of_target": True,
            "modes": ("bilinear", "bicubic"),
        },
    )
    noise = (
        "maybe",
        {"steps": (("noise", {"sigma": (0.0, 30.0), "gray_probability": 0.3}),), "probability": 0.7},
    )
    jpeg = ("maybe", {"steps": (("jpeg", {"quality": (25, 100)}),), "probability": 0.75})
    kinds = (
        ("chain", {"steps": (blur, noise, jpeg)}),
        ("chain", {"steps": (blur, smaller, back, noise, jpeg)}),
        ("chain", {"steps": (blur, smaller, noise, jpeg, back)}),
        ("quantise", {}),
    )
    steps = (("one_of", {"steps": kinds, "probabilities": (0.45, 0.35, 0.12, 0.08)}),)
    return {"kind": "compose", "enlarge": False, "steps": steps}


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = one_step_config("estimate", crop=128, batch_size=256, steps=6000, lr=2e-3)
    del config.data.degradation
    config.data.degradation = ConfigDict(degradation())
    # Reduced photos are sharp: the blur that a photo has by itself would make its label wrong.
    config.data.crop = ConfigDict({"size": 128, "scale": (0.3, 0.6), "gray": 0.03})
    config.data.update({"pool": 16_384, "cache": "work/estimate/features.npz", "validation_size": 2000})
    config.widths = (256, 128, 64)
    config.feature_noise, config.dropped = 0.1, 0.1
    config.train.weight_decay, config.train.ema_decay = 0.03, 0.998
    config.train.eval_every = config.train.checkpoint_every = 1000
    return config
