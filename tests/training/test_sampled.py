"""Validation of stage 2 by restoring images: that it does what `Restorer` does, with what training trains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffbir_jax.console import configurations
from diffbir_jax.diffusion.schedule import make_schedule
from diffbir_jax.metrics.fidelity import psnr, ssim
from diffbir_jax.models.apply import abstract
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.restoration.generator import Generator
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sampling.layout import Conditioned
from diffbir_jax.sampling.loop import image_keys
from diffbir_jax.sampling.options import Options
from diffbir_jax.training import prior, sampled
from diffbir_jax.training.sampled import restoration, sampling_options
from tests import route
from tests.micro import FEW, MICRO, MICRO_TEXT, clean, picture, random_params
from tests.models.reference import away_from_zero

SIDE = 24
GUIDED = dataclasses.replace(FEW, guidance_scale=100.0, guidance_space="latent", guidance_loss="paper")


@pytest.fixture(autouse=True)
def operating_point(monkeypatch):
    """And images one by one, so that each test has the same programs."""
    monkeypatch.setitem(DEFAULTS, "micro", GUIDED)
    monkeypatch.setattr(sampled, "TOGETHER", 1)


def sampling(**given):
    return ConfigDict({"images": 2, "steps": None, "guidance_scale": None, "cfg_scale": None} | given)


def batch(count=2):
    """Low-quality images, and others for what they came from."""
    return {
        name: np.stack([picture(SIDE, SIDE, seed) for seed in range(first, first + count)])
        for name, first in (("lq", 0), ("hq", 10))
    }


def parted(preset=MICRO):
    """Trained and frozen parameters."""
    params = random_params(preset)
    return {"control": params.pop("control")}, params


def encoder():
    """Parameters of an encoder of the condition."""
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    return {"condition": away_from_zero(abstract(MICRO.make_condition(), image))}


def validated(trained=None, **given):
    """Metrics and picture."""
    usual, frozen = parted()
    return restoration(MICRO, jnp.float32, sampling(**given), batch())(trained or usual, frozen)


@pytest.mark.slow
def test_images_are_restored_as_by_sample_py():
    values, grid = validated()
    images = batch()
    found = Restorer(MICRO, random_params(MICRO)).restore(list(images["lq"]))
    columns = [images["lq"], [r.stage1 for r in found], [r.image for r in found], images["hq"]]
    expected = np.concatenate([np.concatenate(column) for column in columns], axis=1)
    assert grid.shape == (2 * SIDE, 4 * SIDE, 3)
    assert (
        np.abs(grid.astype(int) - expected).max() <= 1
    )  # the pipeline resizes on the host, in another order
    for name, column in (("", columns[2]), ("_stage1", columns[1])):
        for metric in (psnr, ssim):
            mean = np.mean([metric(a, b) for a, b in zip(column, images["hq"])])
            np.testing.assert_allclose(values[f"{metric.__name__}{name}"], mean, rtol=1e-4, atol=1e-4)
    assert np.abs(columns[1][0].astype(int) - columns[2][0]).max() > 10


def test_stage_2_is_judged_where_users_would_get_stage_1_alone(recwarn):
    """A preset that leaves detail out at a photo's own size, or warns of it."""
    preset = dataclasses.replace(MICRO, all_detail_from=4.0, meant_from=3.0)
    usual, frozen = parted()
    values, _ = restoration(preset, jnp.float32, sampling(), batch())(usual, frozen)
    assert values == validated()[0] and values["psnr"] != values["psnr_stage1"]
    assert not [warning for warning in recwarn if "spoils" in str(warning.message)]


def test_networks_that_the_step_lacks_are_given_beside():
    usual, frozen = parted()
    unet = {"unet": frozen.pop("unet")}
    validate = restoration(MICRO, jnp.float32, sampling(), batch(), frozen)
    assert validate(usual, unet)[0] == validated()[0]


def test_settings_change_the_operating_point_and_the_result():
    usual, grid = validated()
    values, unguided = validated(guidance_scale=0.0)
    assert values["psnr"] != usual["psnr"] and values["psnr_stage1"] == usual["psnr_stage1"]
    np.testing.assert_array_equal(unguided[:, : 2 * SIDE], grid[:, : 2 * SIDE])
    assert sampling_options(MICRO, sampling()) == GUIDED
    changed = sampling_options(MICRO, sampling(guidance_scale=0.0, steps=3))
    assert changed == dataclasses.replace(GUIDED, guidance_scale=0.0, steps=3)
    assert sampling_options(PRESETS["v2.1"], sampling(cfg_scale=1.0)) == dataclasses.replace(
        DEFAULTS["v2.1"], cfg_scale=1.0
    )


def test_the_second_validation_compiles_nothing(compilations):
    """With other parameters of the same shapes, as after more training."""
    trained, frozen = parted()
    validate = restoration(MICRO, jnp.float32, sampling(), batch())
    first, _ = validate(trained, frozen)
    compilations.clear()
    second, _ = validate(jax.tree.map(lambda x: np.asarray(x) * np.float32(1.5), trained), frozen)
    assert compilations == []
    assert first["psnr"] != second["psnr"] and first["psnr_stage1"] == second["psnr_stage1"]


def test_an_encoder_of_the_condition_takes_the_latents_place_for_the_control_alone():
    params, options = random_params(MICRO) | encoder(), dataclasses.replace(GUIDED, guidance_space="rgb")
    target, keys = 3.0 * clean(0, 1) - 1.5, image_keys(0, range(2))  # beyond [-1, 1], as stage 1 may be
    _, inputs, start, *_ = route.sampling(Generator(MICRO, params), target, options, keys)
    _, usual, noised, *_ = route.sampling(Generator(MICRO, random_params(MICRO)), target, options, keys)
    module = MICRO.make_condition()
    hint = jax.jit(module.apply)({"params": params["condition"]}, jnp.clip(target, -1.0, 1.0))
    np.testing.assert_allclose(inputs.cond["hint"], hint, rtol=1e-5, atol=1e-5)
    assert np.abs(inputs.cond["hint"] - usual.cond["hint"]).max() > 0.1
    np.testing.assert_array_equal(start, noised)
    for name in ("target", "weight"):
        np.testing.assert_array_equal(getattr(inputs.guidance, name), getattr(usual.guidance, name))
    assert set(inputs.params) == {"unet", "control"}


def test_validation_samples_with_the_encoder_as_the_pipeline_does():
    trained, frozen = parted()
    values, grid = validated(trained | encoder())
    assert values["psnr"] != validated()[0]["psnr"]
    found = Restorer(MICRO, frozen | trained | encoder()).restore(list(batch()["lq"]))
    results = np.concatenate([restored.image for restored in found])
    assert np.abs(grid[:, 2 * SIDE : 3 * SIDE].astype(int) - results).max() <= 1


def test_a_hint_must_be_given_where_there_is_an_encoder():
    trained, frozen = parted()
    z = jnp.zeros((1, 6, 6, 4))
    with pytest.raises(ValueError, match="on the output of an encoder of its own: give that as `hint`"):
        Generator(MICRO, frozen | trained | encoder()).steered(
            Conditioned(z, z[..., :1]), FEW, image_keys(0, [0])
        )


@pytest.mark.parametrize(
    ("preset", "given", "message"),
    [
        (MICRO, {"images": 3}, r"sampling\.images is 3, allowed are 0 to 2, .*config\.data\.validation_size"),
        (MICRO, {"images": -1}, r"sampling\.images is -1, allowed are 0 to 2"),
        (MICRO, {"steps": 501}, "steps is 501; allowed with start 0.5 are 1 to 500"),
        (MICRO, {"cfg_scale": 2.0}, "preset micro knows no text: .*keep `cfg_scale` at 1"),
        (MICRO_TEXT, {}, "preset micro_text needs text and has no text encoder"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_training(preset, given, message):
    with pytest.raises(ValueError, match=message):
        restoration(preset, jnp.float32, sampling(**given), batch())


def test_settings_are_flags():
    changes = [
        "--config.sampling.guidance_scale=0",
        "--config.sampling.steps=5",
        "--config.sampling.images=0",
    ]
    found = configurations.read("bsr:tiny", changes).sampling
    assert (found.guidance_scale, found.steps, found.images, found.cfg_scale) == (0.0, 5, 0, None)
    assert isinstance(sampling_options(PRESETS["tiny"], found), Options)


def test_the_loss_does_not_depend_on_how_many_are_computed_together(monkeypatch):
    schedule = make_schedule(parameterization="v")
    z0 = np.random.default_rng(0).standard_normal((11, 4, 4, 3)).astype(np.float32)

    def values():
        denoise = lambda params, frozen, batch, z_t, t: z_t * params  # noqa: E731
        return prior.validation(schedule, denoise, {"z0": z0})(np.float32(0.5), {})

    parts, picture = values()
    monkeypatch.setattr(prior, "TOGETHER", 11)
    whole, more = values()
    assert parts.keys() == whole.keys()
    np.testing.assert_allclose(list(parts.values()), list(whole.values()), rtol=1e-6)
    np.testing.assert_array_equal(picture, more[: picture.shape[0]])
