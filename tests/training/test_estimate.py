"""Training of the degradation estimate: its likelihood, and an objective on features that were kept."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.estimate import get_config
from diffbir_jax.models.apply import abstract
from diffbir_jax.models.degradation import QUANTITIES, UNITS, DegradationReader, DegradationReaderConfig
from diffbir_jax.training import pool
from diffbir_jax.training.estimate import NAME, VIEWS, likelihood, limited, scatter
from diffbir_jax.training.objective import Objective, make_objective
from diffbir_jax.weights.safetensors import flatten

KEY = jax.random.key(0)
SIZE = abstract(DegradationReader(), np.zeros((1, 64, 64, 3)))["mean"].shape[0]


@pytest.fixture
def objective(tmp_path: Path) -> Objective:
    """One whose pool has two features that tell two of the labels; the others are noise, and some are unknown."""
    config = get_config()
    config.data.update(batch_size=32, pool=64, cache=str(tmp_path / "pool.npz"))
    config.widths = (16, 16, 16)
    rng = np.random.default_rng(0)
    arrays = {}
    for kind in ("train", "val"):
        features = rng.normal(5, 2, (64, SIZE))
        labels = np.stack([features[:, 0] / 10, features[:, 1], np.full(64, 100), np.full(64, 2.0)], axis=1)
        labels[::2, 3] = np.nan
        stored = {view: features for view in VIEWS} | {"labels": labels}
        arrays |= {f"{kind}_{name}": rows.astype(np.float16) for name, rows in stored.items()}
    np.savez(config.data.cache, **arrays, **{pool.MADE_FOR: pool._made_for(config, {})})
    with jax.numpy_dtype_promotion("standard"):
        return make_objective(config)


def test_the_loss_falls_and_the_file_has_all_parameters(objective: Objective):
    with jax.numpy_dtype_promotion("standard"):
        batch, params = objective.batches(0), objective.params
        step = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, objective.frozen, batch, KEY)[0]))
        first, _ = step(params)
        for _ in range(30):
            value, gradient = step(params)
            params = jax.tree.map(lambda p, g: p - 0.02 * jnp.clip(g, -1, 1), params, gradient)
        metrics, picture = objective.validate(params, objective.frozen)
    assert value < first - 0.1
    assert {f"{name}_{view}" for name in QUANTITIES for view in VIEWS} < metrics.keys()
    assert picture.shape == (160, 640, 3)
    exported = flatten(objective.export(params)[NAME])
    module = DegradationReader(DegradationReaderConfig((16, 16, 16)))
    expected = flatten(abstract(module, np.zeros((1, 64, 64, 3))))
    assert {name: value.shape for name, value in exported.items()} == {
        name: value.shape for name, value in expected.items()
    }


def test_likelihood_is_laplace_s_and_unknown_labels_count_nothing():
    labels = np.array([[0.5, 6.0, 85.0, np.nan]], np.float32)
    values, log_errors = np.array([[0.0, 1.0, 5.0, 9.0]]), np.array([[0.0, 0.5, -1.0, 2.0]])
    errors = [1.0, 0.0, abs(85 / UNITS[2] - 5)]
    expected = np.mean([error / np.exp(b) + b for error, b in zip(errors, log_errors[0])])
    found = likelihood(jnp.float32(values), jnp.float32(log_errors), jnp.asarray(labels))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    gradient = jax.grad(likelihood)(jnp.float32(values), jnp.float32(log_errors), jnp.asarray(labels))
    assert np.isfinite(gradient).all()
    assert gradient[0, 3] == 0


def test_values_are_limited_to_what_there_is():
    assert limited(np.array([[-1.0, -1.0, 9.0, 9.0]])).tolist() == [[0, 0, 100, 4]]


def test_scatter_draws_each_estimate_over_its_label():
    labels = np.array([[0.0, 0.0, 100.0, np.nan], [2.0, 30.0, 50.0, 4.0]])
    picture = scatter(labels, labels.copy(), side=11)
    assert (picture[10, 0], picture[0, 10]) == (pytest.approx([0] * 3), pytest.approx([0] * 3))
    assert (picture == 0).all(axis=2).sum() == 7
