import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.conversion.abstract import abstract_scunet
from diffbir_jax.conversion.engine import convert, export, torch_shapes
from diffbir_jax.conversion.restoration import scunet_rules
from diffbir_jax.models.scunet import SCUNet, SCUNetConfig
from tests.draws import uniform
from tests.models.reference import SCUNET, away_from_zero, filled, load, relative_error


@pytest.fixture(scope="module")
def params():
    return filled("scunet", scunet_rules(SCUNET), abstract_scunet(SCUNET))


def run(config, params, lq, dtype=jnp.float32):
    return jax.jit(SCUNet(config, dtype).apply)({"params": params}, lq)


@pytest.fixture(scope="module")
def small():
    """A network that compiles soon: its configuration and parameters, an image and the result."""
    config = SCUNetConfig(dim=16, depths=(1,) * 7, head_dim=8)
    params, lq = away_from_zero(abstract_scunet(config)), uniform(0, (1, 40, 64, 3))
    return config, params, lq, run(config, params, lq)


def test_parity(params):
    """Of 64 x 72 pixels, which the network pads to 64 x 128."""
    golden = load("scunet_small")
    assert relative_error(run(SCUNET, params, golden["lq"]), golden["out"]) <= 1e-4


@pytest.mark.slow
def test_bfloat16_stays_close(small):
    config, params, lq, out = small
    half = run(config, params, lq, jnp.bfloat16)
    assert half.dtype == jnp.float32
    assert 1e-5 < relative_error(half, out) < 0.05


def test_padding_repeats_the_border(small):
    config, params, lq, out = small
    whole = run(config, params, jnp.pad(lq, ((0, 0), (0, 24), (0, 0), (0, 0)), mode="edge"))
    np.testing.assert_allclose(out, whole[:, :40], atol=1e-5)
    assert jnp.abs(out).max() > 1e-2


def test_export_is_the_inverse():
    config = SCUNetConfig(dim=16, depths=(2, 1, 2, 3, 1, 2, 1), head_dim=4)
    rules, target = list(scunet_rules(config)), abstract_scunet(config)
    rng = np.random.default_rng(0)
    shapes = torch_shapes(rules, target)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    back = export(convert(state, rules, target), rules)
    assert back.keys() == state.keys()
    for key, x in state.items():
        np.testing.assert_array_equal(back[key], x)
