"""Stage 1 in tiles, of small images, and left out."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from diffbir_jax.imaging.bytes import enlarge, to_float
from diffbir_jax.imaging.resize import resize
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.plan import StagePlan
from diffbir_jax.restoration.restorer import Restorer
from tests import route
from tests.micro import MICRO, micro, picture, random_params
from tests.restoration.test_packing import deep, images, make_plan, psnr, requests

SCALED = dataclasses.replace(
    MICRO, rm=BSRNetConfig(num_feat=8, num_blocks=1, growth=4, scale=2), padding="constant"
)


@pytest.mark.parametrize(
    "preset", [MICRO, dataclasses.replace(MICRO, padding="constant"), SCALED], ids=["edge", "constant", "x2"]
)
@pytest.mark.parametrize("upscale", [1.0, 2.0])
def test_stage_1_sees_tiles_as_the_whole_image(preset: Preset, upscale: float) -> None:
    """Also of a module that enlarges by itself, which makes a larger image than asked for at an upscale of 1."""
    restorer = Restorer(preset, random_params(preset))
    size = (round(70 / upscale), round(90 / upscale))
    (request,) = deep(requests([size]))
    plan = dataclasses.replace(make_plan(), rm=StagePlan(32 if preset is SCALED else 64, 16, 4))
    (found,) = images([request], plan=plan, restorer=restorer, upscale=upscale, stage1_only=True)
    given = enlarge(request.image, upscale) if preset is not SCALED else request.image
    expected = resize(route.stage1(restorer, to_float(given)), (70, 90))
    assert found.shape == expected.shape[1:]
    assert psnr(found, 65535 * np.asarray(expected[0]).clip(0, 1)) > 50


def test_small_images_are_enlarged_before_stage_1() -> None:
    """And made small again behind it."""
    (request,) = deep(requests([(20, 40)]))
    (found,) = images([request], stage1_only=True)
    expected = np.asarray(resize(route.stage1(micro(), resize(to_float(request.image), (24, 48))), (20, 40)))[
        0
    ]
    assert psnr(found, 65535 * expected.clip(0, 1)) > 60


@pytest.mark.parametrize("rm", [None, MICRO.rm], ids=["none", "ready-made"])
def test_stage_1_can_be_left_out(rm: Any) -> None:
    """Of a preset without it the result is the input, enlarged; what is ready-made takes its place, resized."""
    restorer = Restorer(dataclasses.replace(MICRO, rm=rm), {"rm": {}})
    image, made = picture(70, 90, 1), picture(35, 45, 2)
    request = Request(image, clean=made if rm else None)
    (found,) = images([request], restorer=restorer, stage1_only=True)
    expected = 255 * np.asarray(resize(to_float(made if rm else image), (70, 90)))[0].clip(0, 1)
    assert np.abs(found - expected).max() <= 0.5 + 1e-3
