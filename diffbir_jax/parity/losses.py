"""Losses of one-step adversarial training: GAN losses at several levels, a discriminator head, score distillation."""

from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.conversion.engine import CONV, DENSE, SAME, Layout, Params, Rule
from diffbir_jax.conversion.rules import Rules
from diffbir_jax.diffusion.schedule import q_sample
from diffbir_jax.models.apply import abstract
from diffbir_jax.models.feature_discriminator import FeatureDiscriminator
from diffbir_jax.models.spectral import SpectralState, init_spectral, power_iteration
from diffbir_jax.parity import lora_steps, networks
from diffbir_jax.parity.case import Arrays, Case, Values, matching, nchw, nhwc
from diffbir_jax.parity.lora import REGULARISER
from diffbir_jax.parity.lora_steps import DISTILLATION, SCHEDULE
from diffbir_jax.parity.weights import filled
from diffbir_jax.training.adversarial import fake_loss, generator_loss, real_loss
from diffbir_jax.training.critic import Critic, mobilenet
from diffbir_jax.training.vsd import predict_clean, regulariser_loss, vsd_direction, vsd_loss

GAN = {"real": real_loss, "fake": fake_loss, "generator": generator_loss}
LEVELS = range(4)
# The features are given, so no network extracts them.
HEAD = FeatureDiscriminator(width=7)
CRITIC = Critic(mobilenet, HEAD)


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the loss cases of onestep_*.npz, or of a part of it."""
    make = partial(Case, file, group="losses")
    logits, features = ([f"{name}_{i}" for i in LEVELS] for name in ("gan|logits", "head|features"))
    sigmoid = [*(f"gan|{kind}" for kind in GAN), *matching(keys, "gan|*_grad_*")]
    yield make("gan|sigmoid", sigmoid, logits, compute=cross_entropy)
    yield make("gan|hinge", [f"gan|hinge_{kind}" for kind in GAN], logits, compute=hinge)
    for mode in ("eval", "train"):
        head = partial(judged, salt=salt, mode=mode)
        yield make(f"head|{mode}", [f"head|{mode}|logits_{i}" for i in LEVELS], features, compute=head)
    inputs = ["vsd|latents", "vsd|noise", "vsd|timesteps", "context"]
    outputs = [f"vsd|{name}" for name in ("weight", "direction", "loss", "grad_latents")]
    yield make("vsd", [*outputs, "vsd_lora|loss"], inputs, compute=partial(distilled, salt=salt))
    yield from lora_steps.cases(make, keys, salt)


def cross_entropy(golden: Arrays) -> Values:
    """Return each image's loss (B, 1), and per level the gradient of the mean over images."""
    values: dict[str, jax.Array] = {}
    for kind, (losses, gradients) in _cross_entropy(_logits(golden)).items():
        # The reference returns a column.
        values[f"gan|{kind}"] = losses[:, None]
        values |= {f"gan|{kind}_grad_{i}": x for i, x in enumerate(gradients)}
    return values


def hinge(golden: Arrays) -> Values:
    """Return the hinge losses, averaged over images."""
    return {f"gan|hinge_{kind}": loss for kind, loss in _hinge(_logits(golden)).items()}


@jax.jit
def _cross_entropy(logits: list[jax.Array]) -> dict[str, tuple[jax.Array, list[jax.Array]]]:
    """Return kind -> (losses (B,), gradients by level)."""

    def mean(logits: list[jax.Array], kind: str) -> tuple[jax.Array, jax.Array]:
        losses = GAN[kind](logits)
        return jnp.mean(losses), losses

    return {kind: jax.grad(mean, has_aux=True)(logits, kind)[::-1] for kind in GAN}


@jax.jit
def _hinge(logits: list[jax.Array]) -> dict[str, jax.Array]:
    return {kind: jnp.mean(loss(logits, kind="hinge")) for kind, loss in GAN.items()}


def _logits(golden: Arrays) -> list[jax.Array]:
    return [jnp.asarray(golden[f"gan|logits_{i}"]) for i in LEVELS]


def judged(golden: Arrays, salt: str, mode: str) -> Values:
    """Return the head's logits with the stored vectors or, in training, after a power iteration."""
    features = [golden[f"head|features_{i}"] for i in LEVELS]
    inputs = [nhwc(x) if x.ndim == 4 else jnp.asarray(x) for x in features]
    logits = _judge(*head_weights(inputs, salt), inputs)[mode]
    return {f"head|{mode}|logits_{i}": x[..., 0] if x.ndim == 4 else x for i, x in enumerate(logits)}


@jax.jit
def _judge(params: Params, state: SpectralState, features: list[jax.Array]) -> dict[str, list[jax.Array]]:
    states = {"eval": state, "train": power_iteration(params, state)}
    return {mode: CRITIC.judged(params, vectors, features) for mode, vectors in states.items()}


def head_weights(features: list[jax.Array], salt: str) -> tuple[Params, SpectralState]:
    """Return computed parameters of the head, and unit vectors for its spectral norms."""
    shapes = abstract(HEAD, features)
    state = jax.eval_shape(init_spectral, jax.random.key(0), shapes)
    rules = list(_head_rules())
    vectors = filled("hypir_d", [rule for rule in rules if rule.path[-2:] in ("/u", "/v")], state, salt)
    params = filled("hypir_d", [rule for rule in rules if rule.path[-2:] not in ("/u", "/v")], shapes, salt)
    # PyTorch keeps both vectors at unit length; computed ones are not.
    return params, jax.tree.map(lambda x: x / np.linalg.norm(x), jax.device_get(vectors))


def _head_rules() -> Rules:
    for i in LEVELS[:-1]:
        yield from _spectral(f"decoder.{i}.1", f"level_{i}_in", CONV, _pixels(3))
        yield from _spectral(f"decoder.{i}.4", f"level_{i}_out", CONV, _pixels(1))
    yield from _spectral("decoder.3.0", "level_3_in", DENSE, SAME)
    yield from _spectral("out", "level_3_out", DENSE, SAME)


def _spectral(key: str, path: str, layout: Layout, inputs: Layout) -> Rules:
    yield Rule(f"{key}.weight_orig", f"{path}/kernel", layout)
    yield Rule(f"{key}.bias", f"{path}/bias")
    yield Rule(f"{key}.weight_u", f"{path}/u")
    yield Rule(f"{key}.weight_v", f"{path}/v", inputs)


def _pixels(size: int) -> Layout:
    """Return the layout of a convolution's inputs as one vector; in PyTorch the channel comes first."""
    return Layout(
        lambda x: x.reshape(-1, size, size).transpose(1, 2, 0),
        lambda x: x.transpose(2, 0, 1).reshape(-1),
    )


def distilled(golden: Arrays, salt: str) -> Values:
    """Return the loss of the latents, its gradient and that gradient's parts, and the regulariser's own loss."""
    t = jnp.asarray(golden["vsd|timesteps"], jnp.int32)
    latents, noise = nhwc(golden["vsd|latents"]), nhwc(golden["vsd|noise"])
    unet, lora = networks.weights("unet", "small", salt), REGULARISER.weights(salt)
    prompts = [jnp.asarray(np.broadcast_to(x, (len(t), *x.shape))) for x in golden["context"][:2]]
    values = _distil(unet, lora, latents, t, noise, prompts)
    return {key: nchw(x) if x.shape == latents.shape else x for key, x in values.items()}


@jax.jit
def _distil(
    unet: Params,
    lora: Params,
    latents: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    prompts: Sequence[jax.Array],
) -> dict[str, jax.Array]:
    """Compute the losses; the outputs of both scores serve all of them, so that their programs compile once."""
    z_t = q_sample(SCHEDULE, latents, t, noise)
    real = DISTILLATION.real(unet, *prompts)(z_t, t)
    fake = DISTILLATION.fake(lora, unet, prompts[0])(z_t, t)
    direction, weight = vsd_direction(latents, *(predict_clean(SCHEDULE, z_t, x, t) for x in (real, fake)))
    loss, gradient = jax.value_and_grad(
        # The outputs are constants here: the loss sends no gradient through the scores.
        lambda z: vsd_loss(SCHEDULE, lambda *_: real, lambda *_: fake, z, t, noise)
    )(latents)
    values = {"weight": weight, "direction": direction, "loss": loss, "grad_latents": gradient}
    follow = regulariser_loss(SCHEDULE, lambda *_: fake, latents, t, noise)
    return {f"vsd|{name}": x for name, x in values.items()} | {"vsd_lora|loss": follow}
