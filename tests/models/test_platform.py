"""Networks take the form of the devices that they are traced for."""

import jax
import jax.numpy as jnp
import pytest

from diffbir_jax.models.attention import attention
from diffbir_jax.models.convolution import convolve, upsample_convolve
from diffbir_jax.models.platform import target_platform, tracing_for


def test_the_platform_is_that_of_this_process_unless_told_otherwise() -> None:
    assert target_platform() == jax.default_backend() == "cpu"
    with tracing_for("tpu"):
        with tracing_for("gpu"):
            assert target_platform() == "gpu"
        assert target_platform() == "tpu"
    assert target_platform() == "cpu"


def test_an_error_inside_does_not_leave_it_set() -> None:
    with pytest.raises(KeyError), tracing_for("tpu"):
        raise KeyError
    assert target_platform() == "cpu"


def test_an_unknown_platform_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="platform 'npu' given, allowed are cpu, gpu, tpu"),
        tracing_for("npu"),
    ):
        pass


def traced(function, *shapes) -> str:
    """The program of a function of float32 arrays, as text; a new function each, as JAX remembers traced ones."""
    return str(jax.make_jaxpr(lambda *args: function(*args))(*(jnp.zeros(shape) for shape in shapes)))


@pytest.mark.parametrize("function", [convolve, upsample_convolve])
def test_convolutions_for_other_devices_are_plain(function) -> None:
    shapes = (1, 8, 8, 4), (3, 3, 4, 4)
    assert "custom_vjp" in traced(function, *shapes)
    with tracing_for("tpu"):
        program = traced(function, *shapes)
    assert "custom_vjp" not in program and program.count("conv_general_dilated[") == 1


def test_attention_for_other_devices_is_not_cut_into_blocks() -> None:
    shapes = ((1, 64, 2, 8),) * 3

    def chunked(q, k, v):
        return attention(q, k, v, max_scores=100)

    assert "scan[" in traced(chunked, *shapes)
    with tracing_for("tpu"):
        assert "scan[" not in traced(chunked, *shapes)
