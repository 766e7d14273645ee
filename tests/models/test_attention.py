import functools
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from diffbir_jax.models.attention import _chosen, attention, choose, force
from diffbir_jax.models.platform import batches_over
from diffbir_jax.sharding import make_mesh
from diffbir_jax.training.flops import count
from tests.draws import normal
from tests.models.reference import relative_error

# Compiled whole: operation by operation, each would be a program for each shape.
compiled = jax.jit(attention, static_argnames=("backend", "max_scores"))
reference = jax.jit(jax.nn.dot_product_attention)


def qkv(batch, queries, keys, heads, dim, dtype=jnp.float32):
    rngs = jax.random.split(jax.random.key(0), 3)
    return tuple(
        3 * jax.random.normal(rng, (batch, n, heads, dim), dtype)
        for rng, n in zip(rngs, (queries, keys, keys))
    )


# All at once, one head at a time, whole blocks, a remainder; more or fewer keys than queries.
@pytest.mark.parametrize("queries, keys", [(5, 7), (20, 40), (64, 64), (77, 40), (65, 77)])
def test_chunked_equals_xla(queries, keys):
    inputs = qkv(2, queries, keys, 3, 16)
    expected = reference(*inputs)
    np.testing.assert_allclose(compiled(*inputs, backend="chunked", max_scores=1000), expected, atol=1e-5)
    np.testing.assert_allclose(compiled(*inputs), expected, atol=1e-5)


def test_large_scores_do_not_overflow():
    q, k, v = qkv(1, 40, 40, 1, 16)
    out = compiled(10 * q, k, v, backend="chunked", max_scores=1000)
    np.testing.assert_allclose(out, reference(10 * q, k, v), atol=1e-4)


def assert_gradients_of_jax(inputs: tuple[jax.Array, ...], backend: str) -> None:
    """The gradients of a backend in blocks are those of JAX's own attention."""

    def gradients(run: Callable[..., jax.Array]) -> tuple[jax.Array, ...]:
        return jax.jit(jax.grad(lambda args: jnp.sin(run(*args)).sum()))(inputs)

    found = gradients(lambda *args: attention(*args, backend=backend, max_scores=1000))
    for ours, expected in zip(found, gradients(jax.nn.dot_product_attention)):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_gradients():
    assert_gradients_of_jax(qkv(2, 50, 40, 2, 8), "chunked")


def test_bfloat16_has_a_float32_softmax():
    """With bfloat16 scores, 1,000 equal weights would not add up to one."""
    q, k, _ = (0 * x for x in qkv(1, 64, 1000, 1, 16, jnp.bfloat16))
    out = compiled(q, k, jnp.ones_like(k), backend="chunked", max_scores=1000)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out.astype(jnp.float32), 1.0)


def working_memory(function):
    """Bytes that the compiled `function` of q, k and v needs beside its inputs and outputs."""
    shape = jax.ShapeDtypeStruct((1, 8192, 2, 32), jnp.float32)
    memory = jax.jit(function).lower(shape, shape, shape).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def test_full_score_matrix_is_never_held():
    score_matrix = 4 * 2 * 8192**2
    chunked = functools.partial(attention, backend="chunked")
    gradient = jax.grad(lambda *args: chunked(*args).sum(), argnums=(0, 1, 2))
    assert working_memory(jax.nn.dot_product_attention) >= score_matrix
    assert working_memory(chunked) < score_matrix / 16
    assert working_memory(gradient) < score_matrix / 8


@pytest.mark.parametrize("queries, keys", [(5, 7), (64, 64), (77, 40), (65, 77)])
def test_blocks_of_queries_equal_xla(queries, keys):
    """One block, whole blocks, a remainder; with gradients."""
    inputs = qkv(2, queries, keys, 3, 16)
    np.testing.assert_allclose(
        compiled(*inputs, backend="queries", max_scores=1000), reference(*inputs), atol=1e-5
    )
    assert_gradients_of_jax(inputs, "queries")


def test_blocks_of_queries_hold_few_scores():
    score_matrix, blocks = 4 * 2 * 8192**2, functools.partial(attention, backend="queries")
    assert working_memory(blocks) < score_matrix / 8
    assert working_memory(jax.grad(lambda *args: blocks(*args).sum(), argnums=(0, 1, 2))) < score_matrix / 4


BF16, F32 = jnp.bfloat16, jnp.float32


@pytest.mark.parametrize(
    "shape, keys, dtype, platform, expected",
    [
        ((2, 4096, 5, 64), 4096, F32, "cpu", "chunked"),
        ((2, 4096, 5, 64), 4096, BF16, "gpu", "cudnn"),
        ((2, 4096, 5, 64), 77, BF16, "gpu", "xla"),  # cuDNN has no gradient for an odd number
        ((1, 4096, 1, 512), 4096, BF16, "gpu", "xla"),
        ((1, 16384, 1, 512), 16384, BF16, "gpu", "queries"),
        ((2, 4096, 5, 64), 4096, F32, "gpu", "queries"),
        ((9, 1024, 10, 64), 1024, F32, "gpu", "xla"),  # the limit is per image: devices share a batch
        ((2, 4096, 5, 64), 4096, BF16, "tpu", "xla"),
    ],
)
def test_the_choice_of_a_backend(shape, keys, dtype, platform, expected):
    assert choose(shape, keys, dtype, platform) == expected


@pytest.mark.parametrize("capability, expected", [("7.5", "queries"), ("8.0", "cudnn"), ("12.0", "cudnn")])
def test_old_chips_have_no_fused_attention(monkeypatch, capability, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(compute_capability=capability)])
    assert choose((2, 4096, 5, 64), 4096, BF16, "gpu") == expected


def test_what_does_not_fit_is_refused():
    q, k, v = qkv(1, 4, 5, 2, 8)
    with pytest.raises(ValueError, match="backend is 'splash'; choose one of auto, chunked"):
        attention(q, k, v, backend="splash")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="backend flash takes lengths that 128 divides; choose another"):
        attention(q, k, v, backend="flash")
    with pytest.raises(ValueError, match=r"q \(1, 4, 2, 8\), k \(1, 5, 2, 8\), v \(1, 4, 2, 8\) do not fit"):
        attention(q, k, v[:, :4])
    with pytest.raises(ValueError, match="do not fit"):
        attention(q[:, :, :1], k, v)


@pytest.fixture
def free() -> Iterator[None]:
    yield
    force("auto")


def test_a_forced_backend_is_used_where_it_can_be(free: None) -> None:
    q = normal(0, (1, 8, 2, 8))
    usual = str(jax.make_jaxpr(lambda q: attention(q, q, q))(q))
    for backend, differs in (("xla", True), ("cudnn", False), ("auto", False)):
        force(backend)
        found = str(jax.make_jaxpr(lambda q: attention(q, q, q))(q))
        assert (found != usual) == differs, backend
        np.testing.assert_allclose(
            attention(q, q, q), attention(q, q, q, backend="xla"), rtol=1e-5, atol=1e-6
        )
    with pytest.raises(ValueError, match="backend is 'splash'; choose one of auto, chunked"):
        force("splash")


def test_the_kernel_for_tpus_is_forced_on_tpus_alone(free: None) -> None:
    """Other devices cannot compile it; shorter sequences than those for which it is chosen can take it."""
    force("flash")
    shapes = ((4, 128, 2, 64), 128, jnp.bfloat16)
    with batches_over(make_mesh(2, 2)):
        assert _chosen(*shapes, "tpu") == "flash" != choose(*shapes, "tpu")
        assert (_chosen(*shapes, "cpu"), _chosen(*shapes, "gpu")) == ("chunked", "xla")


def test_cudnn_is_forced_where_it_has_a_kernel(free: None) -> None:
    """Also for few keys, for which it is not chosen; not in float32."""
    force("cudnn")
    shapes = ((1, 64, 2, 64), 78)
    assert _chosen(*shapes, jnp.bfloat16, "gpu") == "cudnn" != choose(*shapes, jnp.bfloat16, "gpu")
    assert _chosen(*shapes, jnp.float32, "gpu") == "xla"
    assert _chosen(*shapes, jnp.bfloat16, "tpu") == "xla"


@pytest.mark.parametrize("devices", [None, 4])
def test_the_kernel_for_tpus_equals_float32(devices: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient included; split over devices or not. In float32, where rounding hides no mistake."""
    # Pallas's interpreter of a TPU calls back from each device, and can wait for itself where cores are fewer.
    monkeypatch.setattr(pl, "pallas_call", partial(pl.pallas_call, interpret=True))
    mesh = None if devices is None else make_mesh(2, devices // 2)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((4, 384, 1, 64)), jnp.float32) for _ in range(3))

    def run(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        with batches_over(mesh):
            return attention(q, k, v, backend="flash")

    def squares(function, *args) -> jax.Array:
        return jnp.square(function(*args)).sum()

    out, gradient = jax.jit(lambda *a: (run(*a), jax.grad(partial(squares, run), (0, 1, 2))(*a)))(q, k, v)
    assert relative_error(out, reference(q, k, v)) < 1e-5
    expected = jax.grad(partial(squares, reference), (0, 1, 2))(q, k, v)
    for found, wanted in zip(gradient, expected):
        assert relative_error(found, wanted) < 1e-5


def test_tpus_take_the_kernel_where_it_is_known_to_fit() -> None:
    """16 bits, whole blocks, and batches that the devices share evenly."""
    large, small = (16, 4096, 5, 64), (16, 64, 20, 64)
    with batches_over(make_mesh(2, 2)):
        assert choose(large, 4096, jnp.bfloat16, "tpu") == "flash"
        assert choose(large, 77, jnp.bfloat16, "tpu") == "xla"
        assert choose(small, 64, jnp.bfloat16, "tpu") == "xla"
        assert choose(large, 4096, jnp.float32, "tpu") == "xla"
        assert choose((16, 4100, 5, 64), 4100, jnp.bfloat16, "tpu") == "xla"
        # XLA does not split the kernel, so each device must have as much.
        assert choose((6, *large[1:]), 4096, jnp.bfloat16, "tpu") == "xla"
    # Of several devices, and it is not known how they share the batch.
    assert choose(large, 4096, jnp.bfloat16, "tpu") == "xla"


def test_products_of_the_kernel_are_counted() -> None:
    """Two per pair of blocks forward; with the gradient seven more, two of which are the scores again."""
    q = jax.ShapeDtypeStruct((4, 1024, 2, 64), jnp.bfloat16)
    product = 2 * 4 * 2 * 1024 * 1024 * 64

    def total(q: jax.Array) -> jax.Array:
        return attention(q, q, q, backend="flash").astype(jnp.float32).sum()

    for mesh in (None, make_mesh(2, 2)):
        with batches_over(mesh):
            assert count(jax.make_jaxpr(total)(q)).total == 2 * product
            assert count(jax.make_jaxpr(jax.grad(total))(q)).total == 9 * product
