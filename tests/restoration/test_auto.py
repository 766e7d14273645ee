"""What --auto does with a photo: the table, row by row."""

import pytest

from diffbir_jax.restoration.auto import Choice, choose, told_as
from diffbir_jax.restoration.estimate import Estimate

CLEAN = Estimate(blur=0.3, noise=0.5, quality=100, scale=1.0)


def test_a_clean_photo_is_left_alone_at_its_own_size_only():
    assert choose(CLEAN, 1.0).alone
    assert str(choose(CLEAN, 2.0)) == "default settings (as for any photo at upscale 2)"


def photo(**degraded: float) -> Estimate:
    return Estimate(**{"blur": 0.3, "noise": 0.5, "quality": 100.0, "scale": 1.0} | degraded)


@pytest.mark.parametrize("degraded", [{"noise": 6.0}, {"quality": 60.0}])
def test_noise_or_jpeg_is_enough_for_a_restoration(degraded: dict[str, float]):
    assert choose(photo(**degraded), 1.0) == Choice()


def test_a_soft_photo_is_clean():
    assert choose(photo(blur=1.5, quality=95), 1.0).alone


def test_strong_noise_brings_no_texture_back():
    assert choose(photo(noise=20), 1.0).options == {"texture": 0.0}
    assert choose(photo(noise=20), 4.0).options == {}


@pytest.mark.parametrize(
    ("upscale", "scale", "detail"), [(1, 2, 0.58), (1, 4, 1.0), (2, 2, 1.0), (1, 3, 0.82)]
)
def test_a_photo_that_was_enlarged_gets_the_detail_of_the_whole_enlargement(
    upscale: float, scale: float, detail: float
):
    found = choose(photo(scale=scale), upscale)
    assert found.options == {"detail": detail}
    assert not found.alone


def test_at_the_largest_upscale_there_is_all_detail_already():
    assert choose(photo(scale=2), 4.0).options == {}


def test_estimates_are_told_in_words():
    assert told_as(CLEAN) == "blur 0.3, noise 0.5, no JPEG, scale 1.0"
    assert told_as(Estimate(1, 2, 71.6, 3)) == "blur 1.0, noise 2.0, JPEG 72, scale 3.0"
