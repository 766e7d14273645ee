"""A pool of encoded crops: stage 2 of a small model costs less than the encoders that feed it, so they run once."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from diffbir_jax.checkpoint import checksum, load_weights
from diffbir_jax.data.batches import Batches
from diffbir_jax.models.apply import abstract, apply
from diffbir_jax.models.presets import get_preset
from diffbir_jax.training.sources import to_signed, to_unit, training_batches
from diffbir_jax.training.state import Config


@dataclass(frozen=True)
class LatentBatches(Batches):
    """Random batches of a pool of latents, a pure function of the step.

    Attributes:
        pool: (N, h, w, C) float16 scaled latents by name: `z0` of the clean crops and, for stage 2, `condition` of the
            stage-1 images.
        batch_size: crops in a batch.
        seed: of the sequence.
    """

    pool: dict[str, np.ndarray]
    batch_size: int
    seed: int

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """Return the batch of `step`, float32."""
        rng = np.random.default_rng((self.seed, step))
        chosen = np.sort(rng.choice(len(self.pool["z0"]), self.batch_size, replace=False))
        return {name: latents[chosen].astype(np.float32) for name, latents in self.pool.items()}


def latent_batches(config: Config) -> tuple[LatentBatches, LatentBatches]:
    """Encode training and held-out crops, or read them from the cache.

    Args:
        config: `data` as for `training_batches`, with `pool` (training crops) and `cache` (a .npz file); `weights.vae`
            and, if there shall be conditions (which need a degradation), `weights.rm`.

    Raises:
        ValueError: if the cache was made with other settings or weights, or the pool is smaller than a batch.
    """
    data, path = config.data, Path(config.data.cache).expanduser()
    if data.pool < data.batch_size:
        raise ValueError(
            f"config.data.pool is {data.pool}, must be at least the batch size {data.batch_size}."
        )
    wanted = _origin(config)
    if not path.exists():
        _write(path, {"made_for": np.array(wanted)} | _encode_all(config))
    stored = dict(np.load(path))
    made_for = str(stored.pop("made_for"))
    if made_for != wanted:
        raise ValueError(
            f"{path} was made for ({made_for}), this run needs ({wanted}): delete it or change config.data.cache."
        )
    train = {k.removeprefix("train_"): v for k, v in stored.items() if k.startswith("train_")}
    held_out = {k.removeprefix("val_"): v for k, v in stored.items() if k.startswith("val_")}
    return (
        LatentBatches(train, data.batch_size, config.seed),
        LatentBatches(held_out, len(held_out["z0"]), config.seed),
    )


def _origin(config: Config) -> str:
    """What the pool was made from; checksums, as weights trained anew keep their path."""
    data = {k: v for k, v in config.data.to_dict().items() if k not in ("batch_size", "cache")}
    origin = {"preset": config.preset, "seed": config.seed, "data": f"{zlib.crc32(str(data).encode()):08x}"}
    networks = (name for name in ("rm", "vae") if name in config.weights)
    origin |= {name: checksum(config.weights[name]) for name in networks}
    return " ".join(f"{key}={value}" for key, value in origin.items())


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.replace(path)


def _encode_all(config: Config) -> dict[str, np.ndarray]:
    train, held_out = training_batches(config)
    encode = _encoder(config)
    crops = _encode(train, encode, config.data.pool // config.data.batch_size, "encoding training crops")
    val = _encode(held_out, encode, 1, "encoding held-out crops")
    return {f"train_{k}": v for k, v in crops.items()} | {f"val_{k}": v for k, v in val.items()}


def _encoder(config: Config) -> Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]:
    preset, size = get_preset(config.preset), config.data.crop.size
    rm, vae = preset.make_rm(), preset.make_vae()
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    params = {"vae": load_weights(config.weights.vae, abstract(vae, image))}
    if "rm" in config.weights:
        params["rm"] = load_weights(config.weights.rm, abstract(rm, image))

    @jax.jit
    def encode(params: dict, batch: dict) -> dict[str, jax.Array]:
        images = {"z0": to_signed(batch["hq"])}
        if "rm" in params:
            images["condition"] = (
                2.0 * jnp.clip(apply(rm, params["rm"], to_unit(batch["lq"])), 0.0, 1.0) - 1.0
            )
        means = {k: apply(vae, params["vae"], v, method="encode")[0] for k, v in images.items()}
        return {k: (preset.vae.scale_factor * v).astype(jnp.float16) for k, v in means.items()}

    return lambda batch: encode(params, batch)


def _encode(batches: Batches, encode: Callable, count: int, title: str) -> dict[str, np.ndarray]:
    parts = [jax.device_get(encode(batches(i))) for i in tqdm(range(count), title, unit="batch")]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
