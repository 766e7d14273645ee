"""Stage 2 of the shipped `one-step` preset: UNet, IRControlNet and decoder as a generator in one step.

python train.py --config configs/tiny_one_step.py --workdir work/one_step
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.common import everyday, one_step_config


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = one_step_config("one_step", crop=96, batch_size=8, steps=20_000, lr=5e-4)
    # At scale 1 stage 1 alone is the default: more of what stage 2 is for.
    del config.data.degradation
    config.data.degradation = ConfigDict(everyday((0.1, 0.3, 0.4, 0.15, 0.02, 0.03)))
    config.data.teacher = "work/teacher"
    config.data.taught = 0.6  # share of a batch that the teacher restored
    config.timestep = 399
    config.start_point = "input"  # the network sees what stage 1 may have smoothed away
    config.noise = 0.1  # of that timestep's noise, so that results differ from seed to seed
    config.weights = ConfigDict(
        {
            "rm": "work/rm/export/rm.safetensors",
            "vae": "work/vae/start.safetensors",
            "unet": placeholder(str),
            "control": placeholder(str),
            "perceptual": "work/mobilenet_v2.safetensors",
            "lpips": "work/metrics/lpips_alex.safetensors",
        }
    )
    config.discriminator = ConfigDict({"ch": 32, "layers": 3})
    config.loss = ConfigDict(
        {
            "l1": 0.3,
            "gradient": 0.2,
            "texture": 0.0,
            "teacher_l1": 1.0,
            "teacher_gradient": 0.7,
            "perceptual": 0.3,
            "lpips": 0.5,
            "fidelity": 0.5,
            "grid": 0.3,
            "adversarial": 0.0,
            "discriminator": 1.0,
        }
    )
    return config
