"""Stage 2 under random weights: noise, starts, guidance, tiles, text; what they cost and what they leave alone."""

import dataclasses
import warnings
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.restoration.generator import GUIDANCE_AREA
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sampling.guidance import Loss, PixelGuidance
from diffbir_jax.sampling.loop import draw_noise, image_keys, sample
from diffbir_jax.sampling.options import Options
from diffbir_jax.sampling.tables import GUIDANCE_UNIT
from diffbir_jax.sharding import batch_sharding, make_mesh
from diffbir_jax.training.flops import count
from tests.draws import normal
from tests.micro import FEW, GUIDED, MICRO, clean, micro, picture, random_params, text
from tests.route import reconstruct, sampling, stage2


@pytest.mark.slow
def test_neighbours_do_not_matter() -> None:
    together = stage2(micro(), clean(1, 2), GUIDED, [5, 7])
    for place, index in enumerate([5, 7]):
        alone = stage2(micro(), clean(1 + place), GUIDED, [index])
        np.testing.assert_allclose(together[place], alone[0], atol=1e-4)


def test_noise_tape_equals_keys() -> None:
    drawn = stage2(micro(), clean(1), FEW, [3])
    keys = image_keys(FEW.seed, [3])
    tape = jnp.stack([draw_noise(keys, draw, (1, 6, 6, 4)) for draw in range(1 + FEW.steps)])
    np.testing.assert_allclose(drawn, stage2(micro(), clean(1), FEW, noise=tape), atol=1e-4)
    # Each entry but the last is used; the last step has no variance.
    for draw in range(FEW.steps):
        changed = stage2(micro(), clean(1), FEW, noise=tape.at[draw].mul(-1.0))
        assert jnp.abs(drawn - changed).max() > 1e-2


@pytest.mark.slow
def test_start_from_pure_noise_forgets_stage_1() -> None:
    """Without control and guidance, what is left of the stage-1 image is in the start alone.

    The schedule without zero terminal SNR tells pure noise from a latent noised to its last timestep.
    """
    preset = dataclasses.replace(MICRO, parameterization="eps", zero_terminal_snr=False)
    restorer = Restorer(preset, random_params(preset))

    def change(start: float, strength: float) -> float:
        options = dataclasses.replace(FEW, start=start, strength=strength)
        one, two = (stage2(restorer, clean(seed), options) for seed in (1, 2))
        return float(jnp.abs(one - two).max())

    assert change(start=1.0, strength=0.0) == 0.0
    assert change(start=0.5, strength=0.0) > 0.01
    assert change(start=1.0, strength=1.0) > 0.01


@pytest.mark.parametrize("loss", get_args(Loss))
def test_guidance_pulls_towards_stage_1(loss: Loss) -> None:
    """The distance that the loss measures falls as the scale rises."""
    target = 2.0 * clean(1) - 1.0
    weight = PixelGuidance(lambda params, z: z, loss).prepare(None, target).weight

    def distance(scale: float) -> float:
        options = dataclasses.replace(FEW, guidance_scale=scale, guidance_loss=loss)
        return float(jnp.mean(weight * jnp.square(stage2(micro(), clean(1), options) - target)))

    distances = [distance(scale) for scale in (0.0, 0.1, 0.5, 2.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.9 * distances[0]


def test_guidance_in_latent_space_pulls_towards_the_condition() -> None:
    """What is left as the scale rises is the autoencoder's image of stage 1."""
    options = dataclasses.replace(FEW, guidance_loss="mse", guidance_space="latent")
    wanted = reconstruct(micro(), clean(1))

    def distance(scale: float) -> float:
        result = stage2(micro(), clean(1), dataclasses.replace(options, guidance_scale=scale))
        return float(jnp.mean(jnp.square(result - wanted)))

    distances = [distance(scale) for scale in (0.0, 0.5, 2.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.9 * distances[0]


def test_a_mask_says_where_guidance_holds() -> None:
    """With a step as long as the distance, latents of the masked half become the condition; the others stay free."""
    options = dataclasses.replace(FEW, steps=1, guidance_loss="mse", guidance_space="latent")
    # The gradient of the mean square over 6 x 6 x 4 numbers is 2 / 144 of the distance.
    scale = 144 / 2 / GUIDANCE_UNIT * GUIDANCE_AREA / 24**2
    mask = jnp.zeros((1, 24, 24, 1)).at[:, :, :12].set(1.0)
    target, keys = 2.0 * clean(1) - 1.0, image_keys(0, [0])
    arguments = sampling(micro(), target, dataclasses.replace(options, guidance_scale=scale), keys, mask=mask)
    held, free = sample(*arguments), sample(*sampling(micro(), target, options, keys))
    condition = arguments[1].cond["hint"]
    np.testing.assert_allclose(held[:, :, :3], condition[:, :, :3], atol=1e-4)
    np.testing.assert_allclose(held[:, :, 3:], free[:, :, 3:], atol=1e-4)
    assert jnp.abs(free[:, :, :3] - condition[:, :, :3]).max() > 0.1


def test_guidance_in_a_window_and_repeated() -> None:
    options = dataclasses.replace(GUIDED, guidance_space="latent", guidance_loss="mse")
    always, never = stage2(micro(), clean(1), options), stage2(micro(), clean(1), FEW)
    for window, expected in (({"guidance_start": 1}, None), ({"guidance_stop": 500}, never)):
        result = stage2(micro(), clean(1), dataclasses.replace(options, **window))
        if expected is None:  # the last step alone, at timestep 0
            assert jnp.abs(result - always).max() > 1e-3 and jnp.abs(result - never).max() > 1e-3
        else:
            np.testing.assert_allclose(result, expected, atol=1e-5)
    wanted = reconstruct(micro(), clean(1))
    distances = [
        float(jnp.mean(jnp.square(stage2(micro(), clean(1), repeated) - wanted)))
        for repeated in (dataclasses.replace(options, guidance_repeats=n) for n in (1, 2, 4))
    ]
    assert distances == sorted(distances, reverse=True)


def test_the_condition_can_be_noised() -> None:
    """As much as asked for, with noise of the image's own; the start is not touched."""
    results = [stage2(micro(), clean(1), dataclasses.replace(FEW, noise_aug=t)) for t in (0, 1, 400)]
    near, far = (float(jnp.abs(result - results[0]).max()) for result in results[1:])
    assert 0 < near < 0.3 * far
    without_control = dataclasses.replace(FEW, strength=0.0)
    noised = dataclasses.replace(without_control, noise_aug=400)
    np.testing.assert_array_equal(
        stage2(micro(), clean(1), noised), stage2(micro(), clean(1), without_control)
    )


def test_guidance_off_costs_nothing() -> None:
    """The program of a scale of 0 has the products of a denoiser that has no guidance, and no others."""

    def cost(guidance_scale: float) -> int:
        options = dataclasses.replace(FEW, guidance_scale=guidance_scale)
        denoiser, *arguments = sampling(micro(), 2.0 * clean(1) - 1.0, options, image_keys(0, [0]))
        assert (denoiser.guidance is None) == (guidance_scale == 0)
        return count(sample.trace(denoiser, *arguments).jaxpr).total

    def plain() -> int:
        """The bare loop: as many calls of the network, and the sums."""
        denoiser, inputs, x, steps, keys = sampling(micro(), 2.0 * clean(1) - 1.0, FEW, image_keys(0, [0]))

        @jax.jit
        def run(inputs, x, steps, keys):
            def body(x, scanned):
                index, step = scanned
                noise = draw_noise(keys, index + 1, x.shape)
                t = jnp.broadcast_to(step.level.timestep, (1,))
                v = denoiser.model(inputs.params, x, t, inputs.cond).astype(x.dtype)
                x0 = step.level.signal * x - step.level.noise * v
                return step.coef_x0 * x0 + step.coef_x * x + noise * jnp.sqrt(step.variance), None

            return jax.lax.scan(body, x, (jnp.arange(2), steps))[0]

        return count(run.trace(inputs, x, steps, keys).jaxpr).total

    assert cost(0.0) == plain() > 0
    assert cost(1.0) > 1.1 * cost(0.0)


def convolutions_round_by_place() -> bool:
    """Whether the rows at the end of a product are added up in another order, as some CPUs' kernels do."""
    images, kernel = normal(0, (5, 8, 8, 8)), normal(1, (3, 3, 8, 8))
    filtered, turned = (
        jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        for x in (images, images[::-1])
    )
    return bool((filtered != turned[::-1]).any())


@pytest.mark.parametrize("sampler", ["spaced", pytest.param("edm_heun", marks=pytest.mark.slow)])
def test_an_image_comes_out_alike_in_any_company(sampler: str) -> None:
    """In any order and company of the same batch size bit for bit, or to rounding where products round by place; to
    1e-4 alone, among five, and on four devices."""
    rounding = 1e-5 if convolutions_round_by_place() else 0.0
    options = dataclasses.replace(GUIDED, sampler=sampler, guidance_scale=0.2)
    five = stage2(micro(), clean(1, 2, 3, 4, 5), options, [11, 12, 13, 14, 15])
    other = stage2(micro(), clean(5, 9, 1, 8, 3), options, [15, 7, 11, 6, 13])
    for place, there in ((4, 0), (0, 2), (2, 4)):
        np.testing.assert_allclose(five[place], other[there], rtol=0, atol=rounding)
    np.testing.assert_allclose(stage2(micro(), clean(3), options, [13])[0], five[2], atol=1e-4)
    four = clean(1, 2, 3, 4)
    spread = stage2(micro(), jax.device_put(four, batch_sharding(make_mesh())), options, [11, 12, 13, 14])
    assert len(spread.sharding.device_set) == 4
    np.testing.assert_allclose(spread, five[:4], atol=1e-4)


@pytest.mark.parametrize(
    "parameterization, sampler, spacing, warns",
    [
        ("eps", "edm_heun", "uniform", True),
        ("eps", "edm_dpm++_2m", "uniform", True),
        ("eps", "edm_heun", "trailing", False),
        ("eps", "spaced", "uniform", False),
        ("v", "edm_heun", "uniform", True),
        ("v", "edm_dpm_2", "trailing", True),
        ("v", "edm_heun", "karras", False),
        ("v", "edm_dpm++_3m_sde", "uniform", False),
    ],
)
def test_a_start_that_multiplies_errors_is_said(parameterization, sampler, spacing, warns) -> None:
    preset = dataclasses.replace(
        MICRO, parameterization=parameterization, zero_terminal_snr=parameterization == "v"
    )
    options = Options(steps=2, sampler=sampler, spacing=spacing)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Restorer(preset, {}).check(dataclasses.replace(options, start=0.5))
        assert not caught
        Restorer(preset, {}).check(options)
    assert bool(caught) == warns
    if warns:
        assert f"{sampler} with {spacing} spacing begins at a noise level of 10,000" in str(caught[0].message)


# Text


def test_text_reaches_the_networks(compilations: list[str]) -> None:
    def run(prompt: float, negative: float, cfg: float) -> jax.Array:
        options = dataclasses.replace(FEW, cfg_scale=cfg)
        return stage2(micro(text=True), clean(1), options, context=text(prompt, negative))

    first = run(0.1, -0.1, 4.0)
    compilations.clear()
    changes = [run(0.5, -0.1, 4.0), run(0.1, -0.5, 4.0), run(0.1, -0.1, 6.0)]
    assert compilations == [], "prompts and scales are values"
    for changed in changes:
        assert jnp.abs(changed - first).max() > 1e-4
    np.testing.assert_array_equal(run(0.1, -0.1, 1.0), run(0.1, 0.9, 1.0))


@pytest.mark.slow
def test_prompts_of_a_batch_do_not_mix() -> None:
    """Under classifier-free guidance, of images with strengths of their own."""
    options = dataclasses.replace(FEW, cfg_scale=4.0, strength=0.7)
    together = stage2(micro(text=True), clean(1, 2), options, [5, 7], context=text(0.1, -0.4))
    for place, index in enumerate([5, 7]):
        alone = stage2(micro(text=True), clean(1 + place), options, [index], context=text(0.1, -0.4))
        np.testing.assert_allclose(together[place], alone[0], atol=1e-4)


def test_text_is_asked_for() -> None:
    with pytest.raises(ValueError, match="micro_text needs text and has no text encoder.*context="):
        micro(text=True).restore([picture(16, 16)], 1, FEW)
    restored = micro(text=True).restore([picture(16, 16)], 1, FEW, text(0.1, 0.2))
    assert restored[0].image.shape == (16, 16, 3)


@pytest.mark.parametrize("context, cfg", [(text(0.1, 0.2), 1.0), (None, 4.0)])
def test_text_is_refused_where_unknown(context: tuple | None, cfg: float) -> None:
    with pytest.raises(ValueError, match="micro knows no text"):
        stage2(micro(), clean(1), dataclasses.replace(FEW, cfg_scale=cfg), context=context)


# Refusals


def test_noise_must_fit() -> None:
    tape = np.zeros((3, 6, 6, 4), np.float32)
    requests = [Request(picture(24, 24), noise=noise) for noise in (tape, tape[:2])]
    errors = {outcome.position: outcome.error for outcome in micro().restore_many(requests, 1.0, FEW)}
    assert errors[0] is None
    assert str(errors[1]) == "noise is (2, 6, 6, 4); this image and these steps need (3, 6, 6, 4)"


def test_a_request_can_bring_its_noise() -> None:
    """What a tape holds takes the place of what is drawn, float images keep their dtype."""
    image = picture(24, 24, 1).astype(np.float32) / 255
    tape = np.stack([np.asarray(draw_noise(image_keys(FEW.seed, [3]), i, (1, 6, 6, 4)))[0] for i in range(3)])
    drawn = micro().restore_one(image, 1.0, FEW, 3).image
    (outcome,) = micro().restore_many([Request(image, noise=tape)], 1.0, FEW)
    assert outcome.results[0].image.dtype == np.float32
    np.testing.assert_allclose(outcome.results[0].image, drawn, atol=1e-5)
    (other,) = micro().restore_many([Request(image, noise=-tape)], 1.0, FEW)
    assert np.abs(other.results[0].image - drawn).max() > 1e-2
