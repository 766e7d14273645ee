"""The pipeline: stage 1 as the reference computes it, and properties of both stages under random weights."""

import dataclasses
import functools
import gc
import warnings
import weakref
from collections.abc import Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.checkpoint import save_weights
from diffbir_jax.imaging.resize import at_least, resize
from diffbir_jax.models.presets import get_preset
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig
from diffbir_jax.parity.pipeline import PATHS
from diffbir_jax.parity.runner import misses
from diffbir_jax.pipeline import Restorer
from diffbir_jax.sampling.guidance import Guidance, Loss
from diffbir_jax.sampling.loop import draw_noise, image_keys, sample
from diffbir_jax.sampling.options import Options
from diffbir_jax.sampling.tables import GUIDANCE_UNIT
from diffbir_jax.sharding import batch_sharding, make_mesh
from diffbir_jax.stage2 import GUIDANCE_AREA
from tests.micro import MICRO, MICRO_TEXT, picture, random_params
from tests.models.reference import GOLDEN

# The same number of steps and the same sizes in most tests: fewer programs to compile.
FEW = Options(steps=2, start=0.5)
GUIDED = dataclasses.replace(FEW, guidance_scale=1.0)


@functools.cache
def micro(text: bool = False) -> Restorer:
    preset = MICRO_TEXT if text else MICRO
    return Restorer(preset, random_params(preset))


def clean(*seeds: int) -> jax.Array:
    """Stage-1 images (B, 24, 24, 3) in [0, 1], the size that stage 1 enlarges 16x16 pixels to."""
    return jnp.asarray(np.stack([picture(24, 24, seed) for seed in seeds]), jnp.float32) / 255.0


def text(*values: float) -> tuple[jax.Array, jax.Array]:
    """Embeddings of a prompt and a negative prompt, each of one value."""
    prompt, negative = (jnp.full((1, 5, 8), value, jnp.float32) for value in values)
    return prompt, negative


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Names of the functions compiled since the test began (or since it cleared the list)."""
    names = []

    def listen(event: str, _: float, **details: object) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(str(details.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


# Against the reference


@pytest.mark.parametrize("case", PATHS)
def test_the_whole_path_equals_the_reference(case: str) -> None:
    """Stage 1, samples and bytes of a real photo, with the small networks; docs/parity.md has the figures."""
    assert misses(GOLDEN, f"pipeline:{case} stage 1") == []
    assert misses(GOLDEN, f"pipeline:{case}") == []


# Stage 1


def test_stage1_pads_and_crops_in_place() -> None:
    """A module that returns its input returns an image of any size, where it was."""
    params = random_params(MICRO)
    params["rm"]["conv_out"] = jax.tree.map(jnp.zeros_like, params["rm"]["conv_out"])
    restorer = Restorer(MICRO, params)
    image = jnp.asarray(picture(25, 38)[None], jnp.float32) / 255.0
    np.testing.assert_allclose(restorer.stage1(image), image, atol=1e-7)
    small = image[:, :18, :27]
    assert restorer.stage1(small).shape == (1, 24, 36, 3)
    np.testing.assert_allclose(restorer.stage1(small), resize(small, (24, 36)), atol=1e-7)


@pytest.mark.parametrize(
    "size, expected", [((16, 16), (24, 24)), ((16, 25), (24, 37)), ((30, 20), (36, 24)), ((24, 99), (24, 99))]
)
def test_at_least(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert at_least(size, 24) == expected


# Both stages


@pytest.mark.parametrize(
    "size, upscale, expected", [((16, 16), 1, (16, 16)), ((17, 31), 1.5, (26, 46)), ((16, 65), 0.5, (8, 32))]
)
def test_any_size(size: tuple[int, int], upscale: float, expected: tuple[int, int]) -> None:
    (restored,) = micro().restore([picture(*size)], upscale, FEW)
    assert restored.fidelity is None
    for image in restored[:3]:
        assert image.shape == (*expected, 3)
        assert image.dtype == np.uint8
    assert (restored.image != restored.stage1).any()
    assert (restored.stage1 != restored.upscaled).any()


def test_the_seed_decides_the_noise() -> None:
    image = picture(16, 16)
    first, again = (micro().restore([image], 1, FEW)[0].image for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = micro().restore([image], 1, dataclasses.replace(FEW, seed=1))[0].image
    second_in_list = micro().restore([image, image], 1, FEW)[1].image
    assert (first != other).any()
    assert (first != second_in_list).any()


def test_neighbours_do_not_matter() -> None:
    together = micro().stage2(clean(1, 2), GUIDED, [5, 7])
    for place, index in enumerate([5, 7]):
        alone = micro().stage2(clean(1 + place), GUIDED, [index])
        np.testing.assert_allclose(together[place], alone[0], atol=1e-4)


def test_noise_tape_equals_keys() -> None:
    drawn = micro().stage2(clean(1), FEW, [3])
    keys = image_keys(FEW.seed, [3])
    tape = jnp.stack([draw_noise(keys, draw, (1, 6, 6, 4)) for draw in range(1 + FEW.steps)])
    np.testing.assert_allclose(drawn, micro().stage2(clean(1), FEW, noise=tape), atol=1e-4)
    # Each entry but the last is used; the last step has no variance.
    for draw in range(FEW.steps):
        changed = micro().stage2(clean(1), FEW, noise=tape.at[draw].mul(-1.0))
        assert jnp.abs(drawn - changed).max() > 1e-2


def test_new_values_do_not_recompile(compilations: list[str]) -> None:
    micro().restore([picture(16, 16)], 1, GUIDED)
    changed = dataclasses.replace(GUIDED, seed=7, start=0.25, guidance_scale=3.0, strength=0.3)
    compilations.clear()
    micro().restore([picture(16, 16, seed=3)], 1, changed)
    assert compilations == []
    micro().restore([picture(16, 16)], 1, dataclasses.replace(FEW, steps=1))
    assert "jit(sample)" in compilations, "the counter counts"


def test_restorers_of_one_preset_share_programs(compilations: list[str]) -> None:
    micro().restore([picture(16, 16)], 1, FEW)
    other = Restorer(MICRO, jax.tree.map(lambda x: 2.0 * x, random_params(MICRO)))
    compilations.clear()
    other.restore([picture(16, 16)], 1, FEW)
    assert compilations == []


def test_parameters_are_freed_with_the_restorer() -> None:
    restorer = Restorer(MICRO, random_params(MICRO))
    restorer.restore([picture(16, 16)], 1, FEW)
    kept = [weakref.ref(x) for x in jax.tree.leaves(restorer.params)]
    del restorer
    gc.collect()
    assert not [ref for ref in kept if ref() is not None]


def test_start_from_pure_noise_forgets_stage_1() -> None:
    """Without control and guidance, what is left of the stage-1 image is in the start alone.

    The schedule without zero terminal SNR tells pure noise from a latent noised to its last timestep.
    """
    preset = dataclasses.replace(MICRO, parameterization="eps", zero_terminal_snr=False)
    restorer = Restorer(preset, random_params(preset))

    def change(start: float, strength: float) -> float:
        options = dataclasses.replace(FEW, start=start, strength=strength)
        one, two = (restorer.stage2(clean(seed), options) for seed in (1, 2))
        return float(jnp.abs(one - two).max())

    assert change(start=1.0, strength=0.0) == 0.0
    assert change(start=0.5, strength=0.0) > 0.01
    assert change(start=1.0, strength=1.0) > 0.01


@pytest.mark.parametrize("loss", get_args(Loss))
def test_guidance_pulls_towards_stage_1(loss: Loss) -> None:
    """The distance that the loss measures falls as the scale rises."""
    target = 2.0 * clean(1) - 1.0
    weight = Guidance(lambda params, z: z, loss).prepare(None, target).weight

    def distance(scale: float) -> float:
        options = dataclasses.replace(FEW, guidance_scale=scale, guidance_loss=loss)
        return float(jnp.mean(weight * jnp.square(micro().stage2(clean(1), options) - target)))

    distances = [distance(scale) for scale in (0.0, 0.1, 0.5, 2.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.9 * distances[0]


def test_guidance_in_latent_space_pulls_towards_the_condition() -> None:
    """What is left as the scale rises is the autoencoder's image of stage 1."""
    options = dataclasses.replace(FEW, guidance_loss="mse", guidance_space="latent")
    wanted = micro().reconstruct(clean(1))

    def distance(scale: float) -> float:
        result = micro().stage2(clean(1), dataclasses.replace(options, guidance_scale=scale))
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
    arguments = micro().sampling(target, dataclasses.replace(options, guidance_scale=scale), keys, mask=mask)
    held, free = sample(*arguments), sample(*micro().sampling(target, options, keys))
    condition = arguments[1].cond["hint"]
    np.testing.assert_allclose(held[:, :, :3], condition[:, :, :3], atol=1e-4)
    np.testing.assert_allclose(held[:, :, 3:], free[:, :, 3:], atol=1e-4)
    assert jnp.abs(free[:, :, :3] - condition[:, :, :3]).max() > 0.1
    with pytest.raises(ValueError, match=r"mask is \(1, 12, 24, 1\); these images need \(1, 24, 24, 1\)"):
        micro().stage2(clean(1), options, mask=mask[:, :12])


def test_guidance_in_a_window_and_repeated() -> None:
    options = dataclasses.replace(GUIDED, guidance_space="latent", guidance_loss="mse")
    always, never = micro().stage2(clean(1), options), micro().stage2(clean(1), FEW)
    for window, expected in (({"guidance_start": 1}, None), ({"guidance_stop": 500}, never)):
        result = micro().stage2(clean(1), dataclasses.replace(options, **window))
        if expected is None:  # the last step alone, at timestep 0
            assert jnp.abs(result - always).max() > 1e-3 and jnp.abs(result - never).max() > 1e-3
        else:
            np.testing.assert_allclose(result, expected, atol=1e-5)
    wanted = micro().reconstruct(clean(1))
    distances = [
        float(jnp.mean(jnp.square(micro().stage2(clean(1), repeated) - wanted)))
        for repeated in (dataclasses.replace(options, guidance_repeats=n) for n in (1, 2, 4))
    ]
    assert distances == sorted(distances, reverse=True)


def test_the_condition_can_be_noised() -> None:
    """As much as asked for, with noise of the image's own; the start is not touched."""
    results = [micro().stage2(clean(1), dataclasses.replace(FEW, noise_aug=t)) for t in (0, 1, 400)]
    near, far = (float(jnp.abs(result - results[0]).max()) for result in results[1:])
    assert 0 < near < 0.3 * far
    without_control = dataclasses.replace(FEW, strength=0.0)
    noised = dataclasses.replace(without_control, noise_aug=400)
    np.testing.assert_array_equal(micro().stage2(clean(1), noised), micro().stage2(clean(1), without_control))


def test_variants_differ_and_the_first_is_the_only_one() -> None:
    image = picture(16, 16)
    first, second = micro().variants(image, 1, FEW, 2, index=3)
    np.testing.assert_array_equal(first.image, micro().restore_one(image, 1, FEW, 3).image)
    assert (first.image != second.image).any()
    np.testing.assert_array_equal(first.stage1, second.stage1)


def test_guidance_off_costs_nothing() -> None:
    """The program of a scale of 0 is the one of a denoiser that has no guidance, to the operation."""

    def flops(compiled: Any) -> float:
        return compiled.cost_analysis()["flops"]

    def cost(guidance_scale: float) -> float:
        options = dataclasses.replace(FEW, guidance_scale=guidance_scale)
        denoiser, *arguments = micro().sampling(2.0 * clean(1) - 1.0, options, image_keys(0, [0]))
        compiled = sample.lower(denoiser, *arguments).compile()
        assert (denoiser.guidance is None) == (guidance_scale == 0)
        return flops(compiled)

    def plain() -> float:
        """The bare loop: as many calls of the network, and the sums."""
        denoiser, inputs, x, steps, keys = micro().sampling(2.0 * clean(1) - 1.0, FEW, image_keys(0, [0]))

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

        return flops(run.lower(inputs, x, steps, keys).compile())

    assert cost(0.0) == pytest.approx(plain(), rel=1e-3)
    assert cost(1.0) > 1.1 * cost(0.0)


@pytest.mark.parametrize("sampler", ["spaced", "edm_heun", "edm_dpm++_3m_sde"])
def test_an_image_comes_out_alike_in_any_company(sampler: str) -> None:
    """Bit for bit in any order and company of the same batch size; to 1e-4 alone, among five, and on four devices."""
    options = dataclasses.replace(GUIDED, sampler=sampler, guidance_scale=0.2)
    five = micro().stage2(clean(1, 2, 3, 4, 5), options, [11, 12, 13, 14, 15])
    other = micro().stage2(clean(5, 9, 1, 8, 3), options, [15, 7, 11, 6, 13])
    for place, there in ((4, 0), (0, 2), (2, 4)):
        np.testing.assert_array_equal(five[place], other[there])
    np.testing.assert_allclose(micro().stage2(clean(3), options, [13])[0], five[2], atol=1e-4)
    four = clean(1, 2, 3, 4)
    spread = micro().stage2(jax.device_put(four, batch_sharding(make_mesh())), options, [11, 12, 13, 14])
    assert len(spread.sharding.device_set) == 4
    np.testing.assert_allclose(spread, five[:4], atol=1e-4)


def test_colours_are_those_of_stage_1() -> None:
    """A cast or a brightness slope in the generated image goes; one in stage 1 stays."""
    style, generated = 0.3 + 0.4 * clean(1), 0.8 * clean(2) - 0.4
    size = (24, 24)
    plain = micro().finish(generated, style, size).astype(int)
    cast = jnp.asarray([0.4, -0.2, 0.1], jnp.float32).reshape(1, 1, 1, 3)
    assert np.abs(micro().finish(generated + cast, style, size) - plain).max() <= 1
    tinted = micro().finish(generated, style + cast / 8.0, size)
    inside = (plain > 15) & (plain < 240)
    shift = np.broadcast_to(255.0 * np.asarray(cast) / 8.0, plain.shape)
    np.testing.assert_allclose((tinted - plain)[inside], shift[inside], atol=1)
    assert inside.mean() > 0.5


def test_finish_resizes() -> None:
    assert micro().finish(clean(1) - 0.5, clean(1), (12, 16)).shape == (1, 12, 16, 3)


def test_tiles() -> None:
    """Larger than a tile: another result; no larger: the same; longer than a tile one way only: whole, and said."""
    image = jnp.asarray(picture(128, 128, 3)[None], jnp.float32) / 255.0
    whole = micro().stage2(image, FEW)
    tiled = micro().stage2(image, dataclasses.replace(FEW, tile=64, tile_stride=32))
    assert jnp.abs(tiled - whole).max() > 1e-4
    assert jnp.abs(tiled - whole).mean() < 0.5
    np.testing.assert_array_equal(micro().stage2(image, dataclasses.replace(FEW, tile=192)), whole)
    with pytest.warns(UserWarning, match="of 128x24 is sampled whole: tiles of 64 do not fit"):
        micro().stage2(image[:, :24], dataclasses.replace(FEW, tile=64))


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
        return micro(text=True).stage2(clean(1), options, context=text(prompt, negative))

    first = run(0.1, -0.1, 4.0)
    compilations.clear()
    changes = [run(0.5, -0.1, 4.0), run(0.1, -0.5, 4.0), run(0.1, -0.1, 6.0)]
    assert compilations == [], "prompts and scales are values"
    for changed in changes:
        assert jnp.abs(changed - first).max() > 1e-4
    np.testing.assert_array_equal(run(0.1, -0.1, 1.0), run(0.1, 0.9, 1.0))


def test_prompts_of_a_batch_do_not_mix() -> None:
    """Under classifier-free guidance, of images with strengths of their own."""
    options = dataclasses.replace(FEW, cfg_scale=4.0, strength=0.7)
    together = micro(text=True).stage2(clean(1, 2), options, [5, 7], context=text(0.1, -0.4))
    for place, index in enumerate([5, 7]):
        alone = micro(text=True).stage2(clean(1 + place), options, [index], context=text(0.1, -0.4))
        np.testing.assert_allclose(together[place], alone[0], atol=1e-4)


def test_text_is_asked_for() -> None:
    with pytest.raises(ValueError, match="micro_text needs text and has no text encoder.*`context`"):
        micro(text=True).restore([picture(16, 16)], 1, FEW)
    restored = micro(text=True).restore([picture(16, 16)], 1, FEW, text(0.1, 0.2))
    assert restored[0].image.shape == (16, 16, 3)


@pytest.mark.parametrize("context, cfg", [(text(0.1, 0.2), 1.0), (None, 4.0)])
def test_text_is_refused_where_unknown(context: tuple | None, cfg: float) -> None:
    with pytest.raises(ValueError, match="micro knows no text"):
        micro().stage2(clean(1), dataclasses.replace(FEW, cfg_scale=cfg), context=context)


# Presets, weights and refusals


@pytest.mark.parametrize("name", ["v1", "v2.1"])
def test_published_presets(name: str) -> None:
    """The default configurations are the published ones: tests/conversion compares them with every checkpoint."""
    preset = get_preset(name)
    assert (preset.rm, preset.vae, preset.unet) == (SwinIRConfig(), VAEConfig(), UNetConfig())
    assert (preset.min_side, preset.multiple, preset.padding) == (512, 64, "constant")
    schedule = Restorer(preset, {}).schedule
    assert schedule.parameterization == {"v1": "eps", "v2.1": "v"}[name]
    assert (schedule.alphas_cumprod[-1] == 0) == (name == "v2.1")


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="'v9' given, allowed are tiny, v1, v2, v2.1"):
        Restorer.load("v9")


def test_load(tmp_path) -> None:
    for name, params in random_params(MICRO).items():
        save_weights(tmp_path / f"{name}.safetensors", params, {})
    loaded = Restorer.load(MICRO, tmp_path).restore([picture(16, 16)], 1, FEW)[0]
    np.testing.assert_array_equal(loaded.image, micro().restore([picture(16, 16)], 1, FEW)[0].image)
    with pytest.raises(ValueError, match="unet.safetensors does not fit the model"):
        Restorer.load(MICRO_TEXT, tmp_path)
    (tmp_path / "rm.safetensors").unlink()
    (tmp_path / "vae.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks rm.safetensors, vae.safetensors; give .*--weights"):
        Restorer.load(MICRO, tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "steps is 0; allowed with start 1 are 1 to 1000"),
        ({"steps": 401, "start": 0.4}, "steps is 401; allowed with start 0.4 are 1 to 400"),
        ({"start": 0.0}, r"start is 0.0; allowed are shares of the schedule in \(0, 1\]"),
        ({"start": 1.1}, "start is 1.1"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0; allowed are finite numbers of at least 0"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"cfg_scale": float("inf")}, "cfg_scale is inf"),
        ({"seed": -1}, "seed is -1; allowed are 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"float32 of shape \(16, 16, 3\); give \(H, W, 3\) uint8"):
        micro().restore([np.zeros((16, 16, 3), np.float32)])
    with pytest.raises(ValueError, match=r"uint8 of shape \(16, 16\)"):
        micro().restore([np.zeros((16, 16), np.uint8)])
    with pytest.raises(ValueError, match="upscale is 0.01 for an image of 20x16; give a larger factor"):
        micro().restore([picture(16, 20)], 0.01)


def test_indices_and_noise_must_fit() -> None:
    with pytest.raises(ValueError, match="1 indices given for 2 images"):
        micro().stage2(clean(1, 2), FEW, [0])
    with pytest.raises(ValueError, match=r"noise is \(2, 1, 6, 6, 4\); .* need \(3, 1, 6, 6, 4\)"):
        micro().stage2(clean(1), FEW, noise=jnp.zeros((2, 1, 6, 6, 4)))
