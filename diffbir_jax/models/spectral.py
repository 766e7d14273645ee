"""Spectral normalisation (Miyato et al., "Spectral Normalization for GANs", 2018) of a tree of parameters.

A kernel is treated as a matrix of inputs by outputs and divided by an estimate of its largest singular value. The
estimate is v W u. Power iteration improves the two vectors, one step per training step. The vectors are state: the
caller carries them from step to step and stores them beside the parameters.

    state = power_iteration(params, state)                      # training only
    logits = apply(discriminator, normalised(params, state), features)
"""

import jax
import jax.numpy as jnp

from diffbir_jax.models.apply import Params

# The tree of the parameters with {"u": (O,), "v": (..., I)} float32 in place of a kernel (..., I, O) and its bias.
SpectralState = Params
EPSILON = 1e-12


def init_spectral(key: jax.Array, params: Params) -> SpectralState:
    """Draw unit vectors for every kernel of `params`.

    Args:
        key: PRNG key.
        params: nested dict; every layer has a "kernel" (..., I, O).
    """
    if "kernel" in params:
        *inputs, outputs = params["kernel"].shape
        left, right = jax.random.split(key)
        u, v = jax.random.normal(left, (outputs,)), jax.random.normal(right, tuple(inputs))
        return {"u": _unit(u), "v": _unit(v)}
    keys = jax.random.split(key, len(params))
    return {name: init_spectral(keys[i], params[name]) for i, name in enumerate(sorted(params))}


def power_iteration(params: Params, state: SpectralState) -> SpectralState:
    """Improve the vectors by one step: v from u, then u from the new v.

    Args:
        params: nested dict; kernels (..., I, O) of any float dtype.
        state: as from `init_spectral`.

    Returns:
        The new state; it is a constant in differentiation.
    """
    if "kernel" not in params:
        return {name: power_iteration(params[name], part) for name, part in state.items()}
    # Power iteration estimates; no gradient runs through it (Miyato et al., algorithm 1).
    kernel = jax.lax.stop_gradient(params["kernel"].astype(jnp.float32))
    v = _unit(_outer(kernel, state["u"]))
    return {"u": _unit(_inner(kernel, v)), "v": v}


def normalised(params: Params, state: SpectralState) -> Params:
    """Divide every kernel by its spectral norm, estimated from `state`; the estimate has a gradient, too.

    Args:
        params: nested dict; kernels (..., I, O) of any float dtype.
        state: from `power_iteration`, or a stored one.

    Returns:
        Parameters of the same structure; normalised kernels are float32.
    """
    if "kernel" not in params:
        return {name: normalised(part, state[name]) for name, part in params.items()}
    kernel = params["kernel"].astype(jnp.float32)
    # With u and v constant, the gradient of v W u is that of the singular value.
    u, v = (jax.lax.stop_gradient(state[name]) for name in "uv")
    return params | {"kernel": kernel / jnp.vdot(u, _inner(kernel, v), precision="highest")}


def _outer(kernel: jax.Array, u: jax.Array) -> jax.Array:
    """W u, of the shape of v."""
    return jnp.tensordot(kernel, u, 1, precision="highest")


def _inner(kernel: jax.Array, v: jax.Array) -> jax.Array:
    """V W, of the shape of u."""
    return jnp.tensordot(v, kernel, v.ndim, precision="highest")


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x.ravel()), EPSILON)
