"""How an image is cut by a plan, and which plans it cannot be cut by."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.restoration.autoencoder import detail_share
from diffbir_jax.restoration.geometry import measure
from diffbir_jax.restoration.plan import Plan, StagePlan
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sampling.guidance import fidelity_weight
from diffbir_jax.sampling.options import Options
from tests.micro import FEW, MICRO, micro, picture

PLAN = Plan(*[StagePlan(64, 32, 4)] * 4)


def test_sides_of_a_long_image() -> None:
    """Narrower than a tile along one axis: cut along the other alone."""
    sides, shape = measure((300, 20), (300, 20), MICRO, PLAN)
    assert sides.work == (360, 24) and sides.padded == (360, 24)
    assert shape.sample == shape.encode == shape.decode == (64, 24)
    assert shape.canvas == (384, 24)


@pytest.mark.parametrize(
    "stage, wrong", [("sample", (60, 20)), ("encode", (64, 64)), ("decode", (64, 30)), ("rm", (6, 2))]
)
def test_plans_that_cannot_be_cut(stage: str, wrong: tuple[int, int]) -> None:
    """Before anything is computed."""
    plan = dataclasses.replace(PLAN, **{stage: StagePlan(*wrong)})
    with pytest.raises(
        ValueError, match=rf"the plan has tiles of {wrong[0]} that overlap by {wrong[1]} for {stage}"
    ):
        micro().restore_many([], plan=plan)


def test_what_has_no_colour_stays_so() -> None:
    """Networks of random weights colour whatever they see."""
    gray = picture(24, 24)[..., :1].repeat(3, axis=-1)
    coloured = gray.copy()
    coloured[0, 0] = (200, 10, 10)
    for image, same in ((gray, True), (coloured, False)):
        restored = micro().restore([image], upscale=1.0, options=FEW)[0]
        for found in (restored.image, restored.stage1):
            assert np.all(found[..., :2] == found[..., 1:]) == same


def test_detail_goes_from_stage_1_to_the_whole_result() -> None:
    """0 is stage 1, 1 the result, and what lies between lies between: less in flat regions."""
    image = picture(24, 24)
    whole, some, none = (
        micro().restore([image], options=dataclasses.replace(FEW, detail=detail))[0]
        for detail in (1.0, 0.5, 0.0)
    )
    np.testing.assert_array_equal(none.image, none.stage1)
    np.testing.assert_array_equal(whole.image, micro().restore([image], options=FEW)[0].image)
    parts = [np.abs(x.image.astype(int) - x.stage1).mean() for x in (none, some, whole)]
    assert 0 == parts[0] < parts[1] <= 0.51 * parts[2]


@pytest.mark.slow
def test_a_gain_multiplies_the_detail() -> None:
    image = picture(24, 24, 1).astype(np.float32) / 255
    more = Restorer(dataclasses.replace(MICRO, detail_gain=1.5), micro().params)
    for detail in (None, 0.5):
        options = dataclasses.replace(FEW, detail=detail)
        plain, strong = (which.restore_one(image, 1.0, options) for which in (micro(), more))
        expected = plain.stage1 + 1.5 * (plain.image - plain.stage1)
        np.testing.assert_allclose(strong.image, expected, atol=1e-5)
        assert np.abs(strong.image - plain.image).max() > 1e-2


def test_detail_share_is_between_itself_and_its_square() -> None:
    clean = jnp.asarray(picture(24, 24)[None], jnp.float32) / 255
    share = np.asarray(detail_share(clean, jnp.array([0.5])))
    weight = np.asarray(fidelity_weight(2 * clean - 1))
    np.testing.assert_allclose(share, 0.5 * (1 - weight) + 0.25 * weight, atol=1e-6)
    for end in (0.0, 1.0):
        np.testing.assert_allclose(detail_share(clean, jnp.array([end])), end, atol=1e-7)


def test_detail_by_default_rises_with_the_upscale() -> None:
    preset = dataclasses.replace(MICRO, all_detail_from=4.0)
    assert [preset.detail(x) for x in (0.5, 1.0, 2.5, 4.0, 8.0)] == [0.0, 0.0, 0.5**0.5, 1.0, 1.0]
    assert MICRO.detail(1.0) == 1.0


def test_noise_of_the_start_can_be_left_out() -> None:
    """Then seeds make no difference, where a single step draws no other noise."""
    image = picture(24, 24)

    def result(noise: float, seed: int) -> np.ndarray:
        options = Options(steps=1, start=0.5, start_noise=noise, seed=seed)
        return micro().restore([image], options=options)[0].image

    np.testing.assert_array_equal(result(0.0, 1), result(0.0, 2))
    assert np.any(result(0.5, 1) != result(0.5, 2))
