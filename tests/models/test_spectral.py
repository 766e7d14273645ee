import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.spectral import init_spectral, normalised, power_iteration
from tests.draws import normal

PARAMS = {
    "conv": {"kernel": normal(0, (3, 3, 4, 6)), "bias": normal(1, (6,))},
    "inner": {"dense": {"kernel": normal(2, (5, 7)), "bias": normal(3, (7,))}},
}


def norms(params: dict) -> list[float]:
    """The largest singular value of every kernel."""
    kernels = (params["conv"]["kernel"], params["inner"]["dense"]["kernel"])
    return [float(np.linalg.norm(np.asarray(x).reshape(-1, x.shape[-1]), 2)) for x in kernels]


@pytest.fixture(scope="module")
def state() -> dict:
    return jax.jit(init_spectral)(jax.random.key(0), PARAMS)


@pytest.fixture(scope="module")
def converged(state) -> dict:
    steps = jax.jit(lambda s: jax.lax.fori_loop(0, 300, lambda _, s: power_iteration(PARAMS, s), s))
    return steps(state)


def test_power_iteration_converges_to_the_largest_singular_value(converged):
    np.testing.assert_allclose(norms(normalised(PARAMS, converged)), [1, 1], rtol=1e-5)
    for part in jax.tree.leaves(converged):
        assert np.linalg.norm(part) == pytest.approx(1, abs=1e-6)


def test_vectors_have_unit_length_from_the_start_and_shapes_of_the_kernel(state):
    assert state["conv"]["v"].shape == (3, 3, 4) and state["conv"]["u"].shape == (6,)
    for part in jax.tree.leaves(state):
        assert np.linalg.norm(part) == pytest.approx(1, abs=1e-6)
    assert not np.array_equal(state["conv"]["u"][:5], state["inner"]["dense"]["v"])


def test_only_kernels_change(converged):
    result = normalised(PARAMS, converged)
    assert jax.tree.structure(result) == jax.tree.structure(PARAMS)
    np.testing.assert_array_equal(result["conv"]["bias"], PARAMS["conv"]["bias"])


def test_the_gradient_sees_the_norm_and_not_the_vectors(converged):
    """Scaling a kernel changes nothing, so the gradient has no component along it."""

    def loss(params: dict, state: dict) -> jax.Array:
        return jnp.sum(jnp.sin(normalised(params, power_iteration(params, state))["conv"]["kernel"]))

    by_params, by_state = jax.jit(jax.grad(loss, argnums=(0, 1)))(PARAMS, converged)
    gradient, kernel = by_params["conv"]["kernel"], PARAMS["conv"]["kernel"]
    along = float(jnp.vdot(gradient, kernel) / jnp.linalg.norm(gradient) / jnp.linalg.norm(kernel))
    assert abs(along) < 1e-5
    assert all(not jnp.any(x) for x in jax.tree.leaves(by_state))
