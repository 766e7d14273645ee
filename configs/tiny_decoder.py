"""Autoencoder of the shipped `tiny` preset, second half: its decoder with perceptual and patch-adversarial losses.

python train.py --config configs/tiny_decoder.py --workdir work/decoder
"""

from ml_collections import ConfigDict

from configs.common import tiny_config


def get_config() -> ConfigDict:
    """Return the configuration."""
    config = tiny_config("decoder", crop=64, batch_size=8, steps=1700, lr=3e-4)
    config.data.degradation = None
    config.weights = ConfigDict(
        {"vae": "work/vae/export/vae.safetensors", "perceptual": "work/mobilenet_v2.safetensors"}
    )
    config.discriminator = ConfigDict({"ch": 32, "layers": 3})
    config.latent_noise = 0.03
    config.loss = ConfigDict(
        {
            "l1": 1.0,
            "gradient": 0.5,
            "spectral": 0.05,
            "texture": 0.02,
            "perceptual": 0.06,
            "adversarial": 0.3,
            "discriminator": 1.0,
        }
    )
    return config
