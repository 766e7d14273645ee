"""The sampling loop: the reference's trajectories, an oracle, noise keys, and what recompiles."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion.schedule import make_schedule, q_sample, signal_and_noise, training_target
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs
from diffbir_jax.sampling.guidance import Guidance
from diffbir_jax.sampling.loop import draw_noise, image_keys, sample
from diffbir_jax.sampling.spaced import SPACED
from diffbir_jax.sampling.timesteps import spaced_steps

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "samplers.npz")
SCHEDULES = {
    "eps": make_schedule(),
    "v": make_schedule(zero_terminal_snr=True, parameterization="v"),
}
LAYOUT = ("NHWC", "HWIO", "NHWC")
SPACED_KEYS = [key for key in GOLDEN.files if "|spaced|" in key and key.endswith("|out")]


def nhwc(array: np.ndarray) -> jax.Array:
    return jnp.asarray(np.moveaxis(array, -3, -1))


def toy_model(params: None, x: jax.Array, t: jax.Array, cond: dict) -> jax.Array:
    """The function that stands for the network in the golden trajectories."""
    time = t.astype(jnp.float32)[:, None, None, None] / 1000
    return jnp.tanh(0.7 * x + 0.3 * cond["image"] - 0.2 * time) * (0.8 + 0.1 * time) + 0.05 * cond["text"]


@pytest.mark.parametrize("key", SPACED_KEYS)
def test_spaced_parity(key):
    param, _, num_steps, cfg, rescale, *_ = [part.split("=")[-1] for part in key.split("|")]
    text = jnp.array([[1.0, -1.0], [0.5, 0.25]])[..., None, None, None]
    image = nhwc(GOLDEN["c_img"])
    steps = spaced_steps(SCHEDULES[param], int(num_steps), cfg_scale=float(cfg), rescale_cfg=rescale == "1")
    out = sample(
        SPACED,
        Denoiser(toy_model, SCHEDULES[param].parameterization),
        DenoiserInputs(None, {"image": image, "text": text[0]}, {"image": image, "text": text[1]}),
        nhwc(GOLDEN["x_T"]),
        steps,
        nhwc(GOLDEN["noise_tape"][: int(num_steps)]),
    )
    golden = nhwc(GOLDEN[key])
    np.testing.assert_allclose(out, golden, rtol=0, atol=1e-4)


def oracle(param: str):
    """A network that knows the clean image: its output is the exact target for any z_t."""

    def model(params: None, x: jax.Array, t: jax.Array, x0: jax.Array) -> jax.Array:
        signal, noise = signal_and_noise(SCHEDULES[param], t)
        return training_target(SCHEDULES[param], x0, t, (x - signal * x0) / noise)

    return Denoiser(model, SCHEDULES[param].parameterization)


@pytest.mark.parametrize("param", ["eps", "v"])
@pytest.mark.parametrize("num_steps, start", [(1, None), (7, None), (4, 300)])
def test_oracle_recovers_x0(param, num_steps, start):
    keys = image_keys(0, [0, 1])
    x0 = jax.random.normal(jax.random.key(5), (2, 4, 6, 4))
    steps = spaced_steps(SCHEDULES[param], num_steps, start_timestep=start)
    t = jnp.full((2,), steps.level.timestep[0])
    x = q_sample(SCHEDULES[param], x0, t, draw_noise(keys, 0, x0.shape))
    out = sample(SPACED, oracle(param), DenoiserInputs(None, x0), x, steps, keys)
    np.testing.assert_allclose(out, x0, atol=1e-4)


def test_noise_does_not_depend_on_the_batch():
    image = jax.random.normal(jax.random.key(1), (5, 4, 4, 2))
    cond = {"image": image, "text": jnp.ones((5, 1, 1, 1))}
    steps = spaced_steps(SCHEDULES["v"], 3)

    def run(indices: list[int]) -> jax.Array:
        keys = image_keys(7, indices)
        x = draw_noise(keys, 0, (len(indices), 4, 4, 2))
        picked = jax.tree.map(lambda a: a[jnp.asarray(indices)], cond)
        return sample(SPACED, Denoiser(toy_model, "v"), DenoiserInputs(None, picked), x, steps, keys)

    np.testing.assert_allclose(run([0, 1, 2, 3, 4])[3:], run([3, 4]), rtol=0, atol=1e-6)
    assert not np.allclose(run([3, 4])[0], run([3, 4])[1])


def test_steps_draw_different_noise():
    keys = image_keys(0, [0])
    draws = [np.asarray(draw_noise(keys, i, (1, 32, 32, 4))) for i in range(3)]
    assert abs(np.corrcoef(draws[0].ravel(), draws[1].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(draws[1].ravel(), draws[2].ravel())[0, 1]) < 0.05
    assert np.std(draws) == pytest.approx(1, abs=0.03)


def test_new_values_do_not_recompile():
    traces = []

    def model(params: jax.Array, x: jax.Array, t: jax.Array, cond: dict) -> jax.Array:
        traces.append(x.shape)
        return params * toy_model(None, x, t, cond)

    guidance = Guidance(decode=lambda params, z: params * z)
    denoiser = Denoiser(model, "eps", guidance)

    def run(seed: int, cfg: float, scale: float, text: float, rescale=False, start=None, num_steps=3) -> None:
        keys = image_keys(seed, [seed, seed + 1])
        cond, uncond = (
            {"image": jnp.full((2, 4, 4, 3), text), "text": jnp.full((2, 1, 1, 1), sign * text)}
            for sign in (1, -1)
        )
        target = guidance.prepare(jnp.float32(1 + text), jnp.full((2, 4, 4, 3), text))
        steps = spaced_steps(
            SCHEDULES["eps"], num_steps, start_timestep=start, cfg_scale=cfg, rescale_cfg=rescale,
            guidance_scale=scale, guidance_window=(0, 400 + seed),
        )  # fmt: skip
        inputs = DenoiserInputs(jnp.float32(text), cond, uncond, target)
        jax.block_until_ready(
            sample(SPACED, denoiser, inputs, draw_noise(keys, 0, (2, 4, 4, 3)), steps, keys)
        )

    run(0, 4.0, 0.1, 0.5)
    assert traces == [(4, 4, 4, 3)], "one forward of twice the batch, traced once"
    run(1, 1.0, 0.0, 0.2)
    run(2, 6.0, 0.3, 0.1, rescale=True, start=500)
    assert len(traces) == 1
    run(2, 6.0, 0.3, 0.1, num_steps=4)
    assert len(traces) == 2, "the number of steps is a shape"


def test_guided_memory_does_not_grow_with_the_steps():
    """The gradient lives inside a step: the decoder's activations are not kept from one to the next."""

    def decode(params: jax.Array, z: jax.Array) -> jax.Array:
        for _ in range(4):
            z = jnp.repeat(jnp.repeat(z, 2, axis=1), 2, axis=2)
            z = jnp.tanh(jax.lax.conv_general_dilated(z, params, (1, 1), "SAME", dimension_numbers=LAYOUT))
        return z

    def temporary_bytes(num_steps: int) -> int:
        guidance = Guidance(decode)
        target = guidance.prepare(jnp.zeros((3, 3, 3, 3)), jnp.zeros((1, 128, 128, 3)))
        denoiser = Denoiser(lambda params, x, t, cond: x - cond, "eps", guidance)
        steps = spaced_steps(SCHEDULES["eps"], num_steps, guidance_scale=0.1)
        x = jnp.zeros((1, 8, 8, 3))
        inputs = DenoiserInputs(None, x, guidance=target)
        compiled = sample.lower(SPACED, denoiser, inputs, x, steps, image_keys(0, [0])).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    few, many = temporary_bytes(2), temporary_bytes(32)
    assert few > 128 * 128 * 3 * 4
    assert many < 1.05 * few
