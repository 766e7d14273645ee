"""Adversarial losses of a discriminator that judges an image at several levels.

Vision-aided GANs (Kumari et al., "Ensembling Off-the-shelf Models for GAN Training", 2022) give one map of logits for
each level of a pretrained network, and one logit for its final vector. All levels have the same weight: the logits of a
level are averaged, then the levels are added up. The sigmoid loss smooths one label only: real images have the target
0.8, fakes have 0 (Salimans et al., "Improved Techniques for Training GANs", 2016).
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from diffbir_jax.console.errors import UserError

Kind = Literal["sigmoid", "hinge"]
Losses = dict[Kind, Callable[[jax.Array], jax.Array]]
REAL_LABEL = 0.8
# Losses of single logits. softplus(x) - label * x is the cross entropy of sigmoid(x) with the label.
REAL: Losses = {
    "sigmoid": lambda x: jax.nn.softplus(x) - REAL_LABEL * x,
    "hinge": lambda x: jax.nn.relu(1.0 - x),
}
FAKE: Losses = {"sigmoid": jax.nn.softplus, "hinge": lambda x: jax.nn.relu(1.0 + x)}
GENERATOR: Losses = {"sigmoid": REAL["sigmoid"], "hinge": jnp.negative}


def generator_loss(logits: Sequence[jax.Array], *, kind: Kind = "sigmoid") -> jax.Array:
    """Return what the generator minimises.

    Args:
        logits: logits of generated images, an array (B, ...) per level, any float dtype; higher means real.
        kind: "sigmoid", the cross entropy with the label of real images, or "hinge", the negative logit.

    Returns:
        (B,) float32: the loss of each image.

    Raises:
        ValueError: no such kind, or there are no logits.
    """
    return _summed(logits, GENERATOR, kind)


def discriminator_loss(
    real: Sequence[jax.Array], fake: Sequence[jax.Array], *, kind: Kind = "sigmoid"
) -> jax.Array:
    """Return what the discriminator minimises: `real_loss` plus `fake_loss`.

    Args:
        real: logits of real images, an array (B, ...) per level, any float dtype.
        fake: logits of the same number of generated images, with the same shapes.
        kind: "sigmoid" (cross entropy) or "hinge" (Lim and Ye, "Geometric GAN", 2017).

    Returns:
        (B,) float32: the loss of each pair of images.

    Raises:
        ValueError: no such kind, there are no logits, or `real` and `fake` differ in levels or shapes.
    """
    shapes = [[x.shape for x in logits] for logits in (real, fake)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"logits of shapes {shapes[0]} (real) and {shapes[1]} (fake): both must be the same")
    return real_loss(real, kind=kind) + fake_loss(fake, kind=kind)


def real_loss(logits: Sequence[jax.Array], *, kind: Kind = "sigmoid") -> jax.Array:
    """The discriminator's loss (B,) on real images; arguments and errors as in `generator_loss`."""
    return _summed(logits, REAL, kind)


def fake_loss(logits: Sequence[jax.Array], *, kind: Kind = "sigmoid") -> jax.Array:
    """The discriminator's loss (B,) on generated images; arguments and errors as in `generator_loss`."""
    return _summed(logits, FAKE, kind)


def _summed(logits: Sequence[jax.Array], losses: Losses, kind: Kind) -> jax.Array:
    """Average each image's loss within each level, then add up the levels."""
    if kind not in losses:
        raise UserError(f"kind is {kind!r}, allowed are {', '.join(get_args(Kind))}")
    if not logits:
        raise ValueError("no logits given: at least one level is needed")
    levels = [losses[kind](x.astype(jnp.float32)).reshape(len(x), -1).mean(1) for x in logits]
    return jnp.sum(jnp.stack(levels), 0)
