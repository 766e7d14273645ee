"""NIQE against values of BasicSR 1.4.2.

`python -m benchmarks.metrics --basicsr ARCHIVE --golden tests/metrics/basicsr.npz` wrote them by running BasicSR's
`calculate_niqe` on the pictures of pictures.py: "niqe" as it is, "exact" with its half-size image computed in double
precision and rounded to single. As it is, that image carries errors of single precision that depend on the processor's
vector units: they moved BasicSR's own values by up to 2e-3 between two of them on one machine.
"""

from pathlib import Path

import numpy as np
import pytest
from skimage import data

from diffbir_jax.metrics.niqe import niqe
from tests.metrics.pictures import ASTRONAUT, PICTURES, softened, with_noise

GOLDEN = np.load(Path(__file__).with_name("basicsr.npz"))
CASES = [key.rsplit("|", 1)[0] for key in GOLDEN if key.endswith("|exact")]


@pytest.mark.parametrize("case", CASES)
def test_equals_basicsr(case):
    name, convert_to, crop = case.split("|")
    found = niqe(PICTURES[name], crop=int(crop), convert_to=convert_to)
    assert found == pytest.approx(GOLDEN[f"{case}|exact"], abs=1e-5)
    assert found == pytest.approx(GOLDEN[f"{case}|niqe"], rel=1e-4)


def test_there_are_cases():
    assert len(CASES) == 2 * len(PICTURES)


def test_degradations_are_less_natural():
    assert niqe(softened(ASTRONAUT)) > niqe(ASTRONAUT) + 1
    assert niqe(with_noise(ASTRONAUT, 15)) > niqe(ASTRONAUT) + 1


def test_floats_are_the_same_image():
    image = data.chelsea()
    assert niqe(image / 255) == niqe(image)


def test_what_fills_no_block_does_not_count():
    image = data.chelsea()[:192, :288]
    assert niqe(np.pad(image, ((0, 95), (0, 40), (0, 0)))) == niqe(image)


def test_errors_say_what_is_wrong():
    image = data.chelsea()
    with pytest.raises(ValueError, match="at least 96x192; with crop=10 the image has 96x180"):
        niqe(image[:116, :200], crop=10)
    with pytest.raises(ValueError, match="of 9 blocks 0 are not"):
        niqe(np.full((300, 300, 3), 128, np.uint8))
    with pytest.raises(ValueError, match=r"\(300, 451, 2\)"):
        niqe(image[..., :2])
    with pytest.raises(ValueError, match="'rgb'; use 'y' or 'gray'"):
        niqe(image, convert_to="rgb")
    with pytest.raises(ValueError, match="crop=150"):
        niqe(image, crop=150)
