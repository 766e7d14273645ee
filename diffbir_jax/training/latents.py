"""A pool of encoded crops: stage 2 of a small model costs less than the encoders that feed it, so they run once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from diffbir_jax.checkpoint import load_weights
from diffbir_jax.data.photos import PairBatches
from diffbir_jax.models.apply import abstract, apply
from diffbir_jax.models.presets import get_preset
from diffbir_jax.training.sources import photo_batches, to_signed, to_unit
from diffbir_jax.training.state import Config


@dataclass(frozen=True)
class LatentBatches:
    """Random batches of a pool of (z0, condition) pairs, a pure function of the step.

    Attributes:
        z0: (N, h, w, C) float16, scaled latents of the clean crops.
        condition: (N, h, w, C) float16, scaled latents of the stage-1 images.
        batch_size: pairs in a batch.
        seed: of the sequence.
    """

    z0: np.ndarray
    condition: np.ndarray
    batch_size: int
    seed: int

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """Return the batch of `step`: `z0` and `condition`, float32."""
        rng = np.random.default_rng((self.seed, step))
        chosen = np.sort(rng.choice(len(self.z0), self.batch_size, replace=False))
        return {
            "z0": self.z0[chosen].astype(np.float32),
            "condition": self.condition[chosen].astype(np.float32),
        }


def latent_batches(config: Config) -> tuple[LatentBatches, LatentBatches]:
    """Encode training and held-out crops, or read them from the cache.

    Args:
        config: `data` as for `photo_batches`, with `pool` (training pairs) and `cache` (a .npz file);
            `weights.vae` and `weights.rm` are the trained files.

    Raises:
        ValueError: if the cache was made with another pool size, crop or seed.
    """
    data, path = config.data, Path(config.data.cache)
    wanted = f"pool={data.pool} crop={data.crop.size} seed={config.seed}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, allow_pickle=False, made_for=np.array(wanted), **_encode_all(config))
    pool = np.load(path)
    if str(pool["made_for"]) != wanted:
        raise ValueError(
            f"{path} was made for {pool['made_for']}, the config wants {wanted}: delete it or change config.data."
        )
    train = LatentBatches(pool["train_z0"], pool["train_condition"], data.batch_size, config.seed)
    held_out = LatentBatches(pool["val_z0"], pool["val_condition"], len(pool["val_z0"]), config.seed)
    return train, held_out


def _encode_all(config: Config) -> dict[str, np.ndarray]:
    train, held_out = photo_batches(config)
    encode = _encoder(config)
    pairs = _encode(train, encode, config.data.pool // config.data.batch_size, "encoding training crops")
    val = _encode(held_out, encode, 1, "encoding held-out crops")
    return {f"train_{k}": v for k, v in pairs.items()} | {f"val_{k}": v for k, v in val.items()}


def _encoder(config: Config) -> Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]:
    preset, size = get_preset(config.preset), config.data.crop.size
    rm, vae = preset.make_rm(), preset.make_vae()
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    rm_params = load_weights(config.weights.rm, abstract(rm, image))
    vae_params = load_weights(config.weights.vae, abstract(vae, image))

    @jax.jit
    def encode(rm_params: dict, vae_params: dict, batch: dict) -> dict[str, jax.Array]:
        clean = jnp.clip(apply(rm, rm_params, to_unit(batch["lq"])), 0.0, 1.0)
        images = {"z0": to_signed(batch["hq"]), "condition": 2.0 * clean - 1.0}
        means = {k: apply(vae, vae_params, v, method="encode")[0] for k, v in images.items()}
        return {k: (preset.vae.scale_factor * v).astype(jnp.float16) for k, v in means.items()}

    return lambda batch: encode(rm_params, vae_params, batch)


def _encode(batches: PairBatches, encode: Callable, count: int, title: str) -> dict[str, np.ndarray]:
    parts = [jax.device_get(encode(batches(i))) for i in tqdm(range(count), title, unit="batch")]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
