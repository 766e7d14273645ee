"""Fine-tuning of the one-step generator: LoRAs of the UNet and of IRControlNet by losses on restored images.

The losses and the validation are those of `one_step.py`, without teacher and discriminator; the decoder stays frozen.
"""

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from diffbir_jax.models.lora import DEFAULT_ALPHA
from diffbir_jax.models.presets import get_preset
from diffbir_jax.training import finetune
from diffbir_jax.training.config import Config, optional
from diffbir_jax.training.lora_start import new_lora
from diffbir_jax.training.lpips import load_lpips
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.one_step import losses, make_networks, restorer, validation
from diffbir_jax.training.sources import training_batches
from diffbir_jax.training.taught import Untaught
from diffbir_jax.weights.loading import PRECISIONS, abstract_params, announce, stored, weight_files
from diffbir_jax.weights.safetensors import load_weights

# Losses that need another network or data.
OTHERS = ("adversarial", "perceptual", "teacher_l1", "teacher_gradient")


def make(config: Config) -> Objective:
    """Build the objective; batches hold `hq` and `lq` (B, H, W, 3) uint8.

    Args:
        config: `lora.rank`; `timestep`, `noise`, `start_point`, `loss`, `precision` and `remat` as in `one_step.make`;
            `weights.folder` of the preset's files (None: those that the package ships) and `weights.lpips`.

    Raises:
        FileNotFoundError: weights are missing.
        ValueError: a setting is not allowed.
    """
    preset, rank = get_preset(config.preset), int(config.lora.rank)
    _check(config)
    dtype = PRECISIONS[optional(config, "precision")]
    files, likes = weight_files(preset, config.weights.folder), abstract_params(preset)
    announce(preset, config.weights.folder, files)
    frozen = stored({name: load_weights(path, likes[name]) for name, path in files.items()}, dtype)
    frozen["lpips"] = load_lpips(config.weights.lpips, net="alex")
    loras = {name: new_lora(likes[name], rank, config.seed) for name in finetune.TUNED}
    train, held_out = training_batches(config)
    networks = make_networks(preset, dtype, optional(config, "remat"))
    restore = restorer(config, preset, networks, DEFAULT_ALPHA / rank)
    unused = PatchDiscriminator(DiscriminatorConfig())
    return Objective(
        {"lora": loras},
        frozen,
        losses(config.loss.to_dict(), restore, unused),
        Untaught(train),
        validation(restore, held_out(0)),
        finetune.exported,
        finetune.header(preset),
    )


def _check(config: Config) -> None:
    """Refuse settings that this stage has no use for."""
    if config.lora.rank < 1:
        raise UserError(f"config.lora.rank is {config.lora.rank}, must be at least 1")
    if given := [name for name in OTHERS if config.loss.get(name)]:
        raise UserError(
            f"config.loss.{given[0]} is {config.loss[given[0]]}, must be 0: fine-tuning has no such loss"
        )
    if not config.weights.lpips:
        raise UserError(
            "config.weights.lpips is None: one-step is fine-tuned by LPIPS, give its weights, --lpips FILE"
        )
