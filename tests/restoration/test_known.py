"""Restoration of known degradations, end to end on random weights: results give their inputs again."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.filling import fill
from diffbir_jax.restoration import known
from diffbir_jax.restoration.pictures import take
from diffbir_jax.sampling.operators import Separable, parse
from diffbir_jax.sampling.options import Options
from tests.micro import FEW, micro, picture


def with_operator(words: str, **more) -> Options:
    return dataclasses.replace(FEW, operator=words, **more)


@pytest.mark.parametrize(
    "words",
    [*(pytest.param(words, marks=pytest.mark.slow) for words in ("down2", "blur:2")), "blur:1,down2", "gray"],
)
@pytest.mark.parametrize("method", ["project", pytest.param("gradient", marks=pytest.mark.slow)])
def test_results_give_their_inputs_again(words, method):
    """Within 0.1 %, on floats and for images of several sizes on one canvas."""
    spec, requests = parse(words), []
    for height, width in ((32, 40), (28, 36)):
        linear = Separable(spec, (height, width))
        y = linear(picture(height, width) / 255.0)
        requests.append((linear, np.float32(np.broadcast_to(y, (*y.shape[:2], 3)))))
    results = micro().restore(
        [y for _, y in requests], spec.scale, with_operator(words, operator_method=method)
    )
    for (linear, y), result in zip(requests, results, strict=True):
        assert result.image.shape == (*linear.sides, 3) and result.image.dtype == np.float32
        y = y[..., :1] if spec.gray else y
        assert np.abs(linear(np.float64(result.image)) - y).max() < 1e-3
        assert np.abs(result.image - linear.inverse(y)).max() > 0.01, "what y leaves open is generated"


def test_noisy_inputs_are_not_met_exactly():
    linear = Separable(parse("down2"), (32, 40))
    y = np.float32(linear(picture(32, 40) / 255.0))
    result = micro().restore(y, 2.0, with_operator("down2,noise:40"))
    assert np.abs(linear(np.float64(result.image)) - y).max() > 0.01


def test_the_gradient_comes_closer_with_every_step():
    """On noisy inputs, of which the last projection takes little."""
    linear = Separable(parse("down2"), (32, 40))
    y = np.float32(linear(picture(32, 40) / 255.0))

    def error(**more) -> float:
        options = with_operator("down2,noise:1", operator_method="gradient", **more)
        return float(np.abs(linear(np.float64(micro().restore(y, 2.0, options).image)) - y).mean())

    none, few, many = (error(operator_scale=float(n > 0), operator_repeats=max(n, 1)) for n in (0, 1, 10))
    assert many < few < none


def test_new_values_do_not_recompile(compilations: list[str]):
    """Another input, blur, noise, cutoff or number of repeats."""
    y = np.float32(picture(32, 40) / 255.0)
    micro().restore(y, 1.0, with_operator("blur:0.8", operator_method="gradient"))
    compilations.clear()
    more = {"operator_method": "gradient", "operator_scale": 0.5, "operator_repeats": 3, "seed": 4}
    micro().restore((y * 200).astype(np.uint8), 1.0, with_operator("blur:1.5,noise:2", **more))
    assert compilations == []


def test_inputs_that_do_not_fit():
    y = picture(32, 32)
    for words, upscale, told in (
        ("down2", 1.0, "makes 64x64 of 32x32, not 32x32; give `upscale` 2"),
        ("gray", 1.0, "this one has colours"),
    ):
        with pytest.raises(UserError, match=told):
            micro().restore(y, upscale, with_operator(words))
    with pytest.raises(UserError, match="enlarges it to at least 24"):
        micro().restore(picture(16, 16), 1.0, with_operator("blur:1"))


def test_rounding_of_bytes_hides_what_blur_leaves_little_of():
    options = with_operator("blur:1.5")
    says = [
        known.knowledge(image, options, (32, 32), 0.1)
        for image in (picture(32, 32), np.float32(picture(32, 32)))
    ]
    few, many = (int(each.measured.known.sum()) for each in says)
    least = float(says[0].measured.values[says[0].measured.known > 0].min())
    assert few < many and 50 / (255 * 12**0.5) <= least < 0.08


def test_holes_are_filled_from_around_them():
    image, mask = np.float32(picture(24, 30) / 255.0), np.ones((24, 30), bool)
    mask[3:15, 4:20] = False
    filled = fill(image, mask)
    np.testing.assert_array_equal(filled[mask], image[mask])
    flat = fill(np.where(mask[..., None], np.float32(0.25), np.float32(9)), mask)
    np.testing.assert_allclose(flat, 0.25, atol=1e-6)
    assert not fill(image, np.zeros((24, 30), bool)).any()


@pytest.mark.parametrize("words", ["blur:2", pytest.param("blur:1,down2", marks=pytest.mark.slow)])
def test_gray_given_as_rgb_stays_gray(words):
    """The last projection rounds channels apart; other callers of the restorer than `restore` see all three."""
    gray = np.repeat(picture(32, 40)[..., :1], 3, axis=-1)
    result = micro().restore(np.float32(gray / 255), parse(words).scale, with_operator(words)).image
    assert np.all(result[..., :1] == result) and result.std() > 0.01


@pytest.mark.parametrize("gray", [np.zeros((8, 8), np.uint8), Image.new("L", (8, 8))])
def test_gray_pictures_get_colours(gray):
    found = take(gray).like(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), coloured=True)
    assert np.asarray(found).shape == (8, 8, 3)
