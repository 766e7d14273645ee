"""Published one-step restorers on the small networks: HYPIR, PiSA-SR, and what all of them share."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffbir_jax.diffusion.schedule import make_schedule, predict_x0
from diffbir_jax.imaging.preparation import by_bicubic
from diffbir_jax.models.apply import Params
from diffbir_jax.models.lora import merge
from diffbir_jax.parity import networks
from diffbir_jax.parity.case import EXACT, IMAGE, Arrays, Case, Values, matching, nchw, nhwc
from diffbir_jax.parity.lora import HYPIR, PIXEL, SEMANTIC, Adapter, merged_kernels
from diffbir_jax.sampling.onestep import blended_prediction, draw_posterior
from diffbir_jax.text.tokenizer import tokenize

SCHEDULE = make_schedule()
FACTOR = 0.18215
Compute = Callable[[Arrays], Values]
Make = Callable[..., Case]

merged = jax.jit(merge, static_argnums=2)
x0 = jax.jit(partial(predict_x0, "eps"))


def base(network: str, salt: str) -> Params:
    """Return the computed weights of a small base network."""
    return networks.weights(network, "small", salt)


def adapted_weights(adapters: Sequence[Adapter], network: str, salt: str) -> Params:
    """Return the weights of a small network with LoRAs merged into it."""
    params = base(network, salt)
    for adapter in adapters:
        params = merged(params, adapter.weights(salt), adapter.scale)
    return params


def encoded(vae: Params, image: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance of images in PyTorch's layout."""
    return networks.run(networks.module("vae", "small"), vae, nhwc(image), method="encode")


def predicted(unet: Params, z: jax.Array | np.ndarray, t: int, context: np.ndarray) -> jax.Array:
    """The small UNet's output; `z` in PyTorch's layout."""
    z = nhwc(z) if isinstance(z, np.ndarray) else z
    times = jnp.full(len(z), t, jnp.int32)
    return networks.run(networks.module("unet", "small"), unet, z, times, jnp.asarray(context))


def clean(z: ArrayLike, output: ArrayLike, t: int) -> np.ndarray:
    """x0 of a prediction of the noise at timestep t; all in PyTorch's layout."""
    signal = np.sqrt(SCHEDULE.alphas_cumprod[t])
    noise = np.sqrt(1 - SCHEDULE.alphas_cumprod[t])
    return np.asarray(x0(jnp.asarray(z), jnp.asarray(output), jnp.float32(signal), jnp.float32(noise)))


def decoded(z: np.ndarray, salt: str, clip: bool) -> np.ndarray:
    """The base decoder's images of scaled latents, both in PyTorch's layout."""
    image = networks.run(
        networks.module("vae", "small"), base("vae", salt), nhwc(z) / FACTOR, method="decode"
    )
    return np.clip(nchw(image), -1.0, 1.0) if clip else nchw(image)


def common(make: Make, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of the base networks: tokens, text, latents, the UNet without a LoRA."""

    def read(golden: Arrays) -> Values:
        return {"tokens": tokenize(golden["prompts"].tolist())}

    def embed(golden: Arrays) -> Values:
        module, params = networks.module("clip", "small"), base("clip", salt)
        return {"context": networks.run(module, params, jnp.asarray(golden["tokens"], jnp.int32))}

    def encode(golden: Arrays) -> Values:
        mean, logvar = map(nchw, encoded(base("vae", salt), golden["image"]))
        z = FACTOR * draw_posterior(mean, logvar, golden["noise"])
        return {"base|moments_mean": mean, "base|moments_logvar": logvar, "base|z_lq": np.asarray(z)}

    def unet(golden: Arrays) -> Values:
        z, context = golden["base|z_lq"], golden["context"][:2]
        return {"base|eps_t200": nchw(predicted(base("unet", salt), z, 200, context))}

    yield make("tokens", ["tokens"], ["prompts"], EXACT, read)
    yield make("context", ["context"], ["tokens"], compute=embed)
    names = ["base|moments_mean", "base|moments_logvar", "base|z_lq"]
    yield make("base|encode", names, ["image", "noise"], compute=encode)
    yield make("base|eps", ["base|eps_t200"], ["base|z_lq", "context"], compute=unet)


def hypir(make: Make, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of HYPIR but for the whole path."""
    inputs = ["base|z_lq", "context"]

    def run(golden: Arrays) -> Values:
        z, unet = golden["base|z_lq"], adapted_weights([HYPIR], "unet", salt)
        eps = {t: nchw(predicted(unet, z, t, golden["context"][:2])) for t in (200, 500)}
        z0 = clean(z, eps[200], 200)
        return {
            "hypir|eps": eps[200],
            "hypir|z0": z0,
            "hypir|decoded": decoded(z0, salt, clip=False),
            "hypir|t500_c100|z0": clean(z, eps[500], 100),
        }

    yield make(
        "hypir|run", ["hypir|eps", "hypir|z0", "hypir|decoded", "hypir|t500_c100|z0"], inputs, compute=run
    )
    yield from kernels(make, keys, "hypir|merged|", "unet", partial(adapted_weights, [HYPIR], "unet", salt))
    outputs = [key for key in matching(keys, "hypir|resize|*") if not key.endswith("|in")]

    def resized(golden: Arrays) -> Values:
        image = np.moveaxis(golden["hypir|resize|in"][0], 0, -1)
        found = {}
        for key in outputs:
            factor = float(key.split("|")[-1])
            height, width = (int(side * factor) for side in image.shape[:2])
            found[key] = nchw(by_bicubic(image, (height, width), factor)[None])
        return found

    yield make("hypir|resize", outputs, ["hypir|resize|in"], IMAGE, resized)


def pisa_sr(make: Make, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of PiSA-SR."""

    def run(golden: Arrays) -> Values:
        z, context = golden["base|z_lq"], golden["context"][:2]
        pixel = nchw(predicted(adapted_weights([PIXEL], "unet", salt), z, 1, context))
        both = nchw(predicted(adapted_weights([PIXEL, SEMANTIC], "unet", salt), z, 1, context))
        z0 = z - np.asarray(blended_prediction(pixel, both, 1.0, 1.0))
        return {
            "pisa_sr|pix": pixel,
            "pisa_sr|both": both,
            "pisa_sr|z0": z0,
            "pisa_sr|z0_pix0.7_sem1.3": z - np.asarray(blended_prediction(pixel, both, 0.7, 1.3)),
            "pisa_sr|decoded": decoded(z0, salt, clip=True),
        }

    names = ["pix", "both", "z0", "z0_pix0.7_sem1.3", "decoded"]
    yield make("pisa_sr", [f"pisa_sr|{name}" for name in names], ["base|z_lq", "context"], compute=run)


def kernels(
    make: Make, keys: Sequence[str], prefix: str, network: str, weights: Callable[[], Params]
) -> Iterator[Case]:
    """Yield the case of merged kernels of a network with these weights."""
    names = {key: key.removeprefix(prefix) for key in matching(keys, f"{prefix}*")}

    def found(golden: Arrays) -> Values:
        return merged_kernels(weights(), network, names)

    yield make(f"{prefix}*", list(names), [], compute=found)
