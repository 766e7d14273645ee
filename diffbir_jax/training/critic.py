"""A discriminator on the features of a frozen network, as in HYPIR; the head is `models.feature_discriminator`.

HYPIR takes the features of CLIP's ConvNeXt-XXLarge. They are here (`converted.py`), as are those of DINOv2 and of the
networks of the losses, VGG16 and MobileNetV2. Another network needs an entry in `FEATURES`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.apply import Params, abstract, apply, init
from diffbir_jax.models.backbones import VGG16
from diffbir_jax.models.feature_discriminator import FeatureDiscriminator
from diffbir_jax.models.lpips import unit_features as lpips_features
from diffbir_jax.models.spectral import SpectralState, init_spectral, normalised, power_iteration
from diffbir_jax.training.adversarial import fake_loss, generator_loss, real_loss
from diffbir_jax.training.converted import convnext, dino, load_convnext, load_dino
from diffbir_jax.training.lpips import load_lpips
from diffbir_jax.training.perceptual import load_features
from diffbir_jax.training.perceptual import unit_features as mobilenet_features


class Extract(Protocol):
    """Features of images, differentiable in these."""

    def __call__(self, params: Params, image: jax.Array, dtype: DTypeLike) -> list[jax.Array]:
        """(B, H, W, 3) in [-1, 1] -> maps (B, h, w, C) and vectors (B, C), float32; values should be of order 1."""
        ...


class Features(NamedTuple):
    """A frozen network whose features a discriminator judges.

    Attributes:
        load: path of a weights file -> parameters; raises FileNotFoundError or ValueError.
        extract: see `Extract`.
    """

    load: Callable[[str | Path], Params]
    extract: Extract


def vgg(params: Params, image: jax.Array, dtype: DTypeLike) -> list[jax.Array]:
    """Features of VGG16 at 1/4, 1/8 and 1/16 of the sides, and the mean of the last; `params` are those of LPIPS."""
    return _levels(lpips_features(VGG16(dtype=dtype), params, image.astype(jnp.float32))[2:])


def mobilenet(params: Params, image: jax.Array, dtype: DTypeLike) -> list[jax.Array]:
    """Features of MobileNetV2 at 1/4, 1/8 and 1/16 of the sides, and the mean of the last."""
    _, quarter, eighth, _, sixteenth = mobilenet_features(params, image, dtype)
    return _levels([quarter, eighth, sixteenth])


def _levels(maps: list[jax.Array]) -> list[jax.Array]:
    """Scale maps of unit length over channels to a mean square of 1, and add the last one's mean over pixels.

    A spectrally normalised head enlarges nothing: of smaller features it makes no clear verdict.
    """
    scaled = [x * jnp.sqrt(jnp.float32(x.shape[-1])) for x in maps]
    return [*scaled, jnp.mean(scaled[-1], (1, 2))]


FEATURES = {
    "vgg": Features(partial(load_lpips, net="vgg"), vgg),
    "mobilenet": Features(load_features, mobilenet),
    "convnext": Features(load_convnext, convnext),
    "dino": Features(load_dino, dino),
}


def features_of(name: str) -> Features:
    """Return a network of `FEATURES`.

    Raises:
        UserError: there is none of that name.
    """
    if name not in FEATURES:
        raise UserError(
            f"config.critic.features is {name!r}, allowed are {', '.join(FEATURES)} (HYPIR's is convnext)"
        )
    return FEATURES[name]


class Critic(NamedTuple):
    """A discriminator. `params` are the head's, `vectors` those of its spectral norms, `frozen` the features'.

    Attributes:
        extract: the frozen network.
        head: what is trained.
        dtype: compute dtype of both.
    """

    extract: Extract
    head: FeatureDiscriminator
    dtype: DTypeLike = jnp.float32

    def start(self, key: jax.Array, frozen: Params, side: int) -> tuple[Params, SpectralState]:
        """Return new parameters and vectors, for images of `side` pixels.

        Raises:
            ValueError: such images are too small.
        """
        first, second = jax.random.split(key)
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        shapes = jax.eval_shape(partial(self.extract, dtype=self.dtype), frozen, image)
        features = [jnp.zeros(x.shape, x.dtype) for x in shapes]
        abstract(self.head, features)  # refuses small maps before anything is computed
        params = jax.jit(partial(init, self.head))(first, features)
        return params, jax.jit(init_spectral)(second, params)

    def logits(
        self, params: Params, vectors: SpectralState, frozen: Params, image: jax.Array
    ) -> list[jax.Array]:
        """Judge images (B, H, W, 3) in [-1, 1]: an array (B, ...) of logits for each level; higher is real."""
        return self.judged(params, vectors, self.extract(frozen, image, self.dtype))

    def judged(self, params: Params, vectors: SpectralState, features: list[jax.Array]) -> list[jax.Array]:
        """Judge features, see `logits`."""
        return apply(self.head, normalised(params, vectors), features)

    def fooled(self, params: Params, vectors: SpectralState, frozen: Params, fake: jax.Array) -> jax.Array:
        """Return the generator's loss, averaged over images (B, H, W, 3); the vectors stay as they are."""
        return jnp.mean(generator_loss(self.logits(params, vectors, frozen, fake)))

    def told_apart(
        self, params: Params, vectors: SpectralState, frozen: Params, real: jax.Array, fake: jax.Array
    ) -> jax.Array:
        """Return the discriminator's loss, averaged over images.

        The vectors take a step of power iteration before each batch of images, see `moved`.
        """
        for_real = power_iteration(params, vectors)
        for_fake = power_iteration(params, for_real)
        losses = (
            real_loss(self.logits(params, for_real, frozen, real)),
            fake_loss(self.logits(params, for_fake, frozen, fake)),
        )
        return jnp.mean(losses[0]) + jnp.mean(losses[1])

    def moved(self, params: Params, vectors: SpectralState) -> SpectralState:
        """Return the vectors after `told_apart` with the same parameters."""
        return power_iteration(params, power_iteration(params, vectors))
