"""What the tiny stages share: data, optimizer, mesh."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def tiny_config(objective: str, *, crop: int, batch_size: int, steps: int, lr: float) -> ConfigDict:
    """Return the settings that every stage of the `tiny` preset starts from."""
    config = ConfigDict()
    config.preset = "tiny"
    config.objective = objective
    config.seed = 0
    config.mesh = ConfigDict({"data": -1, "fsdp": 1})
    # (parameter path regex, mesh axis per dimension): kernels are split over fsdp along their last axis.
    config.sharding_rules = ((r"kernel$", ("fsdp",)),)
    config.data = ConfigDict(
        {
            "folder": "work/photos",
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
