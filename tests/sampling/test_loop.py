"""The sampling loop: noise keys, tiles, what recompiles, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.imaging.tiling import gaussian_weights, make_grid, place_tiles
from diffbir_jax.parity.tiles import tile_windows
from diffbir_jax.sampling.ddpm import spaced_steps
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs, TiledModel
from diffbir_jax.sampling.guidance import PixelGuidance
from diffbir_jax.sampling.loop import draw_noise, image_keys, sample
from diffbir_jax.sampling.samplers import make_sampler
from diffbir_jax.sampling.timesteps import Span
from tests.draws import normal
from tests.sampling.toy import SCHEDULES, toy_model

LAYOUT = ("NHWC", "HWIO", "NHWC")


def test_noise_does_not_depend_on_the_batch():
    image = normal(1, (5, 4, 4, 2))
    cond = {"image": image, "text": jnp.ones((5, 1, 1, 1))}
    steps = spaced_steps(Span(SCHEDULES["v"], 3))

    def run(indices: list[int]) -> jax.Array:
        keys = image_keys(7, indices)
        x = draw_noise(keys, 0, (len(indices), 4, 4, 2))
        picked = jax.tree.map(lambda a: a[jnp.asarray(indices)], cond)
        return sample(Denoiser(toy_model, "v"), DenoiserInputs(None, picked), x, steps, keys)

    np.testing.assert_allclose(run([0, 1, 2, 3, 4])[3:], run([3, 4]), rtol=0, atol=1e-6)
    assert not np.allclose(run([3, 4])[0], run([3, 4])[1])


def test_steps_draw_different_noise():
    keys = image_keys(0, [0])
    draws = [np.asarray(draw_noise(keys, i, (1, 32, 32, 4))) for i in range(3)]
    assert abs(np.corrcoef(draws[0].ravel(), draws[1].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(draws[1].ravel(), draws[2].ravel())[0, 1]) < 0.05
    assert np.std(draws) == pytest.approx(1, abs=0.03)


def test_noise_must_fit_the_steps():
    x = jnp.zeros((1, 2, 2, 3))
    steps = spaced_steps(Span(SCHEDULES["v"], 3))
    with pytest.raises(ValueError, match="noise for 2 calls of the network given; the sampler makes 3"):
        sample(
            Denoiser(toy_model, "v"),
            DenoiserInputs(None, {}),
            x,
            steps,
            jnp.zeros((2, *x.shape)),
        )


def test_new_values_do_not_recompile():
    traces = []

    def model(params: jax.Array, x: jax.Array, t: jax.Array, cond: dict) -> jax.Array:
        traces.append(x.shape)
        return params * toy_model(None, x, t, cond)

    guidance = PixelGuidance(decode=lambda params, z: params * z)
    denoiser = Denoiser(model, "eps", guidance)

    def run(seed: int, cfg: float, scale: float, text: float, rescale=False, start=None, num_steps=3) -> None:
        keys = image_keys(seed, [seed, seed + 1])
        cond = {"image": jnp.full((2, 4, 4, 3), text), "text": jnp.full((2, 1, 1, 1), text)}
        target = guidance.prepare(jnp.float32(1 + text), jnp.full((2, 4, 4, 3), text), repeats=1 + seed)
        steps = spaced_steps(
            Span(SCHEDULES["eps"], num_steps, start), cfg_scale=cfg, rescale_cfg=rescale,
            guidance_scale=scale, guidance_window=(0, 400 + seed),
        )  # fmt: skip
        inputs = DenoiserInputs(jnp.float32(text), cond, {"text": -cond["text"]}, target)
        jax.block_until_ready(sample(denoiser, inputs, draw_noise(keys, 0, (2, 4, 4, 3)), steps, keys))

    run(0, 4.0, 0.1, 0.5)
    assert traces == [(2, 4, 4, 3)], "one forward, traced once"
    run(1, 1.0, 0.0, 0.2)
    run(2, 6.0, 0.3, 0.1, rescale=True, start=500)
    assert len(traces) == 1
    run(2, 6.0, 0.3, 0.1, num_steps=4)
    assert len(traces) == 2, "the number of steps is a shape"


def tile_aware_model(params: jax.Array, z: jax.Array, t: jax.Array, cond: dict) -> jax.Array:
    """A network that sees how far the pixels of its tile lie from the tile's mean."""
    mean = jnp.mean(z + cond["hint"], axis=(1, 2, 3), keepdims=True)
    return toy_model(None, params * z - mean, t, {"image": cond["hint"], "text": cond["text"]})


@pytest.fixture(scope="module")
def tiled_case():
    """Parameters, latents (2, 10, 14, 3), timesteps and condition for `tile_aware_model`."""
    z, hint = normal(0, (2, 2, 10, 14, 3))
    grid = make_grid((10, 14), (8, 8), (4, 4))
    # Six of 18 places stay empty; batches of three tiles hold those of both images.
    cond = {"hint": hint, "text": jnp.ones((2, 1, 1, 1)), "tiles": place_tiles([grid] * 2, (10, 14), 18)}
    return jnp.float32(0.8), z, jnp.array([500, 20]), cond


def test_tiles_of_a_network_are_blended(tiled_case):
    params, z, t, cond = tiled_case
    total, weight = np.zeros(z.shape), np.zeros(z.shape)
    for top, bottom, left, right in tile_windows(10, 14, 8, 4):
        part = (slice(None), slice(top, bottom), slice(left, right))
        out = tile_aware_model(params, z[part], t, cond | {"hint": cond["hint"][part]})
        total[part] += np.asarray(out) * gaussian_weights(8, 8)[..., None]
        weight[part] += gaussian_weights(8, 8)[..., None]
    blended = TiledModel(tile_aware_model, (8, 8), 3)(params, z, t, cond)
    np.testing.assert_allclose(blended, total / weight, rtol=0, atol=1e-6)
    assert not np.allclose(blended, tile_aware_model(params, z, t, cond), atol=0.01)


@pytest.mark.parametrize("name", ["spaced", "edm_dpm++_3m_sde"])
def test_sampling_in_tiles(name, tiled_case):
    """A network that looks at single pixels samples the same in tiles as without, with both prompts at once."""
    params, z, _, cond = tiled_case

    def model(params: jax.Array, z: jax.Array, t: jax.Array, cond: dict) -> jax.Array:
        return toy_model(None, params * z, t, {"image": cond["hint"], "text": cond["text"]})

    steps = make_sampler(name, Span(SCHEDULES["v"], 3), cfg_scale=4.0)
    inputs = DenoiserInputs(params, cond, {"text": -cond["text"]})
    whole, tiles = (
        sample(Denoiser(m, "v"), inputs, z, steps, image_keys(0, [0, 1]))
        for m in (model, TiledModel(model, (8, 8), 3))
    )
    np.testing.assert_allclose(tiles, whole, rtol=0, atol=1e-4)


def test_guided_memory_does_not_grow_with_the_steps():
    """The gradient lives inside a step: the decoder's activations are not kept from one to the next."""

    def decode(params: jax.Array, z: jax.Array) -> jax.Array:
        for _ in range(4):
            z = jnp.repeat(jnp.repeat(z, 2, axis=1), 2, axis=2)
            z = jnp.tanh(jax.lax.conv_general_dilated(z, params, (1, 1), "SAME", dimension_numbers=LAYOUT))
        return z

    def temporary_bytes(num_steps: int) -> int:
        guidance = PixelGuidance(decode)
        target = guidance.prepare(jnp.zeros((3, 3, 3, 3)), jnp.zeros((1, 128, 128, 3)))
        denoiser = Denoiser(lambda params, x, t, cond: x - cond["x"], "eps", guidance)
        steps = spaced_steps(Span(SCHEDULES["eps"], num_steps), guidance_scale=0.1)
        x = jnp.zeros((1, 8, 8, 3))
        inputs = DenoiserInputs(None, {"x": x}, guidance=target)
        compiled = sample.lower(denoiser, inputs, x, steps, image_keys(0, [0])).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    few, many = temporary_bytes(2), temporary_bytes(32)
    assert few > 128 * 128 * 3 * 4
    assert many < 1.05 * few
