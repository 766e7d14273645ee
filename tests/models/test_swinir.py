import jax
import jax.numpy as jnp
import pytest

from diffbir_jax.conversion.abstract import abstract_swinir
from diffbir_jax.conversion.restoration import swinir_rules
from diffbir_jax.models.swin import SwinBlock
from diffbir_jax.models.swinir import SwinIR
from tests.draws import normal
from tests.models.reference import SWINIR, filled, load, relative_error


@pytest.fixture(scope="module")
def params():
    return filled("swinir", swinir_rules(SWINIR), abstract_swinir(SWINIR))


def run(params, lq, dtype=jnp.float32):
    return jax.jit(SwinIR(SWINIR, dtype).apply)({"params": params}, lq)


def test_parity(params):
    golden = load("swinir_small")
    assert relative_error(run(params, golden["lq"]), golden["out"]) <= 1e-4


def test_bfloat16_stays_close(params):
    golden = load("swinir_small")
    out = run(params, golden["lq"], jnp.bfloat16)
    assert out.dtype == jnp.float32
    assert 1e-5 < relative_error(out, golden["out"]) < 0.03


def test_shifted_windows_do_not_join_opposite_borders():
    """After rolling, columns 0..3 share windows with columns 12..15; only the former may see column 0."""
    block = SwinBlock(heads=2, window=8, shift=4, mlp_ratio=2, dtype=jnp.float32)
    x = normal(0, (1, 16, 16, SWINIR.embed_dim))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    run = jax.jit(block.apply)
    change = jnp.abs(run(variables, x.at[:, :, 0].add(x[:, :, 1])) - run(variables, x)).max(axis=(0, 1, 3))
    assert (change[:4] > 0).all()
    assert (change[4:] == 0).all()


def test_size_must_fit():
    with pytest.raises(ValueError, match="60x64.*multiples of 64"):
        jax.eval_shape(SwinIR(SWINIR).init, jax.random.key(0), jnp.zeros((1, 60, 64, 3)))
