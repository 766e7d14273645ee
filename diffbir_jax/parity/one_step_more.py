"""Published one-step restorers on the small networks: OSEDiff, S3Diff and InvSR."""

from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.conversion import one_step as tables
from diffbir_jax.conversion.diffusers import unet_rules
from diffbir_jax.imaging.canvas import cut_padded
from diffbir_jax.imaging.colour import adain_colour, host_wavelet_colour
from diffbir_jax.imaging.preparation import by_bilinear, by_pillow
from diffbir_jax.imaging.resize import resize
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.degradation_estimator import DegradationEstimator, DegradationEstimatorConfig
from diffbir_jax.models.lora import adapted
from diffbir_jax.models.modulation import Modulation, ModulationConfig, matrices_of, unet_part, vae_part
from diffbir_jax.models.noise_predictor import NoisePredictor, NoisePredictorConfig
from diffbir_jax.parity import networks
from diffbir_jax.parity.case import EXACT, IMAGE, Arrays, Case, Values, matching, nchw, nhwc
from diffbir_jax.parity.lora import OSEDIFF, OSEDIFF_VAE, S3DIFF, S3DIFF_VAE, UNET
from diffbir_jax.parity.one_step import (
    FACTOR,
    SCHEDULE,
    Make,
    adapted_weights,
    base,
    clean,
    decoded,
    encoded,
    kernels,
    predicted,
)
from diffbir_jax.parity.tiles import tiled
from diffbir_jax.parity.weights import fill, filled
from diffbir_jax.sampling.onestep import draw_posterior

ESTIMATOR = DegradationEstimator(DegradationEstimatorConfig((8, 8, 8, 16), 1))
MODULATION = Modulation(ModulationConfig(16, 4))
PREDICTOR = NoisePredictor(NoisePredictorConfig((32, 64), 1, 16, 64, 128))
LAST = 999


def osediff_unet(salt: str) -> Params:
    """Return the UNet with OSEDiff's LoRA, and its trained first convolution."""
    params = with_first(base("unet", salt), "osediff", "conv_in.base_layer", salt)
    return jax.jit(OSEDIFF.merged)(params, OSEDIFF.weights(salt))


def with_first(unet: Params, module: str, layer: str, salt: str) -> Params:
    """Return the UNet with the first convolution of a one-step restorer."""
    rules = {rule.key: rule for rule in unet_rules(UNET)}
    shapes = {"weight": (UNET.model_channels, UNET.in_channels, 3, 3), "bias": (UNET.model_channels,)}
    values = {
        rules[f"conv_in.{name}"].path.split("/")[-1]: rules[f"conv_in.{name}"].layout.to_flax(
            fill(module, f"state_dict_unet.{layer}.{name}", shape, salt)
        )
        for name, shape in shapes.items()
    }
    return unet | {"encoder": unet["encoder"] | {"conv_in": jax.tree.map(jnp.asarray, values)}}


def osediff(make: Make, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of OSEDiff."""
    inputs = ["image", "noise", "context"]

    def run(golden: Arrays) -> Values:
        vae = adapted_weights([OSEDIFF_VAE], "vae", salt)
        mean, logvar = map(nchw, encoded(vae, golden["image"]))
        z = FACTOR * np.asarray(draw_posterior(mean, logvar, golden["noise"]))
        eps = nchw(predicted(osediff_unet(salt), z, LAST, golden["context"][:2]))
        z0 = clean(z, eps, LAST)
        found = {"moments_mean": mean, "moments_logvar": logvar, "z_lq": z, "eps": eps, "z0": z0}
        found["decoded"] = decoded(z0, salt, clip=True)
        return {f"osediff|{name}": x for name, x in found.items()}

    def odd(golden: Arrays) -> Values:
        vae = adapted_weights([OSEDIFF_VAE], "vae", salt)
        mean, logvar = map(nchw, encoded(vae, golden["osediff|odd|image"]))
        z = FACTOR * np.asarray(draw_posterior(mean, logvar, golden["osediff|odd|noise"]))
        eps = nchw(predicted(osediff_unet(salt), z, LAST, golden["context"][:1]))
        found = {"z_lq": z, "eps": eps, "decoded": decoded(clean(z, eps, LAST), salt, clip=True)}
        return {f"osediff|odd|{name}": x for name, x in found.items()}

    def in_tiles(golden: Arrays) -> Values:
        unet, context = osediff_unet(salt), golden["context"][:1]
        eps = tiled(lambda z: predicted(unet, z, LAST, context), nhwc(golden["osediff|tiled|z_lq"]), 8, 6)
        return {"osediff|tiled|eps": nchw(eps)}

    names = ["moments_mean", "moments_logvar", "z_lq", "eps", "z0", "decoded"]
    yield make("osediff|run", [f"osediff|{name}" for name in names], inputs, compute=run)
    outputs = [f"osediff|odd|{name}" for name in ("z_lq", "eps", "decoded")]
    yield make("osediff|odd", outputs, ["osediff|odd|image", "osediff|odd|noise", "context"], compute=odd)
    tiles = ["osediff|tiled|z_lq", "context"]
    yield make("osediff|tiled", ["osediff|tiled|eps"], tiles, compute=in_tiles)
    merged = {"unet": osediff_unet, "vae": partial(adapted_weights, [OSEDIFF_VAE], "vae")}
    for network, weights in merged.items():
        yield from kernels(make, keys, f"osediff|merged|{network}|", network, partial(weights, salt=salt))
    yield from _colours(make)
    yield from _preparation(make, keys)


def _colours(make: Make) -> Iterator[Case]:
    def corrected(golden: Arrays) -> Values:
        pair = [np.moveaxis(golden[f"osediff|adain|{name}"], 1, -1) for name in ("content", "style")]
        wavelet = host_wavelet_colour(pair[0][0], pair[1][0])[None]
        return {"osediff|adain|out": nchw(adain_colour(*pair)), "osediff|wavelet|out": nchw(wavelet)}

    pair = [f"osediff|adain|{name}" for name in ("content", "style")]
    yield make("osediff|colours", ["osediff|adain|out", "osediff|wavelet|out"], pair, IMAGE, corrected)


def _preparation(make: Make, keys: Sequence[str]) -> Iterator[Case]:
    inputs = matching(keys, "osediff|prep|*|in")

    def prepared(golden: Arrays) -> Values:
        found = {}
        for key in inputs:
            name, least = key.removesuffix("|in"), int(key.split("|")[3])
            image = by_pillow(golden[key], 4, least)
            found[f"{name}|size"] = np.array(image.shape[1::-1])
            found[f"{name}|out_every5"] = image[::5, ::5]
        return found

    outputs = matching(keys, "osediff|prep|*|size", "osediff|prep|*|out_every5")
    yield make("osediff|prep", outputs, inputs, EXACT, prepared)


def s3diff(make: Make, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of S3Diff."""

    def degrees(golden: Arrays) -> Values:
        """The estimated degradation, and what it makes of the LoRAs."""
        found = networks.run(ESTIMATOR, estimator_weights(salt), nhwc(golden["s3diff|lr"]))
        params = modulation_weights(salt)
        matrices = networks.run(MODULATION, params, found)
        return {
            "s3diff|deg_score": found,
            "s3diff|fourier": networks.run(MODULATION, params, found, method="embed"),
            "s3diff|modulation_vae": matrices["vae"],
            "s3diff|modulation_unet": matrices["unet"],
        }

    names = ["deg_score", "fourier", "modulation_vae", "modulation_unet"]
    yield make("s3diff|degrees", [f"s3diff|{name}" for name in names], ["s3diff|lr"], compute=degrees)

    def run(golden: Arrays) -> Values:
        """The whole path, with its stations."""
        degrees = networks.run(ESTIMATOR, estimator_weights(salt), nhwc(golden["s3diff|lr"]))
        matrices = networks.run(MODULATION, modulation_weights(salt), degrees)
        image = nhwc(golden["image"])
        mean, logvar = map(nchw, _encode(base("vae", salt), S3DIFF_VAE.weights(salt), matrices["vae"], image))
        z = FACTOR * np.asarray(draw_posterior(mean, logvar, golden["noise"]))
        unet = with_first(base("unet", salt), "s3diff", "conv_in", salt)
        lora, context = S3DIFF.weights(salt), golden["context"]
        positive, negative = (
            nchw(_predict(unet, lora, matrices["unet"], nhwc(z), jnp.asarray(np.stack([context[i]] * 2))))
            for i in range(2)
        )
        eps = negative + 1.07 * (positive - negative)
        z0 = clean(z, eps, LAST)
        found = {"moments_mean": mean, "moments_logvar": logvar, "z_lq": z, "eps_pos": positive}
        found |= {"eps_neg": negative, "eps": eps, "z0": z0, "decoded": decoded(z0, salt, clip=True)}
        return {f"s3diff|{name}": x for name, x in found.items()}

    names = ["moments_mean", "moments_logvar", "z_lq", "eps_pos", "eps_neg", "eps", "z0", "decoded"]
    inputs = ["s3diff|lr", "image", "noise", "context"]
    yield make("s3diff|run", [f"s3diff|{name}" for name in names], inputs, compute=run)

    def prepared(golden: Arrays) -> Values:
        image = np.moveaxis(golden["s3diff|prep|in"][0], 0, -1)
        large = by_bilinear(image, (4 * image.shape[0], 4 * image.shape[1]), 4.0)
        sides = [-(-side // 64) * 64 for side in large.shape[:2]]
        padded = cut_padded(large, np.zeros(2, np.int32), (sides[0], sides[1]), "reflect")
        return {"s3diff|prep|out": nchw((2.0 * padded - 1.0)[None])}

    yield make("s3diff|prep", ["s3diff|prep|out"], ["s3diff|prep|in"], IMAGE, prepared)


def estimator_weights(salt: str) -> Params:
    """Return computed weights of the small estimator."""
    config = ESTIMATOR.config
    return filled("s3diff_de", tables.estimator_rules(config), tables.abstract_estimator(config), salt)


def modulation_weights(salt: str) -> Params:
    """Return computed weights of the small modulation."""
    config = MODULATION.config
    return filled("s3diff", tables.modulation_rules(config), tables.abstract_modulation(config), salt)


@jax.jit
def _encode(
    params: Params, lora: Params, matrices: jax.Array, image: jax.Array
) -> tuple[jax.Array, jax.Array]:
    with adapted(lora, S3DIFF_VAE.scale, lambda path: matrices_of(matrices, vae_part(path))):
        return apply(networks.module("vae", "small"), params, image, method="encode")


@jax.jit
def _predict(
    params: Params, lora: Params, matrices: jax.Array, z: jax.Array, context: jax.Array
) -> jax.Array:
    with adapted(lora, S3DIFF.scale, lambda path: matrices_of(matrices, unet_part(path))):
        return apply(networks.module("unet", "small"), params, z, jnp.full(len(z), LAST, jnp.int32), context)


def invsr(make: Make, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of InvSR."""

    def run(golden: Arrays) -> Values:
        """The whole path, with its stations."""
        lr, config = nhwc(golden["invsr|lr"]), PREDICTOR.config
        params = filled("invsr", tables.predictor_rules(config), tables.abstract_predictor(config), salt)
        times = jnp.full(len(lr), 200, jnp.int32)
        mean, logvar = map(nchw, networks.run(PREDICTOR, params, 2.0 * lr - 1.0, times))
        noise = draw_posterior(mean, logvar, golden["invsr|noise_predictor_noise"])
        large = resize(lr, (4 * lr.shape[1], 4 * lr.shape[2]), "bicubic")
        middle, spread = map(nchw, encoded(base("vae", salt), nchw(2.0 * large - 1.0)))
        z = FACTOR * np.asarray(draw_posterior(middle, spread, golden["invsr|posterior_noise"]))
        kept = SCHEDULE.alphas_cumprod[200]
        sigma = np.float32(np.sqrt((1 - kept) / kept))
        x = z + sigma * np.asarray(noise)
        scaled = x / np.sqrt(1 + sigma**2)
        eps = nchw(predicted(base("unet", salt), scaled, 200, golden["context"][:2]))
        z0 = x - sigma * eps
        found = {"noise_mean": mean, "noise_logvar": logvar, "z_lq": z, "x_t": x, "eps": eps, "z0": z0}
        found["decoded"] = decoded(z0, salt, clip=False)
        return {f"invsr|{name}": value for name, value in found.items()}

    names = ["noise_mean", "noise_logvar", "z_lq", "x_t", "eps", "z0", "decoded"]
    noises = ["invsr|noise_predictor_noise", "invsr|posterior_noise"]
    yield make("invsr", [f"invsr|{name}" for name in names], ["invsr|lr", *noises, "context"], compute=run)
