"""The discriminator on features: which features there are, its losses, and its vectors."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.console.errors import UserError
from diffbir_jax.conversion.features import abstract_convnext, abstract_dino
from diffbir_jax.models.apply import abstract
from diffbir_jax.models.backbones import VGG16
from diffbir_jax.models.convnext import CLIP_MEAN, ConvNeXtConfig
from diffbir_jax.models.dino import DINOConfig
from diffbir_jax.models.feature_discriminator import FeatureDiscriminator
from diffbir_jax.models.lpips import lpips_shapes
from diffbir_jax.models.mobilenet import MobileNetV2
from diffbir_jax.training.adversarial import discriminator_loss, generator_loss
from diffbir_jax.training.critic import FEATURES, Critic, features_of
from diffbir_jax.training.perceptual import IMAGENET_MEAN
from tests.draws import normal
from tests.models.reference import away_from_zero

IMAGE = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)


# Parameters' shapes, and sides of the maps: DINO sees 16x16 patches of any image.
CONVNEXT, DINO = ConvNeXtConfig((1, 1, 1, 1), (4, 4, 8, 8), 6), DINOConfig(64, 3, 14, 2)
NETWORKS = {
    "vgg": (lambda: lpips_shapes(VGG16()), [16, 8, 4]),
    "mobilenet": (lambda: abstract(MobileNetV2(5), IMAGE), [16, 8, 4]),
    "convnext": (lambda: abstract_convnext(CONVNEXT), [16, 8, 4]),
    "dino": (lambda: abstract_dino(DINO), [16, 16]),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_maps_and_a_vector(name: str) -> None:
    make, sides = NETWORKS[name]
    found = jax.eval_shape(lambda p, x: features_of(name).extract(p, x, jnp.float32), make(), IMAGE)
    assert [x.shape[:3] for x in found[:-1]] == [(2, side, side) for side in sides]
    assert len(found[-1].shape) == 2 and {x.dtype for x in found} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", ["convnext", "dino"])
def test_large_networks_see_images_as_they_were_trained_to(name: str) -> None:
    """The published mean is zero to them: then only their biases are left, the same at every place and scale."""
    mean = {"convnext": CLIP_MEAN, "dino": IMAGENET_MEAN}[name]
    params = away_from_zero(NETWORKS[name][0]())
    extract = jax.jit(partial(features_of(name).extract, dtype=jnp.float32))
    image = jnp.broadcast_to(2 * jnp.asarray(mean, jnp.float32) - 1, (1, 64, 64, 3))
    stem = {"convnext": "stem", "dino": "patches"}[name]
    other = {**params, stem: {**params[stem], "kernel": 2 * params[stem]["kernel"]}}
    first, second = extract(params, image), extract(other, image)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), first, second)
    third = extract(other, image + normal(0, image.shape))
    assert all(np.abs(x - y).max() > 1e-3 for x, y in zip(first, third, strict=True))


@pytest.mark.parametrize("name", ["convnext_xxlarge", "dinov3", ""])
def test_other_features_are_refused_by_name(name: str) -> None:
    with pytest.raises(
        UserError, match=re.escape(f"features is {name!r}, allowed are vgg, mobilenet, convnext")
    ):
        features_of(name)


def extract(params: dict, image: jax.Array, dtype: object) -> list[jax.Array]:
    """In place of a network: the image itself, and its mean."""
    return [params["gain"] * image, jnp.mean(image, (1, 2))]


@pytest.fixture(scope="module")
def critic() -> Critic:
    return Critic(extract, FeatureDiscriminator(width=3))


@pytest.fixture(scope="module")
def judge(critic: Critic) -> tuple:
    frozen = {"gain": jnp.float32(2.0)}
    return *critic.start(jax.random.key(0), frozen, 8), frozen


def test_losses_are_those_of_its_logits_and_the_vectors_move_with_the_images(critic, judge) -> None:
    params, vectors, frozen = judge
    real, fake = normal(0, (2, 8, 8, 3)), normal(1, (2, 8, 8, 3))
    once = jax.jit(critic.moved)(params, vectors)
    # `moved` has two steps; a random start is far from the fixed point, so one step changes the logits.
    assert any(not np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (vectors, once)), strict=True))
    settled = jax.jit(lambda p, v: jax.lax.fori_loop(0, 60, lambda _, v: critic.moved(p, v), v))(
        params, vectors
    )

    @jax.jit
    def both(vectors: dict) -> tuple[jax.Array, ...]:
        """The losses, and what they are for fixed vectors."""
        given = params, vectors, frozen
        logits = [critic.logits(*given, image) for image in (real, fake)]
        wanted = jnp.mean(generator_loss(logits[1])), jnp.mean(discriminator_loss(*logits))
        return critic.fooled(*given, fake), critic.told_apart(*given, real, fake), *wanted

    fooled, apart, *wanted = both(settled)
    np.testing.assert_allclose((fooled, apart), wanted, rtol=1e-4)
    fooled, apart, *wanted = map(float, both(vectors))
    assert fooled == pytest.approx(wanted[0], rel=1e-6) and apart != pytest.approx(wanted[1], rel=1e-3)


def test_the_head_is_spectrally_normalised(critic, judge) -> None:
    """Kernels twice as large make the same logits; without the division they would not."""
    params, vectors, frozen = judge
    image = normal(2, (1, 8, 8, 3))
    larger = jax.tree.map_with_path(lambda path, x: 2 * x if path[-1].key == "kernel" else x, params)
    logits = jax.jit(critic.logits)
    first, second = (logits(p, vectors, frozen, image) for p in (params, larger))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), first, second)


def test_crops_that_leave_no_logit_are_refused(critic) -> None:
    with pytest.raises(ValueError, match="a map of 2x2 given, sides must be at least 4"):
        critic.start(jax.random.key(0), {"gain": jnp.float32(1.0)}, 2)
