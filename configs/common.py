"""What the tiny stages share: data, optimizer, mesh."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

MODES = ("area", "bilinear", "bicubic")


def enlarged_x4() -> dict:
    """Return the degradation that the shipped model's x4 teacher sees: the result stays small."""
    return {
        "kind": "first_order",
        "blur": {"size": 21, "sigma": (0.2, 2.5)},
        "downscale": {"factor": (4.0, 4.0), "modes": ("area", "bilinear", "bicubic")},
        "noise": {"sigma": (0.0, 18.0), "gray_probability": 0.2},
        "jpeg": {"quality": (35, 98)},
        "enlarge": False,
    }


def everyday(shares: tuple[float, ...] = (0.28, 0.24, 0.28, 0.1, 0.04, 0.06), noisy: float = 1.0) -> dict:
    """Return the degradations of people's photos: scale 1 to 4, and clean inputs, which are to stay as they are.

    Args:
        shares: of scale 1, about 2, 4, between 2.5 and 4, JPEG of high quality, and clean inputs.
        noisy: share of inputs with noise, of those that are degraded.
    """
    halos = ("maybe", {"steps": (("unsharp", {}),), "probability": 0.15})
    codec = (
        "one_of",
        {
            "steps": (("jpeg", {"quality": (25, 100)}), ("webp", {"quality": (25, 100)})),
            "probabilities": (0.85, 0.15),
        },
    )
    again = ("maybe", {"steps": (codec,), "probability": 0.15})

    def at(factor: tuple[float, float] | None, blur: tuple[float, float], sigma: float) -> tuple[str, dict]:
        """Blur, reduction, noise of up to `sigma` levels, halos and a codec."""
        # JPEG and WebP halve the resolution of colour. Without them colour noise has another look, as in scans and
        # in exports from raw files, which have their full size.
        once = ("maybe", {"steps": (codec,), "probability": 0.45 if factor is None else 0.9})
        kinds = (
            ("noise", {"sigma": (0.0, sigma), "gray_probability": 0.3}),
            ("poisson", {"scale": (0.05, sigma / 12), "gray_probability": 0.3}),
            ("sensor", {}),
            ("grain", {"sigma": (0.0, 0.7 * sigma)}),
        )
        kind = ("one_of", {"steps": kinds, "probabilities": (0.6, 0.15, 0.1, 0.15)})
        noise = kind if noisy == 1.0 else ("maybe", {"steps": (kind,), "probability": noisy})
        smaller = () if factor is None else (("downscale", {"factor": factor, "modes": MODES}),)
        soften = ("maybe", {"steps": (("blur", {"size": 21, "sigma": blur}),), "probability": 0.7})
        return "chain", {"steps": (soften, *smaller, noise, halos, once, again)}

    scales = (
        at(None, (0.2, 1.2), 30.0),
        at((1.5, 2.5), (0.2, 1.8), 25.0),
        at((4.0, 4.0), (0.2, 2.5), 20.0),
        at((2.5, 4.0), (0.2, 2.5), 20.0),
        ("chain", {"steps": (("jpeg", {"quality": (96, 100)}),)}),
        ("quantise", {}),
    )
    return {
        "kind": "compose",
        "enlarge": False,
        "steps": (("one_of", {"steps": scales, "probabilities": shares}),),
    }


def tiny_config(objective: str, *, crop: int, batch_size: int, steps: int, lr: float) -> ConfigDict:
    """Return the settings that every stage of the `tiny` preset starts from."""
    config = ConfigDict()
    config.preset = "tiny"
    config.objective = objective
    config.seed = 0
    config.init = placeholder(str)  # weights to start from, see docs/training.md
    config.mesh = ConfigDict({"data": -1, "fsdp": 1})
    # (parameter path regex, mesh axis per dimension): kernels are split over fsdp along their last axis.
    config.sharding_rules = ((r"kernel$", ("fsdp",)),)
    config.data = ConfigDict(
        {
            "folder": "work/photos/train",
            "held_out": "work/photos/held_out",
            "batch_size": batch_size,
            "validation_size": 32,
            "crop": {"size": crop, "scale": (0.2, 0.8)},
            "degradation": {
                "kind": "first_order",
                "blur": {"size": None, "sigma": (0.2, 2.0)},
                "downscale": {"factor": (4.0, 4.0), "modes": ("area", "bilinear", "bicubic")},
                "noise": {"sigma": (0.0, 15.0)},
                "jpeg": {"quality": (40, 95)},
                "enlarge": False,
            },
        }
    )
    config.train = ConfigDict(
        {
            "steps": steps,
            "lr": lr,
            "lr_steps": (),  # (step, peak from this step on), ...
            "final_lr": 0.02,
            "warmup": 100,
            "betas": (0.9, 0.99),
            "weight_decay": 0.0,
            "clip": 1.0,
            "accumulate": 1,  # parts of a batch that go through one after the other
            "ema_decay": 0.999,
            "log_every": 20,
            "eval_every": 500,
            "checkpoint_every": 500,
            "keep": 2,
            # Off unless given, see docs/running.md.
            "keep_best": placeholder(str),
            "diverged_above": placeholder(float),
            "profile": placeholder(tuple),
            "peak_tflops": placeholder(float),
            "wandb": placeholder(str),
        }
    )
    return config


def one_step_config(objective: str, *, crop: int, batch_size: int, steps: int, lr: float) -> ConfigDict:
    """Return the settings that every stage of the `one-step` preset starts from."""
    config = tiny_config(objective, crop=crop, batch_size=batch_size, steps=steps, lr=lr)
    config.preset = "one-step"
    config.data.crop = ConfigDict({"size": crop, "scale": (0.3, 1.0), "gray": 0.04})
    del config.data.degradation
    config.data.degradation = ConfigDict(everyday())
    return config
