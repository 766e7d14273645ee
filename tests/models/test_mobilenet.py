"""MobileNetV2 against torch's operators (float64, batch norm unfolded) on the weights of `filled`."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.mobilenet import STAGES, MobileNetV2
from diffbir_jax.weights.safetensors import unflatten
from scripts.convert_mobilenet import convert
from tests.golden.weights import fill

GOLDEN = Path(__file__).parents[1] / "golden" / "mobilenet.npz"


def filled(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The golden's weights: convolutions 1.5 times `fill`'s, to reach the clip of relu6; variances near 1."""
    value = fill("mobilenet", key, shape) * (1.5 if len(shape) == 4 else 1)
    return np.asarray(value + key.endswith("running_var"), np.float32)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as data:
        return dict(data)


@pytest.fixture(scope="module")
def params(golden: dict[str, np.ndarray]) -> dict:
    shapes = (tuple(json.loads(str(s))) for s in golden["shapes"])
    return unflatten(
        convert({str(k): filled(str(k), s) for k, s in zip(golden["keys"], shapes, strict=True)})
    )


def test_conversion_fills_every_parameter(params: dict) -> None:
    expected = jax.eval_shape(MobileNetV2().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)


def test_stages_match_torch(golden: dict[str, np.ndarray], params: dict) -> None:
    image = jnp.asarray(golden["image"].transpose(0, 2, 3, 1))
    features = jax.jit(lambda p, x: MobileNetV2().apply({"params": p}, x))(params, image)
    assert len(features) == len(STAGES)
    for i, feature in enumerate(features):
        # The golden keeps at most 8 x 12 positions of each map, evenly spaced.
        step = max(1, feature.shape[1] // 8), max(1, feature.shape[2] // 12)
        expected = golden[f"stage{i}"].transpose(0, 2, 3, 1)
        actual = np.asarray(feature)[:, :: step[0], :: step[1]]
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max(), f"stage {i}"
