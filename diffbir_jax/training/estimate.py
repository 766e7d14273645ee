"""The degradation estimate: the network learns blur, noise, JPEG quality and scale from the recorded draws.

Laplace's likelihood: the network also tells how far off it expects to be, and learns little from what cannot be told.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.section import Section
from diffbir_jax.data.degradation import make_degradation
from diffbir_jax.data.labelled import LabelledBatches
from diffbir_jax.data.photos import CropConfig, load_photos
from diffbir_jax.models.apply import Params, apply, init
from diffbir_jax.models.degradation import (
    LEAST,
    MOST,
    QUANTITIES,
    UNITS,
    DegradationReader,
    DegradationReaderConfig,
)
from diffbir_jax.models.degradation_features import features
from diffbir_jax.training.config import Config
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.pool import Encoder, LatentBatches, pool_batches
from diffbir_jax.training.state import Batch

NAME = "degradation"
# Small photos are read in smaller tiles, which have other statistics: each crop is also seen by its first corner.
CORNER = 64
VIEWS = ("whole", "corner")
STATISTICS = ("mean", "deviation")


def make(config: Config) -> Objective:
    """Build the objective; batches hold `whole` and `corner` (B, F), features of crops, and `labels` (B, 4).

    Args:
        config: `widths` of the network; `feature_noise`, the deviation of what is added to normalised features, and
            `dropped`, the share of features that is left out; `data`: see `labelled_batches`.

    Raises:
        ValueError: as `pool_batches` does.
    """
    train, held_out = labelled_batches(config)
    module = DegradationReader(DegradationReaderConfig(tuple(config.widths)))
    image = jnp.zeros((1, CORNER, CORNER, 3))
    # Compiled, the features are left out: parameters depend on their number alone.
    params = jax.jit(lambda key: init(module, key, image))(jax.random.key(config.seed))
    frozen = normalisation(train)
    params = {name: params[name] for name in params if name not in STATISTICS}

    def read(params: Params, frozen: Params, found: jax.Array) -> tuple[jax.Array, jax.Array]:
        return apply(module, params | frozen, found, method="read")

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        found = jnp.concatenate([batch[view] for view in VIEWS])
        labels = jnp.concatenate([batch["labels"]] * len(VIEWS))
        found = augmented(found, frozen, config, key)
        return likelihood(*read(params, frozen, found), labels), {}

    sample, evaluate = held_out(0), jax.jit(read)

    def validate(params: Params, frozen: Params) -> tuple[dict[str, float], np.ndarray]:
        values, whole = {}, sample[VIEWS[0]]
        for view in VIEWS:
            found, _ = evaluate(params, frozen, sample[view])
            errors = np.nanmean(np.abs(limited(np.asarray(found)) - sample["labels"]), axis=0)
            values |= {f"{name}_{view}": float(error) for name, error in zip(QUANTITIES, errors)}
        found, log_errors = evaluate(params, frozen, whole)
        value = likelihood(found, log_errors, jnp.asarray(sample["labels"]))
        return {"loss": float(value)} | values, scatter(sample["labels"], limited(np.asarray(found)))

    return Objective(params, frozen, loss, train, validate, lambda ema: {NAME: ema | frozen})


def likelihood(values: jax.Array, log_errors: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean negative logarithm of Laplace's likelihood: |error| / b + log b, in `UNITS`; unknown labels are NaN."""
    known = ~jnp.isnan(labels)
    error = jnp.abs(jnp.where(known, labels, 0.0) / np.array([UNITS], np.float32) - values)
    return jnp.sum(jnp.where(known, error * jnp.exp(-log_errors) + log_errors, 0.0)) / jnp.sum(
        known, dtype=jnp.float32
    )


def limited(values: np.ndarray) -> np.ndarray:
    """Values in `UNITS` -> values, (B, 4), clipped as the network's."""
    return np.clip(values * np.array(UNITS, np.float32), LEAST, MOST)


def augmented(found: jax.Array, frozen: Params, config: Section, key: jax.Array) -> jax.Array:
    """Disturb features: some are left out (they become the mean), all get noise of some deviations."""
    dropped, noisy = jax.random.split(key)
    kept = jax.random.bernoulli(dropped, 1 - config.dropped, found.shape)
    noise = config.feature_noise * jax.random.normal(noisy, found.shape)
    return jnp.where(kept, found, frozen["mean"][None]) + noise * frozen["deviation"][None]


def normalisation(train: LatentBatches) -> Params:
    """Mean and deviation of each feature over the crops of the pool."""
    found = np.concatenate([train.pool[view] for view in VIEWS]).astype(np.float32)
    return {"mean": found.mean(0), "deviation": found.std(0) + np.float32(1e-2)}


def labelled_batches(config: Config) -> tuple[LatentBatches, LatentBatches]:
    """Return batches of features and labels, training and held out, see `pool_batches`.

    Args:
        config: `seed` and `data`: `folder`, `held_out` (folders of photos), `crop`, `degradation` (see
            `labelled.labels_of`), `batch_size`, `validation_size`, `pool` (crops) and `cache` (the file of features).
    """
    data = config.data

    def batches() -> tuple[LabelledBatches, LabelledBatches]:
        degradation, crop = make_degradation(data.degradation.to_dict()), CropConfig(**data.crop)
        return (
            LabelledBatches(load_photos(data.folder), data.batch_size, crop, degradation, config.seed),
            LabelledBatches(
                load_photos(data.held_out), data.validation_size, crop, degradation, config.seed + 1
            ),
        )

    return pool_batches(config, batches, lambda: Encoder(encode, {}), {})


def encode(params: Params, batch: Batch) -> Batch:
    """Return the features of crops and of their first corners, beside their labels."""

    def views(image: jax.Array) -> tuple[jax.Array, ...]:
        return features(image[None])[0], features(image[None, :CORNER, :CORNER])[0]

    # A few at a time: combs take megabytes for each crop.
    found = jax.lax.map(views, batch["lq"], batch_size=8)
    return dict(zip(VIEWS, found)) | {"labels": batch["labels"]}


def scatter(labels: np.ndarray, found: np.ndarray, side: int = 160) -> np.ndarray:
    """Draw estimates (up) over labels (right), a square for each quantity: (side, 4 side, 3) uint8."""
    picture = np.full((side, len(QUANTITIES) * side, 3), 255, np.uint8)
    for i in range(len(QUANTITIES)):
        known = ~np.isnan(labels[:, i])
        least, most = LEAST[i], float(labels[known, i].max(initial=LEAST[i] + 1e-6))
        x, y = (
            np.rint((values[known, i] - least) / (most - least) * (side - 1)).clip(0, side - 1).astype(int)
            for values in (labels, found)
        )
        picture[side - 1 - y, i * side + x] = 0
    return picture
