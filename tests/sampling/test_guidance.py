"""Region-adaptive guidance: the weight map, the losses, the gradient step."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.conversion.engine import convert, torch_shapes
from diffbir_jax.conversion.stable_diffusion import vae_rules
from diffbir_jax.imaging.tiling import Tiles, gaussian_weights, make_grid, place_tiles
from diffbir_jax.models.vae import AutoencoderKL, VAEConfig
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs
from diffbir_jax.sampling.guidance import GuidanceInputs, LatentGuidance, PixelGuidance, fidelity_weight
from diffbir_jax.sampling.tables import GUIDANCE_UNIT, Level
from tests.draws import normal, uniform
from tests.golden.weights import fill

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "guidance.npz")
Z0 = normal(0, (2, 4, 6, 3))
TARGET = jnp.tanh(normal(1, (2, 4, 6, 3)))


def nhwc(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def linear_decode(params: jax.Array, z: jax.Array) -> jax.Array:
    return z @ params


@pytest.fixture(scope="module")
def small_vae():
    """The decoder of the golden gradients, its parameters, and a compiled guidance step through it."""
    vae = AutoencoderKL(VAEConfig(ch=32))
    target = jax.eval_shape(lambda: vae.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))["params"]
    table = list(vae_rules(vae.config))
    state = {key: fill("vae", key, shape) for key, shape in torch_shapes(table, target).items()}

    def decode(params, z: jax.Array) -> jax.Array:
        return jnp.asarray(vae.apply({"params": params}, z / vae.config.scale_factor, method="decode"))

    # Gradients of convolutions are plain loops: a minute unless LLVM optimises them, which tests/conftest.py turns off.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
    def step(inputs: GuidanceInputs, z0: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
        guidance = PixelGuidance(decode)
        return guidance(inputs, z0, strength) - z0, guidance.value(inputs, z0)

    return decode, convert(state, table, target), step


@pytest.mark.parametrize(
    "loss", [pytest.param("mse", marks=pytest.mark.slow), pytest.param("w_mse", marks=pytest.mark.slow)]
)
def test_gradient_parity(small_vae, loss):
    decode, params, step = small_vae
    inputs = PixelGuidance(decode, loss).prepare(params, nhwc(GOLDEN["target"]))
    for scale in (0.05, 0.5):
        delta, value = step(inputs, nhwc(GOLDEN["z0"]), jnp.float32(GUIDANCE_UNIT * scale))
        golden = nhwc(GOLDEN[f"{loss}|s={scale}|delta_z0"])
        np.testing.assert_allclose(delta, golden, rtol=0, atol=1e-4 * np.abs(golden).max())
        np.testing.assert_allclose(value, GOLDEN[f"{loss}|s={scale}|loss"], rtol=1e-4)


def test_weight_parity():
    weight = fidelity_weight(nhwc(GOLDEN["target"]))
    np.testing.assert_allclose(weight, nhwc(GOLDEN["weight"]), rtol=0, atol=1e-5)


def test_weight_is_high_in_flat_regions_only():
    texture = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)), jnp.float32)
    image = jnp.concatenate([jnp.full((1, 16, 16, 3), 0.3), texture], axis=2)
    weight = fidelity_weight(image)
    assert float(weight.min()) >= 0 and float(weight.max()) <= 1
    np.testing.assert_allclose(weight[:, :, :14], 1, atol=1e-5)
    assert float(weight[:, :, 18:].mean()) < 0.1


def test_closed_form_of_a_linear_decoder():
    """With W = 1 and D(z) = z A, the step is z - s * 2/(HWC) * (z A - target) A^T."""
    matrix = normal(2, (3, 3))
    guidance = PixelGuidance(linear_decode, "mse")
    moved = guidance(guidance.prepare(matrix, TARGET), Z0, jnp.float32(5))
    expected = Z0 - 5 * 2 / (4 * 6 * 3) * (Z0 @ matrix - TARGET) @ matrix.T
    np.testing.assert_allclose(moved, expected, atol=1e-5)


@pytest.mark.parametrize("loss, power", [("mse", 0), ("w_mse", 1), ("paper", 2)])
def test_losses(loss, power):
    guidance = PixelGuidance(linear_decode, loss)
    inputs = guidance.prepare(jnp.eye(3), TARGET)
    weighted = (fidelity_weight(TARGET) ** (power / 2) * (Z0 - TARGET)) ** 2
    np.testing.assert_allclose(guidance.value(inputs, Z0), weighted.mean((1, 2, 3)).sum(), rtol=1e-5)


@pytest.mark.parametrize("loss, power", [("mse", 0), ("w_mse", 1), ("paper", 2)])
def test_closed_form_in_latent_space(loss, power):
    """The step is z - s * 2/(hwc) * W (z - c), W averaged over the pixels of each latent."""
    image = uniform(5, (2, 16, 24, 3), -1.0)
    condition = normal(6, Z0.shape)
    guidance = LatentGuidance(loss)
    moved = guidance(guidance.prepare(image, condition), Z0, jnp.float32(5))
    weight = (fidelity_weight(image) ** power).reshape(2, 4, 4, 6, 4, 1).mean((2, 4))
    np.testing.assert_allclose(moved, Z0 - 5 * 2 / (4 * 6 * 3) * weight * (Z0 - condition), atol=1e-5)


def test_images_of_a_batch_do_not_mix():
    guidance = PixelGuidance(linear_decode, "w_mse")
    together = guidance(guidance.prepare(jnp.eye(3), TARGET), Z0, jnp.float32(3))
    alone = guidance(guidance.prepare(jnp.eye(3), TARGET[1:]), Z0[1:], jnp.float32(3))
    np.testing.assert_allclose(together[1:], alone, atol=1e-6)


def test_zero_strength_changes_nothing_even_where_the_gradient_is_not_finite():
    guidance = PixelGuidance(lambda params, z: z / params, "mse")
    inputs = guidance.prepare(jnp.float32(0), TARGET)
    np.testing.assert_array_equal(guidance(inputs, Z0, jnp.float32(0)), Z0)
    assert not np.isfinite(guidance(inputs, Z0, jnp.float32(1))).any()


def test_denoiser_guides_the_predicted_x0():
    guidance = PixelGuidance(linear_decode, "mse")
    prepared = guidance.prepare(jnp.eye(3), TARGET)
    inputs = DenoiserInputs(None, None, guidance=prepared)
    level = Level(*(jnp.float32(v) for v in (10, 0.8, 0.6, 1.0, 2.0)))

    def model(params: None, x: jax.Array, t: jax.Array, cond: None) -> jax.Array:
        return x

    x0, same = Denoiser(model, "v")(inputs, Z0, level)
    np.testing.assert_allclose(x0, 0.8 * Z0 - 0.6 * Z0, atol=1e-6)
    np.testing.assert_array_equal(same, x0)
    predicted, guided = Denoiser(model, "v", guidance)(inputs, Z0, level)
    np.testing.assert_array_equal(predicted, x0)
    np.testing.assert_allclose(guided, guidance(prepared, x0, jnp.float32(2)), atol=1e-6)


# Images on canvases, decoded tile by tile: latents of 3 channels, 2 pixels each way per latent pixel.

SIDES = [(8, 11), (5, 12), (8, 8)]
CANVAS, TILE, STRIDE, SCALE = (10, 14), (5, 6), (3, 4), 2


def pointwise_decode(params: jax.Array, z: jax.Array) -> jax.Array:
    """Neither linear nor the same for all pixels of a latent's block."""
    pixels = jnp.tanh(z @ params)
    return jnp.repeat(jnp.repeat(pixels, SCALE, axis=1), SCALE, axis=2)


def on_canvases(batch: int) -> tuple[GuidanceInputs, jax.Array]:
    """Targets, weights and latents of as many images, with what must not count beside them."""
    grids = [make_grid(sides, TILE, STRIDE).scaled(SCALE) for sides in SIDES]
    count = sum(len(grid.starts) for grid in grids)
    pixels = (SCALE * CANVAS[0], SCALE * CANVAS[1])
    tiles: Tiles = place_tiles(grids, pixels, -(-(count + batch) // batch) * batch)
    z0 = normal(8, (3, *CANVAS, 3))
    target = jnp.tanh(normal(9, (3, *pixels, 3)))
    weight = uniform(10, (3, *pixels, 1))
    return GuidanceInputs(jnp.eye(3) + 0.2, target, weight, jnp.int32(1), tiles), z0


@pytest.mark.parametrize("batch", [1, 3])
def test_in_tiles_the_loss_is_that_of_the_images(batch):
    """So is its gradient, as if each image were alone and whole; the mean is taken over the canvas."""
    inputs, z0 = on_canvases(batch)
    guidance = PixelGuidance(pointwise_decode, tile=TILE, batch=batch)
    value, gradient = jax.jit(jax.value_and_grad(guidance.value, argnums=1))(inputs, z0)
    whole, expected = PixelGuidance(pointwise_decode), jnp.zeros_like(z0)
    total = 0.0
    for i, (height, width) in enumerate(SIDES):
        there = np.s_[i : i + 1, : SCALE * height, : SCALE * width]
        alone = GuidanceInputs(inputs.params, inputs.target[there], inputs.weight[there], inputs.repeats)
        share = height * width / (CANVAS[0] * CANVAS[1])
        part, slope = jax.value_and_grad(whole.value, argnums=1)(alone, z0[i : i + 1, :height, :width])
        total += share * float(part)
        expected = expected.at[i, :height, :width].set(share * slope[0])
    np.testing.assert_allclose(value, total, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * jnp.abs(expected).max())


def test_in_tiles_each_pixel_is_the_mean_of_those_who_show_it():
    """Where tiles decode a pixel differently, their squared errors count by their weights, which sum to one."""
    inputs, z0 = on_canvases(1)
    tiles = inputs.tiles
    assert tiles is not None

    def decode(params: None, z: jax.Array) -> jax.Array:
        return jnp.broadcast_to(
            z.mean((1, 2, 3), keepdims=True), (len(z), TILE[0] * SCALE, TILE[1] * SCALE, 3)
        )

    inputs = inputs._replace(target=jnp.zeros_like(inputs.target), weight=jnp.ones_like(inputs.weight))
    value = PixelGuidance(decode, tile=TILE).value(inputs, z0)
    size, expected = (TILE[0] * SCALE, TILE[1] * SCALE), 0.0
    for image, (top, left), used in zip(tiles.image, tiles.start, tiles.used):
        rows, columns = tiles.rows[image, top : top + size[0]], tiles.columns[image, left : left + size[1]]
        share = (gaussian_weights(*size) / np.outer(rows, columns)).sum() * used
        cut = z0[image, top // SCALE : top // SCALE + TILE[0], left // SCALE : left // SCALE + TILE[1]]
        expected += 3 * share * float(cut.mean()) ** 2
    np.testing.assert_allclose(value, expected / inputs.target[0].size, rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="'l1'.*'mse', 'w_mse', 'paper'"):
        PixelGuidance(linear_decode, "l1")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="5x6; pad it to even sides"):
        fidelity_weight(jnp.zeros((1, 5, 6, 3)))
