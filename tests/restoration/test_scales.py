"""Upscales that the networks were not trained for: worked at the nearest one, and the result resized."""

import dataclasses
import warnings

import numpy as np
import pytest

from diffbir_jax.imaging.canvas import resize_float
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.presets import PRESETS, REALESRGAN, Preset
from diffbir_jax.restoration import planner
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.geometry import measure
from diffbir_jax.restoration.plan import Plan, StagePlan
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted
from tests.micro import FEW, MICRO, micro, picture, random_params
from tests.route import stage1

PLAN = Plan(*[StagePlan(64, 32, 4)] * 4)
RANGED = dataclasses.replace(MICRO, scales=(1.0, 2.0))
RRDB = BSRNetConfig(num_feat=8, num_blocks=1, growth=4)
ENLARGING = dataclasses.replace(REALESRGAN, rm=RRDB)


def enlarging(preset: Preset = ENLARGING) -> Restorer:
    return Restorer(preset, random_params(preset, modules=["rm"]))


@pytest.mark.parametrize("upscale, factor", [(0.5, 1), (1, 1), (1.5, 1.5), (2, 2), (8, 2)])
def test_sides(upscale: float, factor: float) -> None:
    """An odd side is rounded once."""
    image, output = (40, 61), (round(40 * upscale), round(61 * upscale))
    sides, _ = measure(image, output, RANGED, PLAN)
    assert sides.output == output
    assert sides.trained == sides.work == sides.lq == (round(40 * factor), round(61 * factor))


@pytest.mark.parametrize("upscale, factor", [(1.4, 1.4), (1.5, 2), (1.7, 2), (2, 2), (4, 2)])
def test_from_an_upscale_on_results_are_reduced(upscale: float, factor: float) -> None:
    output = (round(40 * upscale), round(60 * upscale))
    sides, _ = measure((40, 60), output, dataclasses.replace(RANGED, reduced_from=1.5), PLAN)
    assert sides.output == output
    assert sides.trained == sides.work == (round(40 * factor), round(60 * factor))


def test_no_published_version_of_both_stages_has_a_range() -> None:
    """As in the reference."""
    assert all(PRESETS[name].scales is None for name in ("v1", "v2", "v2.1"))
    sides, _ = measure((64, 64), (512, 512), PRESETS["v2"], PLAN)
    assert (sides.work, sides.lq) == ((512, 512), (64, 64))


def test_above_the_range_the_result_of_its_end_is_enlarged() -> None:
    """Of both stages."""
    restorer = Restorer(dataclasses.replace(MICRO, scales=(0.5, 1.0)), micro().params)
    inside, above = (restorer.restore([picture(24, 24)], scale, FEW)[0] for scale in (1.0, 2.0))
    assert above.upscaled.shape == (48, 48, 3)
    for found, wanted in ((above.image, inside.image), (above.stage1, inside.stage1)):
        assert found.shape == (48, 48, 3)
        # What is enlarged here was rounded before.
        enlarged = resize_float(wanted.astype(np.float32), (48, 48)).clip(0, 255)
        assert np.abs(found - enlarged).max() <= 1.5


def test_what_a_preset_was_not_trained_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = Restorer(dataclasses.replace(MICRO, scales=(0.5, 1.0)), micro().params)
    monkeypatch.setitem(DEFAULTS, "micro", dataclasses.replace(FEW, steps=1))
    assert restorer.options(seed=3) == dataclasses.replace(FEW, steps=1, seed=3)
    with pytest.warns(UserWarning, match="up to 1; from there to 2 the result is only resized"):
        restorer.restore_many([], 2.0, restorer.options())
    with pytest.warns(UserWarning, match=r"trained for one step; 2 steps spoil images"):
        restorer.restore_many([], 1.0, FEW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restorer.restore_many([], 1.0, restorer.options())


def test_advice_below_the_trained_upscale_names_a_version_that_takes_the_options() -> None:
    restorer = Restorer(dataclasses.replace(MICRO, meant_from=3.0), micro().params)
    with pytest.warns(
        UserWarning, match="an upscale of 3 and more and spoils images at 2: take version one-step"
    ):
        restorer.restore_many([], 2.0, FEW)
    told = "3 and more and what down2 leaves open may look poor at 2: take version v2.1"
    with pytest.warns(UserWarning, match=told):
        restorer.restore_many([], 2.0, dataclasses.replace(FEW, operator="down2"))


def test_without_stage_1_the_range_holds_too() -> None:
    bare = dataclasses.replace(RANGED, rm=None)
    restorer = Restorer(bare, {})
    inside, above = (restorer.clean_one(picture(24, 20), scale).image for scale in (2.0, 4.0))
    assert np.abs(above - resize_float(inside.astype(np.float32), (96, 80)).clip(0, 255)).max() <= 1


@pytest.mark.parametrize("scales", [(4.0, 4.0), None])
@pytest.mark.parametrize("upscale", [1.0, 2.0, 3.3, 8.0])
def test_a_network_of_one_scale_works_at_it(upscale: float, scales: tuple[float, float] | None) -> None:
    """Its result is resized, reduced with antialiasing; it sees the image as it is.

    What a preset for this scale alone makes of it is the result at this scale, resized, which lies in [0, 1].
    """
    restorer, image = enlarging(dataclasses.replace(ENLARGING, scales=scales)), picture(24, 20)
    full = stage1(restorer, np.pad(image, ((0, 0), (0, 4), (0, 0)), "edge")[None].astype(np.float32) / 255)
    size = (round(24 * upscale), round(20 * upscale))
    wanted = resize_float(np.asarray(full)[0, :96, :80], size, clip=scales is not None).clip(0, 1)
    found = restorer.restore([image], upscale)[0]
    assert found.image.shape == found.upscaled.shape == (*size, 3)
    np.testing.assert_allclose(found.image, 255 * wanted, atol=0.51)
    if scales:
        shown = resize_float(restorer.restore([image], 4.0)[0].image.astype(np.float32), size).clip(0, 255)
        assert np.abs(found.image - shown).max() <= 1.5


def test_reducing_does_not_alias() -> None:
    """A flat image with noise of x4's pixels: its mean stays, its variance falls as an average's does."""
    noise = np.random.default_rng(0).random((64, 64, 1), np.float32)
    reduced = resize_float(noise, (16, 16))
    assert abs(reduced.mean() - noise.mean()) < 0.01
    assert reduced.std() < 0.4 * noise.std()


def test_the_enlarged_image_and_the_result_are_planned_for() -> None:
    """Both are larger than what a stage sees, on the host."""

    def host(preset: Preset, upscale: int) -> int:
        restorer = enlarging(preset) if preset.rm == RRDB else Restorer(preset, micro().params)
        executor = Executor(restorer, restorer.programs, PLAN, Wanted(FEW, keep=False, stage1_only=True))
        found = measure((256, 256), (256 * upscale, 256 * upscale), preset, PLAN)
        return planner._host(executor, *found)["rm"]

    for scales in ((4.0, 4.0), None):
        assert host(dataclasses.replace(ENLARGING, scales=scales), 1) > 6 * 16 * 256**2
    assert host(RANGED, 8) > 12 * 64 * 256**2
