"""ConvNeXt and DINO by properties; tests/peers compares their values with those of others."""

import jax
import jax.numpy as jnp
import pytest

from diffbir_jax.conversion.features import CONVNEXT, DINO_VIT
from diffbir_jax.models.apply import apply
from diffbir_jax.models.convnext import ConvNeXt, ConvNeXtConfig
from diffbir_jax.models.dino import DINO, DINOConfig


def test_sides_that_do_not_fit_are_named() -> None:
    small, vit = ConvNeXtConfig((1, 1, 1, 1), (4, 4, 4, 4), 4), DINOConfig(64, 3, 14, 2)
    with pytest.raises(ValueError, match="an image of 64x31 given, sides must be at least 32"):
        jax.eval_shape(ConvNeXt(small).apply, {}, jnp.zeros((1, 64, 31, 3)))
    with pytest.raises(ValueError, match="an image of 28x30 given, sides must be multiples of 14"):
        jax.eval_shape(DINO(vit).apply, {}, jnp.zeros((1, 28, 30, 3)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_full_sizes_have_the_shapes_that_hypir_and_dinov2_have(dtype: jnp.dtype) -> None:
    def shapes(network: ConvNeXt | DINO, params: dict, side: int) -> list[tuple[int, ...]]:
        image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
        found = jax.eval_shape(lambda p, x: apply(network, p, x), params, image)
        assert {x.dtype for x in found} == {jnp.dtype(dtype)}
        return [x.shape for x in found]

    config, vit = ConvNeXtConfig(), DINOConfig(registers=4)
    found = shapes(ConvNeXt(config, dtype), CONVNEXT.abstract(config), 512)
    assert found == [(2, 128, 128, 384), (2, 64, 64, 768), (2, 32, 32, 1536), (2, 1024)]
    found = shapes(DINO(vit, dtype), DINO_VIT.abstract(vit), 224)
    assert found == [(2, 16, 16, 768), (2, 16, 16, 768), (2, 768)]
