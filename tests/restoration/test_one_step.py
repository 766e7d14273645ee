"""Published one-step restorers in the pipeline, on networks that compile in a second."""

import functools
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models import one_step
from diffbir_jax.models.degradation_estimator import DegradationEstimatorConfig
from diffbir_jax.models.modulation import ModulationConfig
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.parity.runner import misses
from diffbir_jax.restoration.candidates import candidates, default_plan
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.geometry import measure, stage_grid
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.planner import analyse
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted
from diffbir_jax.sampling.options import Options
from diffbir_jax.weights.loading import abstract_params, with_stage1
from diffbir_jax.weights.safetensors import flatten, unflatten
from tests.micro import MICRO, picture, random_params
from tests.models.reference import GOLDEN

ONCE = Options(steps=1)
SMALL = {"tile": 32, "overlap": 16, "vae_tile": 32, "vae_overlap": 8}
MODULATION = ModulationConfig(unet_rank=2, vae_rank=2, frequencies=2, block_dim=2)
METHODS = {
    "hypir": (replace(one_step.HYPIR, **(SMALL | {"vae_overlap": 16})), "grey"),
    "osediff": (replace(one_step.OSEDIFF, **SMALL), "constant"),
    "pisa-sr": (replace(one_step.PISA_SR, **SMALL), "constant"),
    "s3diff": (
        replace(
            one_step.S3DIFF,
            modulation=MODULATION,
            estimator=DegradationEstimatorConfig((4, 4, 4, 8), 1, hidden=4),
            **SMALL,
        ),
        "reflect",
    ),
}


@functools.cache
def restorer(name: str) -> Restorer:
    method, padding = METHODS[name]
    preset = replace(MICRO, rm=None, parameterization="eps", zero_terminal_snr=False, min_side=32)
    preset = replace(preset, one_step=method, padding=padding)
    params = random_params(preset, modules=[module for module in preset.modules if module != "lora"])
    if "lora" in preset.modules:
        networks = abstract_params(preset, ["unet", "vae"])
        params["lora"] = {"unet": lora(networks["unet"])}
        params["lora"] |= {"vae": lora(networks["vae"])} if name == "s3diff" else {}
    return Restorer(preset, params)


def lora(network: dict) -> dict:
    """A LoRA of rank 2 on the first and the last convolution and on one in between."""
    factors, rng = {}, np.random.default_rng(0)
    kernels = {path: x.shape for path, x in flatten(network).items() if path.endswith("/kernel")}
    for path in [
        path for path in kernels if "conv_in" in path or "conv_out" in path or "block/conv1" in path
    ]:
        shape = kernels[path]
        layer = path.removesuffix("/kernel")
        factors[f"{layer}/a"] = jnp.asarray(0.1 * rng.standard_normal((*shape[:-1], 2), np.float32))
        factors[f"{layer}/b"] = jnp.asarray(rng.standard_normal((2, shape[-1]), np.float32))
        factors[f"{layer}/alpha"] = jnp.float32(8.0)
    return unflatten(factors)


@pytest.mark.parametrize(
    "name", ["hypir", *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != "hypir")]
)
def test_an_image_is_restored_alone_as_among_others_and_by_its_seed(name: str) -> None:
    """The posterior's noise comes from the image's own key, and a key per tile."""
    requests = [Request(picture(20, 30, seed), index) for index, seed in enumerate((0, 1))]
    both = list(restorer(name).restore_many(requests, 2.0, ONCE))
    images = {outcome.position: outcome.all()[0].image for outcome in both}
    alone = restorer(name).restore_one(requests[1].image, 2.0, ONCE, index=1).image
    np.testing.assert_array_equal(images[1], alone)
    assert alone.shape == (40, 60, 3) and alone.std() > 1
    other = restorer(name).restore_one(requests[1].image, 2.0, replace(ONCE, seed=1), index=1).image
    assert np.any(other != alone)


@pytest.mark.slow
def test_results_differ_by_what_the_encoder_draws() -> None:
    one, two = restorer("osediff").variants(picture(20, 30), 2.0, ONCE, 2)
    assert np.any(one.image != two.image)
    np.testing.assert_array_equal(
        one.image, restorer("osediff").restore_one(picture(20, 30), 2.0, ONCE).image
    )


def test_noise_of_another_shape_is_refused() -> None:
    request = Request(picture(20, 30), noise=np.zeros((1, 8, 8, 4), np.float32))
    (outcome,) = restorer("hypir").restore_many([request], 2.0, ONCE)
    assert "the encoder's tiles of this image need (6, 8, 8, 4)" in str(outcome.error)


@pytest.mark.slow
def test_sliders_of_pisa_sr() -> None:
    """At 1 and 1 one pass is enough; without semantic detail the second LoRA does nothing."""
    photo, run = picture(20, 30).astype(np.float32) / 255, restorer("pisa-sr")

    def restored(**options: float) -> np.ndarray:
        return run.restore_one(photo, 2.0, replace(ONCE, **options)).image

    plain, nearly = restored(), restored(pixel=1.0, semantic=1.0 + 1e-6)
    np.testing.assert_allclose(plain, nearly, atol=1e-4)
    pixel, stronger = restored(semantic=0.0), restored(semantic=2.0)
    assert np.abs(pixel - plain).max() > 1e-3 and np.abs(stronger - plain).max() > 1e-3


@pytest.mark.slow
def test_strength_and_guidance_change_the_result() -> None:
    photo, run = picture(20, 30), restorer("osediff")
    plain = run.restore_one(photo, 2.0, ONCE).image.astype(float)
    for options in (replace(ONCE, coeff_t=100), replace(ONCE, guidance_scale=0.1, guidance_space="latent")):
        assert np.abs(run.restore_one(photo, 2.0, options).image - plain).max() > 1


@pytest.mark.slow
def test_a_gray_photo_stays_gray() -> None:
    gray = np.repeat(picture(20, 30)[..., :1], 3, axis=-1)
    result = restorer("osediff").restore_one(gray, 2.0, ONCE).image
    assert np.all(result[..., :1] == result)


def test_options_that_mean_nothing_are_refused() -> None:
    for name, options, message in (
        ("hypir", Options(steps=2), "version micro has no `steps`"),
        ("hypir", replace(ONCE, sampler="ddim"), "no `sampler`"),
        ("hypir", replace(ONCE, pixel=0.5), "no `pixel`"),
        ("pisa-sr", replace(ONCE, coeff_t=3), "no `coeff_t`"),
    ):
        with pytest.raises(ValueError, match=message):
            restorer(name).check(options)
    with pytest.raises(ValueError, match="no `model_t`"):
        Restorer(MICRO, {}).check(Options(model_t=3))
    with pytest.raises(ValueError, match="pixel is 5; allowed are 0.0 to 4.0"):
        Options(pixel=5)
    with pytest.raises(ValueError, match="version hypir has no stage 1"):
        with_stage1(PRESETS["hypir"], "bsrnet")


@pytest.mark.parametrize(
    "version, image, work, tile",
    [
        ("hypir", (300, 400), (1200, 1600), (512, 512)),
        ("hypir", (100, 130), (512, 665), (512, 512)),
        ("osediff", (133, 150), (528, 600), (528, 600)),
        ("osediff", (37, 50), (512, 688), (512, 688)),
        ("osediff", (300, 150), (1200, 600), (600, 600)),
        ("s3diff", (30, 45), (120, 180), (128, 192)),
    ],
)
def test_sides_at_full_size(version: str, image: tuple, work: tuple, tile: tuple) -> None:
    """At x4: HYPIR's short side is 512 at least, OSEDiff's sides are multiples of 8 and its tiles squares."""
    preset = PRESETS[version]
    for plan in [default_plan(preset, ONCE), *candidates(preset, ONCE, 1, many=True)]:
        sides, shape = measure(image, (4 * image[0], 4 * image[1]), preset, plan)
        assert (sides.work, shape.sample) == (work, tile)
        grid = stage_grid(sides.padded, shape.sample, plan.sample)
        assert grid.sides == sides.padded and all(side % preset.multiple == 0 for side in sides.padded)


@pytest.mark.parametrize("case", ["hypir|resize", "osediff|colours", "osediff|prep", "s3diff|prep"])
def test_preparation_and_colours_agree(case: str) -> None:
    assert misses(GOLDEN, f"onestep_small:{case}") == []


@pytest.mark.slow
@pytest.mark.parametrize("case", ["hypir|enhance_*", "osediff|odd", "osediff|tiled", "s3diff|run", "invsr"])
def test_methods_agree(case: str) -> None:
    """The whole way of HYPIR, odd latents and tiles of OSEDiff, the modulated networks of S3Diff, InvSR."""
    assert misses(GOLDEN, f"onestep_small:{case}") == []


def test_the_degradation_is_estimated_as_published() -> None:
    assert misses(GOLDEN, "onestep_small:s3diff|degrees") == []


@pytest.mark.slow
def test_memory_and_effort_are_those_of_the_programs() -> None:
    """The planner traces the same programs that the run compiles: nothing is compiled in between."""
    run = restorer("s3diff")
    plan = default_plan(run.preset, ONCE)
    executor = Executor(run, run.programs, plan, Wanted(ONCE))
    _, shape = measure((20, 30), (40, 60), run.preset, plan)
    assert all(analyse(executor, stage, shape) > 0 for stage in ("encode", "sample", "decode"))
    known = set(run.programs.known)
    run.restore_one(picture(20, 30), 2.0, ONCE)
    # The estimator sees images of any size and is no part of a plan.
    assert len(set(run.programs.known) - known) <= 1
